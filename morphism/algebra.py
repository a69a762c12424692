"""The algebra of tensor expressions: their normal form, and with it the composition of edits.

A normal form computes the same numbers, bit for bit, with one exception: parts of a whole that are summed again are the
whole itself, where realising one after the other would round.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

from genomes import Genome, expand
from genomes.operations import Shape
from morphism import tensors as exprs
from morphism.edit import Edit
from morphism.tensors import (
    Constant,
    Crop,
    Dense,
    Difference,
    Gather,
    Merged,
    Pad,
    Part,
    Source,
    Spread,
    Stacked,
    Strided,
    TensorExpr,
    Times,
    rebuilt,
    substitute,
)

Shapes = Mapping[str, Shape]


def compose(*edits: Edit, parent: Genome | None = None) -> Edit:
    """Returns the one edit that does all of these, one after the other; it claims what all claim.

    Its tensors are expressions of those of the first edit's parent, so that it is realised from them alone: the weights
    in between may be gone. What was done and undone cancels.

    Args:
        edits: at least one, each planned on the genome of the one before.
        parent: the genome that the first edit was planned on. Without it some identities are not recognised, such as a
            selection of all the channels that there are.
    """
    return reduce(lambda first, second: _composed(first, second, parent), edits)


def _composed(first: Edit, second: Edit, parent: Genome | None) -> Edit:
    known = expand(parent).tensor_shapes() if parent else {}
    made: dict[str, TensorExpr] = {}
    for name in expand(second.genome).tensor_shapes():
        if name not in first.tensors and name not in second.tensors:
            continue  # as most tensors are
        expression = simplified(substitute(second.tensors.get(name, Source(name)), first.tensors), known)
        if expression != Source(name):
            made[name] = expression
    later = (simplified(substitute(value, first.tensors), known) for value in second.zeros)
    zeros = dict.fromkeys([*first.zeros, *(value for value in later if not vanishes(value))])
    rule, modes = f"{first.rule}, {second.rule}", first.modes & second.modes
    return Edit(rule, {"edits": [*_sites(first), *_sites(second)]}, second.genome, made, modes, tuple(zeros))


def _sites(edit: Edit) -> list[Any]:
    return edit.site["edits"] if "edits" in edit.site else [dict(edit.site)]


def simplified(expression: TensorExpr, known: Shapes | None = None) -> TensorExpr:
    """Returns the normal form of an expression.

    Args:
        expression: of the parent's tensors.
        known: the shapes of these; without them fewer identities are recognised.
    """
    shapes = known or {}
    made = rebuilt(expression, lambda inner: simplified(inner, shapes))
    better = _as_zero(made, shapes) or RULES.get(type(made), _unchanged)(made, shapes)
    return made if better is None else simplified(better, shapes)


def vanishes(expression: TensorExpr) -> bool:
    """Says whether a normal form is zero, whatever the parent's tensors are."""
    match expression:
        case Constant(value=0.0):
            return True
        case Difference(of, less):
            return of == less
        case Times(of, factor):
            return factor == 0 or vanishes(of)
        case Gather(of, new=new, index=index):
            return (vanishes(of) or max(index) < 0) and (min(index) >= 0 or new == "zero")
        case Pad(of) | Crop(of) | Spread(of) | Strided(of) | Dense(of) | Part(of) | Merged(of):
            return vanishes(of)
        case _:
            return False


def shape_of(expression: TensorExpr, known: Shapes) -> Shape | None:
    """Returns the shape of what an expression describes; None where that is not known."""
    match expression:
        case Source(name, donor):
            return None if donor else known.get(name)
        case Constant(shape) | exprs.Dirac(shape) | exprs.Random(shape):
            return shape
        case Part(of) | Times(of) | Difference(of) | exprs.Folded(of):
            return shape_of(of, known)
        case Gather() | Merged() | Stacked() | Pad() | Crop() | Spread() | Strided() | Dense():
            inner = shape_of(expression.of, known)
            return None if inner is None else _changed(expression, inner, known)
        case _:
            return None


def _changed(e: Any, shape: Shape, known: Shapes) -> Shape | None:
    match e:
        case Gather(axis=axis, index=index, groups=groups):
            return _along(shape, axis, len(index) // (groups if axis else 1))
        case Merged(axis=axis, index=index):
            return _along(shape, axis, 1 + max(index))
        case Stacked(other=other, axis=axis):
            more = shape_of(other, known)
            return None if more is None else _along(shape, axis, shape[axis] + more[axis])
        case Dense(groups=groups):
            return _along(shape, 1, shape[1] * groups)
        case _:
            return (*shape[:-2], *(_extent(e, extent) for extent in shape[-2:]))


def _extent(e: Pad | Crop | Spread | Strided, extent: int) -> int:
    match e:
        case Pad(margin=margin):
            return extent + 2 * margin
        case Crop(margin=margin):
            return extent - 2 * margin
        case Spread(step=step):
            return step * (extent - 1) + 1
        case Strided(step=step):
            return (extent - 1) // step + 1


def _along(shape: Shape, axis: int, extent: int) -> Shape:
    return tuple(extent if number == axis else old for number, old in enumerate(shape))


def _length(e: TensorExpr, axis: int, groups: int, known: Shapes) -> int | None:
    """Returns the slices that an index of a gather, or of one of its groups, may name."""
    shape = shape_of(e, known)
    if shape is None:
        return None
    return shape[axis] if axis else shape[0] // groups


def _unchanged(_e: TensorExpr, _known: Shapes) -> None:
    return None


def _as_zero(e: TensorExpr, known: Shapes) -> TensorExpr | None:
    if isinstance(e, Constant) or not vanishes(e) or (shape := shape_of(e, known)) is None:
        return None
    return Constant(shape, 0.0)


def _gather(e: Gather, known: Shapes) -> TensorExpr | None:
    if not e.index or len(e.index) % e.groups:
        return None  # realise says what is wrong with it
    plain = _plain(e)
    if plain != e:
        return plain
    length = _length(e.of, e.axis, e.groups, known)
    if e.index == (*range(length or 0),) * e.groups:
        return e.of
    match e.of:
        case Gather(axis=e.axis, groups=e.groups) if max(e.index) < len(e.of.index) // e.groups:
            return _fused(e, e.of) or _elders(e, e.of)
        case Constant(value=value) if _fills(e, value) and (shape := shape_of(e, known)):
            return Constant(shape, value)
        case Dense(of, groups) if length and e == diagonal(e.of, groups, length // groups):
            return of
        case _:
            return None


def _plain(e: Gather) -> Gather:
    """Returns a gather without what has no effect on it."""
    divided, drawn = divides(e), _drawn(e)
    return replace(
        e,
        index=e.index if drawn else tuple(max(i, -1) for i in e.index),
        share=e.share if divided else "copy",
        new=e.new if min(e.index) < 0 else "zero",
        seed=e.seed if drawn or (divided and e.share == "split") else 0,
    )


def cut(e: Gather | Merged) -> list[tuple[int, ...]]:
    """Returns the index, group by group."""
    width = len(e.index) // e.groups
    return [e.index[start : start + width] for start in range(0, width * e.groups, width)]


def _divided(e: Gather) -> set[tuple[int, int]]:
    """Returns group and number of the slices that a gather divides into parts."""
    counts = Counter((group, i) for group, part in enumerate(cut(e)) for i in part if i >= 0)
    return set() if e.share == "copy" else {key for key, count in counts.items() if count > 1}


def divides(e: Gather) -> bool:
    """Says whether a gather divides slices into parts."""
    return bool(_divided(e))


def _drawn(e: Gather) -> bool:
    return min(e.index) < 0 and e.new in ("random", "opposite")


def _fills(e: Gather, value: float) -> bool:
    """Says whether a gather of slices filled with one value is filled with it too."""
    new = min(e.index) >= 0 or e.new == {0.0: "zero", 1.0: "one"}.get(value)
    return new and (not _divided(e) or not value)


def diagonal(of: TensorExpr, groups: int, columns: int) -> Gather:
    """Returns what undoes a dense weight: each group's own columns."""
    return Gather(of, 1, tuple(range(columns * groups)), groups=groups)


def _fused(outer: Gather, inner: Gather) -> Gather | None:
    """Returns the one gather that does both, if all that is drawn stays the same."""
    divided, picks, negatives, theirs = _divided(inner), list[tuple[int, int]](), list[int](), list[int]()
    for group, (wanted, given) in enumerate(zip(cut(outer), cut(inner), strict=True)):
        picks.extend((group, given[k] if k >= 0 else -1) for k in wanted)
        negatives.extend(k for k in wanted if k >= 0 and given[k] < 0)
        theirs.extend(k for k, i in enumerate(given) if i < 0)
    if _drawn(outer) or divided.intersection(picks):
        return None
    index, adds = tuple(i for _, i in picks), min(outer.index) < 0
    if _drawn(inner) and negatives:
        alone = negatives == theirs and not adds and not divided and not _divided(outer)
        return replace(inner, index=index, share="copy") if alone else None
    if (negatives and adds and outer.new != inner.new) or not _divides_alone(outer, inner, bool(negatives)):
        return None
    return replace(outer, of=inner.of, index=index, new=inner.new if negatives else outer.new)


def _divides_alone(outer: Gather, inner: Gather, new: bool) -> bool:
    """Says whether the outer gather, if it divides slices, divides those that one gather of both would divide."""
    if not _divided(outer):
        return True
    picked = [
        (group, given[k])
        for group, (wanted, given) in enumerate(zip(cut(outer), cut(inner), strict=True))
        for k in set(wanted)
        if k >= 0
    ]
    return not new and len(picked) == len(set(picked))


def _elders(outer: Gather, inner: Gather) -> Gather | None:
    """Returns the gather that picks, instead of partners, the new slices that they are the same as."""
    if not _drawn(inner) or inner.new == "opposite" or outer.groups > 1:
        return None
    new = [k for k, i in enumerate(inner.index) if i == -1]
    elders = dict(zip((k for k, i in enumerate(inner.index) if i == -2), new, strict=False))
    index = tuple(elders.get(k, k) for k in outer.index)
    return replace(outer, index=index) if index != outer.index else None


def _merged(e: Merged, known: Shapes) -> TensorExpr | None:
    length = _length(e.of, e.axis, e.groups, known)
    if e.index == (*range(length or 0),) * e.groups:
        return e.of
    if not isinstance(e.of, Gather) or (e.of.axis, e.of.groups) != (e.axis, e.groups):
        return None
    parts, made = _length(e.of.of, e.axis, e.groups, known), cut(e.of)
    if _covers(e, e.of, parts):
        return e.of.of
    opposed = e.of.new in ("opposite", "zero") and all(_opposed(a, b) for a, b in zip(cut(e), made, strict=True))
    if opposed and (shape := shape_of(e, known)):
        return Constant(shape, 0.0)
    return None


def _covers(e: Merged, of: Gather, length: int | None) -> bool:
    """Says whether a sum puts together again all that a gather divided."""
    whole = all(set(part) - {-1, -2} == set(range(length or 0)) for part in cut(of))
    alone = of.share != "copy" or all(
        len(part) == len(set(part)) for part in ([i for i in p if i >= 0] for p in cut(of))
    )
    return whole and alone and [max(i, -1) for i in e.index] == [max(i, -1) for i in of.index]


def _opposed(sums: Sequence[int], index: Sequence[int]) -> bool:
    """Says whether each sum is that of a new slice and its partner."""
    new, partners = ([sums[k] for k, i in enumerate(index) if i == mark] for mark in (-1, -2))
    rest = [total for total, i in zip(sums, index, strict=True) if i >= 0]
    return new == partners and len(new) == len(set(new)) == 1 + max(sums) and max(rest, default=-1) < 0


def _difference(e: Difference, _known: Shapes) -> TensorExpr | None:
    match e:
        case Difference(of, less) if vanishes(less):
            return of
        case Difference(Part(of, 0, 2, seed), Times(Part(other, 1, 2, again), -1.0)) if (of, seed) == (other, again):
            return of
        case _:
            return None


def _times(e: Times, _known: Shapes) -> TensorExpr | None:
    if e.factor == 1:
        return e.of
    if not isinstance(e.of, Times):
        return None
    product = e.of.factor * e.factor
    if math.isclose(product, 1, rel_tol=1e-15):
        return e.of.of
    exact = any(abs(math.frexp(factor)[0]) == 0.5 for factor in (e.factor, e.of.factor))
    return Times(e.of.of, product) if exact else None


def _pad(e: Pad, _known: Shapes) -> TensorExpr | None:
    if not e.margin:
        return e.of
    return Pad(e.of.of, e.of.margin + e.margin) if isinstance(e.of, Pad) else None


def _crop(e: Crop, _known: Shapes) -> TensorExpr | None:
    match e.of:
        case Pad(of, margin):
            return Pad(of, margin - e.margin) if margin >= e.margin else Crop(of, e.margin - margin)
        case Crop(of, margin):
            return Crop(of, margin + e.margin)
        case _:
            return None if e.margin else e.of


def _strided(e: Strided, _known: Shapes) -> TensorExpr | None:
    return e.of.of if isinstance(e.of, Spread) and e.of.step == e.step else None


def _stacked(e: Stacked, _known: Shapes) -> TensorExpr | None:
    match e:
        case Stacked(Gather(of, axis, index, groups=1), Gather(other, again, more, groups=1)) if (
            of == other and axis == again == e.axis and min(*index, *more) >= 0
        ):
            divided = any(isinstance(each, Gather) and _divided(each) for each in (e.of, e.other))
            return None if divided else Gather(of, axis, index + more)
        case _:
            return None


RULES: Mapping[type[TensorExpr], Callable[[Any, Shapes], TensorExpr | None]] = {
    Gather: _gather,
    Merged: _merged,
    Difference: _difference,
    Times: _times,
    Pad: _pad,
    Crop: _crop,
    Strided: _strided,
    Stacked: _stacked,
}
