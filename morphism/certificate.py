"""Certificate: the static and the measured proof that an applied edit kept the function."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from genomes import Genome, expand
from genomes.operations import Input
from morphism.algebra import simplified, vanishes
from morphism.edit import EXACT, Edit
from morphism.errors import Inapplicable
from morphism.proof import proves

if TYPE_CHECKING:
    from torch import Tensor

PROBES = 4  # images
TOLERANCES = {"eval": 1e-12, "train": 1e-10}  # batch statistics of an almost dead channel amplify by up to 1/√ε
TYPES: Mapping[str, type] = {
    **dict.fromkeys(("rule", "parent", "child", "edit"), str),
    **{"modes": list, "errors": dict, "proved": list, "seed": int, "verdict": bool},
}
ROUNDING = 16  # units in the last place between a child tensor and its value in float64


@dataclass(frozen=True)
class Certificate:
    """What was measured and proven when an edit was applied.

    Attributes:
        rule: of the edit.
        parent: digest of the parent genome.
        child: digest of the child genome.
        edit: digest of the edit's JSON.
        modes: the modes that the edit claims, sorted; empty for a disruption.
        errors: by claimed mode (`eval`, `train`), the largest output difference over the largest parent output, in
            float64; the largest float if an output is not finite.
        proved: the claimed modes that are proven from the expressions alone, whatever the weights are, sorted.
        seed: of the probes.
        verdict: whether each claimed mode is proven and within its tolerance, and the child's tensors are what the edit
            says. A disruption, which claims no mode, needs only the latter; an edit that is exact only where the
            parent has zeros (`Edit.zeros`) needs no proof, because that is a fact about the weights.
    """

    rule: str
    parent: str
    child: str
    edit: str
    modes: tuple[str, ...]
    errors: Mapping[str, float]
    proved: tuple[str, ...]
    seed: int
    verdict: bool

    def to_json(self) -> dict[str, Any]:
        """Returns the certificate as JSON values."""
        return {**asdict(self), "modes": list(self.modes), "errors": dict(self.errors), "proved": list(self.proved)}

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
        modes, errors, proved = document["modes"], document["errors"], document["proved"]
        every = [*modes, *errors, *proved]
        if any(mode not in sorted(EXACT) for mode in every):
            raise Inapplicable(f"certificate modes must be among {sorted(EXACT)}, got {str(every)[:60]}")
        if not all(type(error) is float for error in errors.values()):
            raise Inapplicable(f"certificate errors must be numbers, got {str(errors)[:60]}")
        return cls(**{**document, "modes": tuple(modes), "proved": tuple(proved)})


def certify(
    parent: Genome,
    edit: Edit,
    weights: Mapping[str, Tensor],
    child_weights: Mapping[str, Tensor],
    seed: int,
    donor: Mapping[str, Tensor] | None = None,
    batch: Tensor | None = None,
) -> Certificate:
    """Proves that an edit keeps the function, and measures it in float64 on the CPU, on seeded normal probes.

    The edit is realised anew on the parent's weights in float64, because parts that sum to the whole do so only to
    the last place of their dtype; that the child's tensors are these values, rounded, is checked beside it.

    Args:
        parent: the genome before the edit.
        edit: what was done.
        weights: the parent's tensors.
        child_weights: the child's tensors as they will be trained, in any floating dtype.
        seed: of the probes.
        donor: the second parent's tensors, as for `realise`.
        batch: the training examples that statistics were measured on, as for `realise`.
    """
    import torch

    from morphism.interpreter import run
    from morphism.realise import realise

    before, given = _precise(weights), _precise(donor or {})
    after = realise(edit, before, donor=given, batch=batch)
    images = _probes(parent, seed)
    errors = {}
    for mode in sorted(edit.modes):
        with torch.no_grad():
            wanted, got = (run(g, w, images, mode == "train") for g, w in ((parent, before), (edit.genome, after)))
        errors[mode] = relative_error(wanted, got)
    modes = tuple(sorted(edit.modes))
    proved = tuple(mode for mode in modes if proves(parent, edit, mode))
    kept = all(errors[mode] <= TOLERANCES[mode] for mode in modes) and (proved == modes or _conditional(edit))
    verdict = kept and _agree(after, child_weights)
    digests = (parent.digest, edit.genome.digest, edit.digest)
    return Certificate(edit.rule, *digests, modes, errors, proved, seed, verdict)


def _conditional(edit: Edit) -> bool:
    """Says whether an edit is exact only if something of the parent's weights is zero."""
    return not all(vanishes(simplified(value)) for value in edit.zeros)


def _precise(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    import torch

    return {name: tensor.detach().to("cpu", torch.float64) for name, tensor in weights.items()}


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
