"""Values of tensor expressions: one small function for each kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from genomes import Genome, expand
from genomes.operations import BatchNorm
from morphism import tensors as exprs
from morphism.errors import Inapplicable
from morphism.tensors import Gather, TensorExpr

SMALLEST_SHARE = 0.25  # of the draws of a split, relative to the largest
SMALLEST_FACTOR = 0.1  # of a row of a first factor, relative to the mean


@dataclass(frozen=True)
class Origin:
    """What expressions are computed from.

    Attributes:
        weights: the parent's tensors.
        donor: the second parent's.
        child: the genome that the tensors are for.
        measured: by path of a norm, the values `[N, C, ...]` that it reads.
    """

    weights: Mapping[str, Tensor]
    donor: Mapping[str, Tensor]
    child: Genome
    measured: dict[str, Tensor] = field(default_factory=dict)

    @property
    def like(self) -> Tensor:
        """A tensor with the dtype and on the device of all."""
        return next(iter(self.weights.values()), torch.empty(0))


def value(expression: TensorExpr, origin: Origin) -> Tensor:
    """Returns the tensor that an expression describes.

    Raises:
        Inapplicable: a source is missing, or the parts do not fit.
    """
    return VALUES[type(expression)](expression, origin)


def _source(e: exprs.Source, origin: Origin) -> Tensor:
    found = origin.donor if e.donor else origin.weights
    if e.name not in found:
        raise Inapplicable(
            f"the {'donor' if e.donor else 'parent'} must have a tensor {e.name}, it has {len(found)} others"
        )
    return found[e.name]


def _gather(e: Gather, origin: Origin) -> Tensor:
    of = value(e.of, origin)
    if e.axis >= of.dim() or not e.index or of.shape[0] % e.groups or len(e.index) % e.groups:
        place = f"axis {e.axis} of {list(of.shape)} and its {len(e.index)} indices"
        raise Inapplicable(f"a gather needs {place} to exist and to be divided by {e.groups} groups")
    generator, width = _generator(e.seed), len(e.index) // e.groups
    deviation = _deviation(of) if e.new in ("random", "opposite") and min(e.index) < 0 else float(e.new == "one")
    parts = of.chunk(e.groups) if e.groups > 1 else (of,)
    indices = [e.index[i : i + width] for i in range(0, len(e.index), width or 1)]
    made = [_part(e, part, index, deviation, generator) for part, index in zip(parts, indices, strict=True)]
    return torch.cat(made) if e.groups > 1 else made[0]


def _part(e: Gather, of: Tensor, index: Sequence[int], fill: float, generator: torch.Generator) -> Tensor:
    old = _positions([max(i, 0) for i in index], of)
    new, partners = ([k for k, i in enumerate(index) if i == mark] for mark in (-1, -2))
    if int(old.max()) >= of.shape[e.axis] or len(partners) > len(new):
        raise Inapplicable(
            f"an index must be below the {of.shape[e.axis]} slices of axis {e.axis}, and a partner have its new slice, "
            f"got {int(old.max())}, {len(new)} new ones and {len(partners)} partners"
        )
    made = of.index_select(e.axis, old)
    if e.share != "copy":
        _share(made, of, e, index, generator)
    if new:
        shape = [len(new) if axis == e.axis else extent for axis, extent in enumerate(made.shape)]
        drawn = e.new in ("random", "opposite")
        slices = _normal(shape, generator).to(of) * fill if drawn else of.new_full(shape, fill)
        made.index_copy_(e.axis, _positions(new, of), slices)
        if partners:
            twins = slices.narrow(e.axis, 0, len(partners))
            made.index_copy_(e.axis, _positions(partners, of), -twins if e.new == "opposite" else twins)
    return made


def _share(made: Tensor, of: Tensor, e: Gather, index: Sequence[int], generator: torch.Generator) -> None:
    """Turns copies of a slice into parts of it, in place, whose sum is the whole.

    All slices that have as many copies are one tensor: slice by slice it takes twice as long.
    """
    copies: dict[int, list[int]] = {}
    for position, source in enumerate(index):
        if source >= 0:
            copies.setdefault(source, []).append(position)
    for count in sorted({len(positions) for positions in copies.values()} - {1}):
        shared = {source: positions for source, positions in copies.items() if len(positions) == count}
        whole = of.index_select(e.axis, _positions(list(shared), of))
        parts = _parts(whole, count, generator) if e.share == "split" else [whole / count] * count
        for part, positions in zip(parts, zip(*shared.values(), strict=True), strict=True):
            made.index_copy_(e.axis, _positions(positions, of), part)


def _parts(whole: Tensor, count: int, generator: torch.Generator) -> list[Tensor]:
    """Returns random parts that sum to the whole; the last is the rest."""
    draws = torch.rand((count, *whole.shape), generator=generator, dtype=torch.float64)
    draws = SMALLEST_SHARE + (1 - SMALLEST_SHARE) * draws
    parts = whole * (draws / draws.sum(0))[:-1].to(whole)
    return [*parts, whole - parts.sum(0)]


def _one_part(e: exprs.Part, origin: Origin) -> Tensor:
    if e.number >= e.count:
        raise Inapplicable(f"a part's number must be below the {e.count} parts, got {e.number}")
    return _parts(value(e.of, origin), e.count, _generator(e.seed))[e.number]


def _crop(e: exprs.Crop, origin: Origin) -> Tensor:
    of = value(e.of, origin)
    inner = [slice(e.margin, extent - e.margin) for extent in of.shape[-2:]]
    return of[..., inner[0], inner[1]].contiguous()


def _spread(e: exprs.Spread, origin: Origin) -> Tensor:
    of = value(e.of, origin)
    made = of.new_zeros(*of.shape[:-2], *(e.step * (extent - 1) + 1 for extent in of.shape[-2:]))
    made[..., :: e.step, :: e.step] = of
    return made


def _dense(e: exprs.Dense, origin: Origin) -> Tensor:
    of = value(e.of, origin)
    if of.shape[0] % e.groups:
        raise Inapplicable(f"{e.groups} groups must divide the {of.shape[0]} channels of a grouped convolution")
    rows, columns = of.shape[0] // e.groups, of.shape[1]
    made = of.new_zeros(of.shape[0], columns * e.groups, *of.shape[2:])
    for group in range(e.groups):
        band = slice(group * rows, (group + 1) * rows)
        made[band, group * columns : (group + 1) * columns] = of[band]
    return made


def _merged(e: exprs.Merged, origin: Origin) -> Tensor:
    of = value(e.of, origin)
    length = of.shape[e.axis] * e.groups
    if len(e.index) != length or of.shape[0] % e.groups:
        raise Inapplicable(f"a merge needs {length} indices for axis {e.axis} and whole groups, got {len(e.index)}")
    count, width = 1 + max(e.index), of.shape[e.axis]
    made = []
    for group, part in enumerate(of.chunk(e.groups)):
        # what is left out is summed in a slice of its own
        index = [i if i >= 0 else count for i in e.index[group * width : (group + 1) * width]]
        shape = [count + 1 if axis == e.axis else extent for axis, extent in enumerate(part.shape)]
        summed = part.new_zeros(shape).index_add_(e.axis, _positions(index, of), part)
        made.append(summed.narrow(e.axis, 0, count))
    return torch.cat(made)


def _factored(e: exprs.Factored, origin: Origin) -> Tensor:
    of = value(e.of, origin)
    left, sizes, right = torch.linalg.svd(of.flatten(1).double(), full_matrices=False)
    # what has no size stays zero in the second factor alone: with two zeros in series it would never learn
    root = sizes.sqrt().clamp_min(SMALLEST_FACTOR * float(sizes.sqrt().mean()) or 1.0)
    if e.factor == "first":
        made = (root[:, None] * right).reshape(-1, *of.shape[1:])
    else:
        made = (left * (sizes / root)).reshape(of.shape[0], -1, *[1] * (of.dim() - 2))
    return cast("Tensor", made.to(of))


def _separated(e: exprs.Separated, origin: Origin) -> Tensor:
    of = value(e.of, origin)
    left, sizes, right = torch.linalg.svd(of.flatten(2).transpose(0, 1).double(), full_matrices=False)
    root = sizes[:, :1].sqrt()
    if e.factor == "first":
        made = (root * right[:, 0]).reshape(-1, 1, *of.shape[2:])
    else:
        made = (left[:, :, 0] * root).T.reshape(of.shape[0], -1, 1, 1)
    return cast("Tensor", made.to(of))


def _measured(e: exprs.Measured, origin: Origin) -> Tensor:
    norm = expand(origin.child).primitives[e.norm]
    assert isinstance(norm.operation, BatchNorm)
    seen = origin.measured.get(e.norm)
    if seen is None or seen.shape[1] != e.channels:
        mean, variance = torch.zeros(e.channels), torch.ones(e.channels)
    else:
        axes = [axis for axis in range(seen.dim()) if axis != 1]
        mean, variance = seen.mean(axes), seen.var(axes, correction=0)
    found = {"mean": mean, "variance": variance, "deviation": (variance.double() + norm.operation.eps).sqrt()}
    return found[e.statistic].to(origin.like)


def _ranked(e: exprs.Ranked, origin: Origin) -> Tensor:
    of, by = value(e.of, origin), value(e.by, origin)
    if len(e.members) != of.shape[e.axis] or max(e.members) >= len(by) or e.keep > len(by):
        raise Inapplicable(f"a ranking needs a member below {len(by)} for each of {of.shape[e.axis]} slices")
    kept = {-1, *by.abs().argsort(descending=True, stable=True)[: e.keep].tolist()}
    return of.index_select(e.axis, _positions([k for k, member in enumerate(e.members) if member in kept], of))


def _difference(e: exprs.Difference, origin: Origin) -> Tensor:
    of, less = value(e.of, origin), value(e.less, origin)
    if of.shape != less.shape:
        raise Inapplicable(f"a difference needs one shape, got {list(of.shape)} and {list(less.shape)}")
    return of - less


def _folded(e: exprs.Folded, origin: Origin) -> Tensor:
    of, gamma, variance = (value(each, origin) for each in (e.of, e.gamma, e.variance))
    scale = (gamma.double() / (variance.double() + e.eps).sqrt()).reshape(-1, *[1] * (of.dim() - 1))
    return (of.double() * scale).to(of)


def _noise(e: exprs.Noise, origin: Origin) -> Tensor:
    of = value(e.of, origin)
    return of + (_normal(of.shape, _generator(e.seed)) * (e.deviation * _deviation(of))).to(of)


def _dirac(e: exprs.Dirac, origin: Origin) -> Tensor:
    made = origin.like.new_zeros(e.shape)
    centre = made
    for extent in e.shape[2:]:
        centre = centre.select(2, extent // 2)
    centre.fill_diagonal_(1)
    return made


def _random(e: exprs.Random, origin: Origin) -> Tensor:
    return (_normal(e.shape, _generator(e.seed)) * e.deviation).to(origin.like)


def _deviation(of: Tensor) -> float:
    measured = torch.linalg.vector_norm(of, dtype=torch.float64).item() / math.sqrt(max(1, of.numel()))
    return measured or math.sqrt(2 / max(1, math.prod(of.shape[1:])))


def _positions(index: Sequence[int], of: Tensor) -> Tensor:
    return torch.tensor(index, dtype=torch.long, device=of.device)


def _normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    # always drawn in float32: the same numbers in every dtype, four times as fast as in float64
    return torch.randn(list(shape), generator=generator, dtype=torch.float32)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


VALUES: Mapping[type[TensorExpr], Callable[[Any, Origin], Tensor]] = {
    exprs.Source: _source,
    exprs.Gather: _gather,
    exprs.Pad: lambda e, origin: torch.nn.functional.pad(value(e.of, origin), [e.margin] * 4),
    exprs.Crop: _crop,
    exprs.Spread: _spread,
    exprs.Strided: lambda e, origin: value(e.of, origin)[..., :: e.step, :: e.step].contiguous(),
    exprs.Stacked: lambda e, origin: torch.cat([value(e.of, origin), value(e.other, origin)], e.axis),
    exprs.Dense: _dense,
    exprs.Part: _one_part,
    exprs.Merged: _merged,
    exprs.Factored: _factored,
    exprs.Separated: _separated,
    exprs.Measured: _measured,
    exprs.Ranked: _ranked,
    exprs.Difference: _difference,
    exprs.Folded: _folded,
    exprs.Times: lambda e, origin: value(e.of, origin) * e.factor,
    exprs.Noise: _noise,
    exprs.Constant: lambda e, origin: origin.like.new_full(e.shape, e.value),
    exprs.Dirac: _dirac,
    exprs.Random: _random,
}
