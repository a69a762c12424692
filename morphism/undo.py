"""Undoing an edit: how each of the parent's tensors is made from the child's, and what must hold for that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from genomes import Expansion, Genome, expand
from genomes.operations import BatchNorm, GroupNorm, LayerNorm
from morphism.algebra import Shapes, cut, diagonal, divides, shape_of, simplified, vanishes
from morphism.edit import Edit
from morphism.errors import Inapplicable
from morphism.tensors import (
    Constant,
    Crop,
    Dense,
    Difference,
    Dirac,
    Gather,
    Merged,
    Pad,
    Part,
    Random,
    Source,
    Spread,
    Stacked,
    Strided,
    TensorExpr,
    Times,
)

PARTNERS: Mapping[str, str] = {
    "kernel.grow": "kernel.crop",
    "widen.zero_fanout": "narrow.zero_fanout",
    **dict.fromkeys(("widen.split", "widen.replicate", "widen.pair"), "narrow.merge"),
    **dict.fromkeys(("deepen.residual", "skip.add"), "branch.drop_zero"),
}


def undo(parent: Genome, edit: Edit) -> Edit:
    """Returns the edit that leads from the child back to the parent, ids included, by whatever weights.

    What the edit left to chance may have been trained: new rows that nobody reads yet, a branch that ends in a zero.
    The rest must still be as it was made, which `zeros` says and `realise` checks: the child computes then what the
    parent computes, in the modes that the edit claims.

    Where nothing was trained the parent's tensors come back bit for bit; but where a whole was divided into unequal
    parts (`widen.split`, `branch.replicate`) or multiplied by what is no power of two, to the last place.

    Raises:
        Inapplicable: there is no way back: the edit lost something, factorised, separated or measured.
    """
    walk = _Walk(edit, expand(parent).tensor_shapes(), expand(edit.genome))
    for name, expression in sorted(walk.tensors.items(), key=lambda item: item[1] != Source(item[0])):
        walk.child(name, expression)
    if lost := sorted(set(walk.parent) - set(walk.found)):
        raise Inapplicable(f"{edit.rule} has no inverse: it loses {', '.join(lost)[:200]}")
    shapes = walk.expansion.tensor_shapes()
    tensors = {name: simplified(walk.found[name], shapes) for name in sorted(walk.parent)}
    zeros = dict.fromkeys(simplified(expression, shapes) for expression in walk.zeros)
    rule = PARTNERS.get(edit.rule, f"undo {edit.rule}")
    changed = {name: expression for name, expression in tensors.items() if expression != Source(name)}
    return Edit(rule, edit.site, parent, changed, edit.modes, tuple(e for e in zeros if not vanishes(e)))


@dataclass
class _Walk:
    """What has been found out so far: the parent's tensors in terms of the child's, and conditions."""

    edit: Edit
    parent: Shapes
    expansion: Expansion
    found: dict[str, TensorExpr] = field(default_factory=dict)
    zeros: list[TensorExpr] = field(default_factory=list)
    parts: dict[TensorExpr, dict[int, TensorExpr]] = field(default_factory=dict)
    pieces: dict[tuple[TensorExpr, int], list[tuple[tuple[int, ...], TensorExpr]]] = field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, TensorExpr]:
        """The expressions of all the child's tensors."""
        return {name: self.edit.tensors.get(name, Source(name)) for name in self.expansion.tensor_shapes()}

    def child(self, name: str, expression: TensorExpr) -> None:
        """Follows the expression of a child tensor back to what it was made from."""
        if not isinstance(expression, (Constant, Random)) or self.given(name):
            self.follow(expression, Source(name), name)

    def given(self, name: str) -> bool:
        """Says whether the constant values of a new tensor matter: not within a branch that ends in a zero."""
        path, _, parameter = name.rpartition(".")
        weight = self.edit.tensors.get(f"{path}.weight")
        if parameter.startswith("running") or isinstance(weight, Random):
            return False
        norm = isinstance(self.expansion.primitives[path].operation, (BatchNorm, GroupNorm, LayerNorm))
        return not (norm and isinstance(weight, Constant) and weight.value)

    def follow(self, e: TensorExpr, now: TensorExpr, name: str) -> None:
        """Notes that the value of `e`, of the parent's tensors, is that of `now`, of the child's."""
        match e:
            case Source(source, 0) if source in self.found:
                self.zeros.append(Difference(now, self.found[source]))
            case Source(source, 0):
                self.found[source] = now
            case Gather():
                self.gather(e, now, name)
            case Pad(of) | Spread(of) | Dense(of):
                before = _inner(e, now, self.parent)
                self.zeros.append(Difference(now, replace(e, of=before)))
                self.follow(of, before, name)
            case Times(of, factor) if factor:
                self.follow(of, Times(now, 1 / factor), name)
            case Part():
                self.part(e, now, name)
            case Constant() | Dirac():
                self.zeros.append(now if vanishes(e) else Difference(now, e))
            case _:
                raise Inapplicable(f"{self.edit.rule} has no inverse: {name} is {e.kind}")

    def part(self, e: Part, now: TensorExpr, name: str) -> None:
        """Sums the parts of a whole as soon as all of them are known."""
        known = self.parts.setdefault(replace(e, number=0), {})
        known[e.number] = now
        if len(known) == e.count:
            total = known[0]
            for number in range(1, e.count):
                total = Difference(total, Times(known[number], -1.0))
            self.follow(e.of, total, name)

    def gather(self, e: Gather, now: TensorExpr, name: str) -> None:
        """Puts slices back where they came from; copies must be equal, and new ones without effect."""
        shape = shape_of(e.of, self.parent)
        if shape is None:
            raise Inapplicable(f"{self.edit.rule} has no inverse: {name} is made from {e.of.kind}")
        length = shape[e.axis] // (1 if e.axis else e.groups)
        if any({i for i in part if i >= 0} != set(range(length)) for part in cut(e)):
            self.piece(e, now, name, length)
            return
        marks = self.marks(e, name)
        self.zeros.extend(_conditions(e, marks, now))
        if divides(e):
            before: TensorExpr = Merged(now, e.axis, tuple(max(i, -1) for i in e.index), e.groups)
        else:
            first = tuple(part.index(i) for part in cut(replace(e, index=marks.index)) for i in range(length))
            before = Gather(now, e.axis, first, groups=e.groups)
        self.follow(e.of, before, name)

    def marks(self, e: Gather, name: str) -> Gather:
        """Returns the gather that says which slices are new: statistics of new channels are copies, but any will do."""
        if e.axis:
            return e
        inner = self.tensors.get(f"{name.rpartition('.')[0]}.weight")
        while inner is not None and not isinstance(inner, Source):
            if isinstance(inner, Gather) and inner.axis == 0 and len(inner.index) == len(e.index):
                return inner
            inner = getattr(inner, "of", None)
        return e

    def piece(self, e: Gather, now: TensorExpr, name: str, length: int) -> None:
        """Stacks the pieces of a tensor as soon as all of them are known."""
        pieces = self.pieces.setdefault((e.of, e.axis), [])
        pieces.append((e.index, now))
        index = [i for part, _ in pieces for i in part]
        if e.groups == 1 and sorted(index) == list(range(length)):
            whole = pieces[0][1]
            for _, piece in pieces[1:]:
                whole = Stacked(whole, piece, e.axis)
            self.follow(e.of, Gather(whole, e.axis, tuple(index.index(i) for i in range(length))), name)


def _inner(e: Pad | Spread | Dense, now: TensorExpr, known: Shapes) -> TensorExpr:
    """Returns what undoes an expression, in terms of its value."""
    match e:
        case Pad(margin=margin):
            return Crop(now, margin)
        case Spread(step=step):
            return Strided(now, step)
        case Dense(of):
            shape = shape_of(of, known)
            assert shape is not None
            return diagonal(now, e.groups, shape[1])


def _conditions(e: Gather, marks: Gather, now: TensorExpr) -> Iterator[TensorExpr]:
    """Yields what must be zero: differences of copies, and slices that are new but read."""

    def chosen(places: Sequence[Sequence[int]]) -> TensorExpr:
        if len({len(part) for part in places}) > 1:
            raise Inapplicable("an edit has no inverse if it changes groups differently")
        return Gather(now, e.axis, tuple(k for part in places for k in part), groups=e.groups)

    parts = cut(replace(e, index=marks.index))
    new, partners = ([[k for k, i in enumerate(part) if i == mark] for part in parts] for mark in (-1, -2))
    copies = [[k for k, i in enumerate(part) if i >= 0 and part.index(i) < k] for part in parts]
    elders = [part[: len(twins)] for part, twins in zip(new, partners, strict=True)]
    firsts = [[part.index(part[k]) for k in places] for part, places in zip(parts, copies, strict=True)]
    if any(copies) and not divides(e):
        yield Difference(chosen(copies), chosen(firsts))
    if e.axis == 0 and marks.new != "zero":
        if any(partners):
            yield Difference(chosen(partners), chosen(elders))
    elif e.new == "opposite" and any(new):
        # columns that cancel: the sum of each pair
        yield Merged(now, e.axis, tuple(k for part in parts for k in _pairs(part)), e.groups)
    elif any(new):
        yield chosen([[k for k, i in enumerate(part) if i < 0] for part in parts])


def _pairs(index: Sequence[int]) -> list[int]:
    counts = {-1: 0, -2: 0}
    made = [-1] * len(index)
    for place, i in enumerate(index):
        if i < 0:
            made[place] = counts[i]
            counts[i] += 1
    return made
