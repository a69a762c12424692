"""Realises edits: computes the child's tensors from the parent's. The only code that touches inherited tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from genomes import Genome, expand
from morphism.edit import Edit
from morphism.errors import Inapplicable
from morphism.fresh import fresh
from morphism.tensors import Constant, Dirac, Gather, Pad, Random, Source, TensorExpr, Times

SMALLEST_SHARE = 0.25  # of the draws of a split, relative to the largest


def realise(edit: Edit, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the child's tensors by name, with the dtype and on the device of the parent's `weights`.

    Tensors that the edit does not touch are the same objects: clone before training.

    Raises:
        Inapplicable: a source is not among `weights`, or a tensor has not the shape that the child genome asks for.
    """
    like = next(iter(weights.values()), torch.empty(0))
    shapes = expand(edit.genome).tensor_shapes()
    if unknown := sorted(set(edit.tensors) - set(shapes)):
        raise Inapplicable(f"{edit.rule}: the child genome has no tensor {', '.join(unknown)[:200]}")
    child = {}
    with torch.no_grad():
        for name, shape in shapes.items():
            expression = edit.tensors.get(name, Source(name))
            tensor = _value(expression, weights, like)
            if tuple(tensor.shape) != shape:
                raise Inapplicable(f"{edit.rule}: {name} must be {list(shape)}, got {list(tensor.shape)}")
            # under another name it is a second tensor, not the same one
            renamed = isinstance(expression, Source) and expression.name != name
            child[name] = tensor.clone() if renamed else tensor
    return child


def initial(genome: Genome, seed: int) -> dict[str, Tensor]:
    """Returns the tensors of a network that inherits nothing, in float32 on the CPU."""
    return realise(Edit("fresh", {}, genome, fresh(genome, seed)), {})


def _value(expression: TensorExpr, weights: Mapping[str, Tensor], like: Tensor) -> Tensor:
    match expression:
        case Source(name):
            return _source(name, weights)
        case Gather():
            return _gathered(expression, _value(expression.of, weights, like))
        case Pad(of, margin):
            return torch.nn.functional.pad(_value(of, weights, like), [margin] * 4)
        case Times(of, factor):
            return _value(of, weights, like) * factor
        case Constant(shape, value):
            return like.new_full(shape, value)
        case Dirac(shape):
            return _dirac(shape, like)
        case Random(shape, deviation, seed):
            return (_normal(shape, _generator(seed)) * deviation).to(like)
    raise Inapplicable(f"an expression must be one of tensors.EXPRESSIONS, got {expression!r}")


def _source(name: str, weights: Mapping[str, Tensor]) -> Tensor:
    if name not in weights:
        raise Inapplicable(f"the parent must have a tensor {name}, it has {len(weights)} others")
    return weights[name]


def _gathered(e: Gather, of: Tensor) -> Tensor:
    if e.axis >= of.dim() or not e.index or of.shape[0] % e.groups or len(e.index) % e.groups:
        place = f"axis {e.axis} of {list(of.shape)} and its {len(e.index)} indices"
        raise Inapplicable(f"a gather needs {place} to exist and to be divided by {e.groups} groups")
    generator, width = _generator(e.seed), len(e.index) // e.groups
    deviation = _deviation(of) if e.new == "random" else float(e.new == "one")
    parts = of.chunk(e.groups) if e.groups > 1 else (of,)
    indices = [e.index[i : i + width] for i in range(0, len(e.index), width or 1)]
    made = [_part(e, part, index, deviation, generator) for part, index in zip(parts, indices, strict=True)]
    return torch.cat(made) if e.groups > 1 else made[0]


def _part(e: Gather, of: Tensor, index: Sequence[int], fill: float, generator: torch.Generator) -> Tensor:
    old = torch.tensor([max(i, 0) for i in index], device=of.device)
    new = torch.tensor([k for k, i in enumerate(index) if i < 0], dtype=torch.long, device=of.device)
    if int(old.max()) >= of.shape[e.axis]:
        raise Inapplicable(
            f"an index must be below the {of.shape[e.axis]} slices of axis {e.axis}, got {int(old.max())}"
        )
    made = of.index_select(e.axis, old)
    if e.share == "split":
        _split(made, of, e.axis, index, generator)
    if len(new):
        shape = made.index_select(e.axis, new).shape
        slices = _normal(shape, generator).to(of) * fill if e.new == "random" else of.new_full(shape, fill)
        made.index_copy_(e.axis, new, slices)
    return made


def _split(made: Tensor, of: Tensor, axis: int, index: Sequence[int], generator: torch.Generator) -> None:
    """Turns copies of a slice into random parts of it, in place; the last is the rest, so that the sum is the whole."""
    copies: dict[int, list[int]] = {}
    for position, source in enumerate(index):
        copies.setdefault(source, []).append(position)
    for source, positions in copies.items():
        if source < 0 or len(positions) == 1:
            continue
        whole = of.select(axis, source)
        draws = torch.rand((len(positions), *whole.shape), generator=generator, dtype=torch.float64)
        draws = SMALLEST_SHARE + (1 - SMALLEST_SHARE) * draws
        parts = whole * (draws / draws.sum(0))[:-1].to(of)
        for position, part in zip(positions, [*parts, whole - parts.sum(0)], strict=True):
            made.select(axis, position).copy_(part)


def _deviation(of: Tensor) -> float:
    measured = of.double().square().mean().sqrt().item()
    return measured or math.sqrt(2 / max(1, math.prod(of.shape[1:])))


def _dirac(shape: Sequence[int], like: Tensor) -> Tensor:
    made = like.new_zeros(shape)
    middle = tuple(extent // 2 for extent in shape[2:])
    for channel in range(shape[0]):
        made[(channel, channel, *middle)] = 1
    return made


def _normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    # always drawn in float64: the same numbers, rounded, in every dtype
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
