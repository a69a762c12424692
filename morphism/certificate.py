"""Certificate: the measured proof that an applied edit kept the function."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from genomes import Genome, expand
from genomes.operations import Input
from morphism.edit import EXACT, Edit
from morphism.errors import Inapplicable

if TYPE_CHECKING:
    from torch import Tensor

PROBES = 4  # images
TOLERANCES = {"eval": 1e-12, "train": 1e-10}  # batch statistics of an almost dead channel amplify by up to 1/√ε
TYPES: Mapping[str, type] = {
    **dict.fromkeys(("rule", "parent", "child", "edit"), str),
    **{"modes": list, "errors": dict, "seed": int, "verdict": bool},
}
ROUNDING = 16  # units in the last place between a child tensor and its value in float64


@dataclass(frozen=True)
class Certificate:
    """What was measured when an edit was applied.

    Attributes:
        rule: of the edit.
        parent: digest of the parent genome.
        child: digest of the child genome.
        edit: digest of the edit's JSON.
        modes: the modes that the edit claims, sorted; empty for a disruption.
        errors: by claimed mode (`eval`, `train`), the largest output difference over the largest parent output, in
            float64; the largest float if an output is not finite.
        seed: of the probes.
        verdict: whether each claimed mode is within its tolerance and the child's tensors are what the edit says; a
            disruption, which claims no mode, needs only the latter.
    """

    rule: str
    parent: str
    child: str
    edit: str
    modes: tuple[str, ...]
    errors: Mapping[str, float]
    seed: int
    verdict: bool

    def to_json(self) -> dict[str, Any]:
        """Returns the certificate as JSON values."""
        return {**asdict(self), "modes": list(self.modes), "errors": dict(self.errors)}

    @classmethod
    def from_json(cls, document: Any) -> Certificate:
        """Reads what `to_json` wrote.

        Raises:
            Inapplicable: a field is missing, unknown or of the wrong type.
        """
        if not isinstance(document, dict) or set(document) != set(TYPES):
            raise Inapplicable(f"a certificate has the fields {', '.join(TYPES)}, got {str(document)[:80]}")
        for name, kind in TYPES.items():
            if type(document[name]) is not kind:
                raise Inapplicable(f"certificate {name} must be {kind.__name__}, got {str(document[name])[:60]}")
        modes, errors = document["modes"], document["errors"]
        if any(mode not in sorted(EXACT) for mode in [*modes, *errors]):
            raise Inapplicable(f"certificate modes must be among {sorted(EXACT)}, got {str([*modes, *errors])[:60]}")
        if not all(type(error) is float for error in errors.values()):
            raise Inapplicable(f"certificate errors must be numbers, got {str(errors)[:60]}")
        return cls(**{**document, "modes": tuple(modes)})


def certify(
    parent: Genome, edit: Edit, weights: Mapping[str, Tensor], child_weights: Mapping[str, Tensor], seed: int
) -> Certificate:
    """Measures whether an edit keeps the function, in float64 on the CPU, on seeded normal probes.

    The edit is realised anew on the parent's weights in float64, because parts that sum to the whole do so only to
    the last place of their dtype; that the child's tensors are these values, rounded, is checked beside it.

    Args:
        parent: the genome before the edit.
        edit: what was done.
        weights: the parent's tensors.
        child_weights: the child's tensors as they will be trained, in any floating dtype.
        seed: of the probes.
    """
    import torch

    from morphism.interpreter import run
    from morphism.realise import realise

    before = {name: tensor.detach().to("cpu", torch.float64) for name, tensor in weights.items()}
    after = realise(edit, before)
    images = _probes(parent, seed)
    errors = {}
    for mode in sorted(edit.modes):
        with torch.no_grad():
            wanted, got = (run(g, w, images, mode == "train") for g, w in ((parent, before), (edit.genome, after)))
        errors[mode] = relative_error(wanted, got)
    verdict = _agree(after, child_weights) and all(errors[mode] <= TOLERANCES[mode] for mode in errors)
    digests = (parent.digest, edit.genome.digest, edit.digest)
    return Certificate(edit.rule, *digests, tuple(sorted(edit.modes)), errors, seed, verdict)


def relative_error(wanted: Tensor, got: Tensor) -> float:
    """Returns max |got - wanted| / max |wanted|; the largest float if that is not a finite number."""
    if wanted.shape != got.shape:
        return sys.float_info.max
    difference, size = (got - wanted).abs().max().item(), wanted.abs().max().item()
    error = difference / size if size else (0.0 if difference == 0 else math.inf)
    return error if math.isfinite(error) else sys.float_info.max


def _agree(exact: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> bool:
    import torch

    if set(exact) != set(given):
        return False
    return all(
        relative_error(exact[name], tensor.detach().to("cpu", torch.float64))
        <= ROUNDING * torch.finfo(tensor.dtype).eps
        for name, tensor in given.items()
    )


def _probes(genome: Genome, seed: int) -> Tensor:
    import torch

    shape = next(p.shape for p in expand(genome).primitives.values() if isinstance(p.operation, Input))
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((PROBES, *shape), generator=generator, dtype=torch.float64)
