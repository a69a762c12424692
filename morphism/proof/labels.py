"""Labels: what the rows and columns of a child's tensors hold, read off its expressions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from genomes import Expansion
from genomes.operations import BatchNorm, Shape
from morphism import tensors as exprs
from morphism.proof.terms import Terms
from morphism.tensors import Gather, New, Share, TensorExpr

Columns = tuple[tuple[int, int, float], ...]  # position, label, factor; where there is none, the column is zero


class Unreadable(Exception):
    """An expression about which nothing is known."""


class Frame(NamedTuple):
    """Where the taps of a kernel lie: `taps` of them in each direction, the first at `start`, each `step` further."""

    taps: int = 0
    start: int = 0
    step: int = 1


class Row(NamedTuple):
    """One row of a tensor.

    Attributes:
        label: a term: the number itself for a vector, else what is applied to the columns.
        columns: what its columns are.
        frame: of its taps.
    """

    label: int
    columns: Columns = ()
    frame: Frame = Frame()


@dataclass(frozen=True, eq=False)
class Labels:
    """What is known about a tensor; one object for equal tensors.

    Attributes:
        rows: along axis 0.
        width: the length of axis 1; 0 for what has a number for each channel.
        extent: of the last two axes; 0 if there are none.
    """

    rows: tuple[Row, ...]
    width: int = 0
    extent: int = 0

    def fits(self, shape: Shape) -> bool:
        """Says whether a tensor of this shape can be meant."""
        if len(shape) in (1, 3):
            return len(self.rows) == shape[0] and not self.width
        return (len(self.rows), self.width, self.extent) == (*shape[:2], shape[2] if len(shape) == 4 else 0)


@dataclass
class Reader:
    """Reads expressions.

    Attributes:
        terms: where labels are made.
        shapes: of the parent's tensors.
        child: the expansion of the child.
        read: by expression, what it says; equal expressions are equal tensors.
        plain: by width, the columns of a tensor that is not made of others.
    """

    terms: Terms
    shapes: Mapping[str, Shape]
    child: Expansion
    read: dict[TensorExpr, Labels] = field(default_factory=dict)
    plain: dict[int, Columns] = field(default_factory=dict)

    def tensor(self, expression: TensorExpr, shape: Shape) -> Labels:
        """Returns the labels of a child's tensor; of one that cannot be read, labels that nothing else has."""
        try:
            found = self.labels(expression)
        except Unreadable:
            found = None
        if found is None or not found.fits(shape):
            found = self.read[expression] = self.fresh("opaque", self.terms.term("expression", expression), shape)
        return found

    def labels(self, expression: TensorExpr) -> Labels:
        """Returns the labels of a tensor.

        Raises:
            Unreadable: nothing is known about such an expression.
        """
        if expression not in self.read:
            if type(expression) not in READ:
                raise Unreadable(expression.kind)
            self.read[expression] = READ[type(expression)](self, expression)
        return self.read[expression]

    def fresh(self, kind: str, name: Any, shape: Shape) -> Labels:
        """Returns labels of a tensor that is made of no other."""
        return self.filled([self.terms.term(kind, name, row) for row in range(shape[0])], shape)

    def filled(self, labels: Sequence[int], shape: Shape) -> Labels:
        """Returns a tensor of this shape whose rows have these labels and its own columns."""
        if len(shape) in (1, 3):
            return Labels(tuple(Row(label) for label in labels))
        extent, columns = (shape[2] if len(shape) == 4 else 0), self.places(shape[1])
        return Labels(tuple(Row(label, columns, Frame(extent)) for label in labels), shape[1], extent)

    def places(self, width: int) -> Columns:
        """Returns columns that are just themselves."""
        if width not in self.plain:
            self.plain[width] = tuple((place, self.terms.term("place", place), 1.0) for place in range(width))
        return self.plain[width]


def _source(reader: Reader, e: exprs.Source) -> Labels:
    if e.donor or e.name not in reader.shapes:
        raise Unreadable(e.name)
    shape = reader.shapes[e.name]
    return reader.fresh("number" if len(shape) == 1 else "row", e.name, shape)


class _Pick(NamedTuple):
    """A target: copy `number` of `count` of slice `source`, or new slice `number` if `source` is -1, times `sign`."""

    source: int
    number: int
    count: int  # type: ignore[assignment]
    sign: float = 1.0


def _picks(e: Gather, index: Sequence[int], length: int) -> list[_Pick]:
    if max(index, default=0) >= length:
        raise Unreadable("a slice that does not exist")
    counts: dict[int, int] = {}
    for source in index:
        counts[source] = counts.get(source, 0) + 1
    if counts.get(-2, 0) > counts.get(-1, 0):
        raise Unreadable("a partner of nothing")
    seen: dict[int, int] = {}
    picks = []
    for source in index:
        number = seen[source] = seen.get(source, -1) + 1
        sign = -1.0 if source == -2 and e.new == "opposite" else 1.0
        picks.append(_Pick(max(source, -1), number, counts[source], sign))
    return picks


def _gather(reader: Reader, e: Gather) -> Labels:
    of = reader.labels(e.of)
    if e.axis > 1 or (e.axis == 1 and not of.width) or len(of.rows) % e.groups or len(e.index) % e.groups:
        raise Unreadable("a gather that does not fit")
    width = len(e.index) // e.groups
    rows: list[Row] = []
    for group in range(e.groups):
        index = e.index[group * width : (group + 1) * width]
        rows.extend((_columns if e.axis else _rows)(reader, e, of, group, index))
    return replace(of, rows=tuple(rows), width=of.width if e.axis == 0 else width)


def _rows(reader: Reader, e: Gather, of: Labels, group: int, index: Sequence[int]) -> list[Row]:
    terms, draws = reader.terms, (reader.terms.term("expression", e), group)
    size, made = len(of.rows) // e.groups, []
    band = of.rows[group * size : (group + 1) * size]
    plain = reader.places(of.width) if of.width else ()
    for pick in _picks(e, index, size):
        if pick.source < 0:
            made.append(Row(_new(terms, e.new, (*draws, pick.number), pick.sign), plain, Frame(of.extent)))
        else:
            row = band[pick.source]
            label, factor = _shared(terms, e.share, row.label, (*draws, pick.source), pick)
            made.append(row._replace(label=terms.scaled(label, factor)))
    return made


def _new(terms: Terms, new: New, draws: tuple[int, ...], sign: float) -> int:
    if new == "zero":
        return terms.zero
    return terms.one if new == "one" else terms.scaled(terms.term("new", draws), sign)


def _shared(terms: Terms, share: Share, label: int, draws: tuple[int, ...], pick: _Pick) -> tuple[int, float]:
    """Returns what a copy of a slice holds: the whole or a part of it, times a number."""
    if pick.count == 1 or share == "copy":
        return label, 1.0
    if share == "equal":
        return label, 1 / pick.count
    return terms.part(label, draws, pick.number, pick.count), 1.0


def _columns(reader: Reader, e: Gather, of: Labels, group: int, index: Sequence[int]) -> list[Row]:
    terms, draws = reader.terms, (reader.terms.term("expression", e), group)
    size, made = len(of.rows) // e.groups, dict[int, Columns]()
    targets: dict[int, list[tuple[int, _Pick]]] = {}
    for position, pick in enumerate(_picks(e, index, of.width)):
        targets.setdefault(pick.source, []).append((position, pick))
    added = [
        (position, terms.drawn(terms.term("new", (*draws, pick.number))), pick.sign)
        for position, pick in targets.get(-1, ())
        if e.new != "zero"
    ]
    band = of.rows[group * size : (group + 1) * size]
    for columns in {id(row.columns): row.columns for row in band}.values():
        old = []
        for place, label, factor in columns:
            for position, pick in targets.get(place, ()):
                held, part = _shared(terms, e.share, label, (*draws, place), pick)
                old.append((position, held if held == label else terms.drawn(held), factor * part))
        made[id(columns)] = (*old, *added)
    return [row._replace(columns=made[id(row.columns)]) for row in band]


def _pad(reader: Reader, e: exprs.Pad) -> Labels:
    return _framed(reader.labels(e.of), 2 * e.margin, lambda frame: frame._replace(start=frame.start + e.margin))


def _crop(reader: Reader, e: exprs.Crop) -> Labels:
    of = reader.labels(e.of)
    for taps, start, step in {row.frame for row in of.rows if row.label != reader.terms.zero}:
        if start < e.margin or start + step * (taps - 1) >= of.extent - e.margin:
            raise Unreadable("a crop that takes something away")
    return _framed(of, -2 * e.margin, lambda frame: frame._replace(start=frame.start - e.margin))


def _spread(reader: Reader, e: exprs.Spread) -> Labels:
    of = reader.labels(e.of)
    more = (e.step - 1) * (of.extent - 1)
    return _framed(of, more, lambda frame: Frame(frame.taps, frame.start * e.step, frame.step * e.step))


def _framed(of: Labels, more: int, change: Callable[[Frame], Frame]) -> Labels:
    if not of.extent:
        raise Unreadable("no image")
    rows = tuple(row._replace(frame=change(row.frame)) for row in of.rows)
    return replace(of, rows=rows, extent=of.extent + more)


def _dense(reader: Reader, e: exprs.Dense) -> Labels:
    of = reader.labels(e.of)
    if len(of.rows) % e.groups:
        raise Unreadable("groups that do not fit")
    size, made = len(of.rows) // e.groups, dict[tuple[int, int], Columns]()
    rows = []
    for number, row in enumerate(of.rows):
        key = (number // size, id(row.columns))
        if key not in made:
            made[key] = tuple((place + key[0] * of.width, *rest) for place, *rest in row.columns)  # type: ignore[misc]
        rows.append(row._replace(columns=made[key]))
    return replace(of, rows=tuple(rows), width=of.width * e.groups)


def _part(reader: Reader, e: exprs.Part) -> Labels:
    of, draws = reader.labels(e.of), reader.terms.term("expression", replace(e, number=0))
    rows = [
        row._replace(label=reader.terms.part(row.label, (draws, place), e.number, e.count))
        for place, row in enumerate(of.rows)
    ]
    return replace(of, rows=tuple(rows))


def _merged(reader: Reader, e: exprs.Merged) -> Labels:
    of, width = reader.labels(e.of), 1 + max(e.index)
    if len(e.index) != (of.width if e.axis == 1 else len(of.rows)) or (e.axis == 0 and of.width) or e.axis > 1:
        raise Unreadable("a merge that does not fit")
    if e.axis == 0:
        sums: list[list[int]] = [[] for _ in range(width)]
        for target, row in zip(e.index, of.rows, strict=True):
            sums[target].append(row.label)
        return replace(of, rows=tuple(Row(reader.terms.added(*labels)) for labels in sums))
    made: dict[int, Columns] = {}
    for row in of.rows:
        if id(row.columns) not in made:
            made[id(row.columns)] = tuple((e.index[place], *rest) for place, *rest in row.columns)  # type: ignore[misc]
    return replace(of, rows=tuple(row._replace(columns=made[id(row.columns)]) for row in of.rows), width=width)


def _factored(reader: Reader, e: exprs.Factored) -> Labels:
    of, terms, name = reader.labels(e.of), reader.terms, reader.terms.term("expression", e.of)
    if len({(id(row.columns), row.frame) for row in of.rows}) != 1 or not of.width:
        raise Unreadable("rows of different kinds have no common factor")
    rank = min(len(of.rows), of.width * max(1, of.extent) ** 2)
    if e.factor == "first":
        rows = (of.rows[0]._replace(label=terms.term("first", name, number)) for number in range(rank))
        return replace(of, rows=tuple(rows))
    labels = [terms.term("second", name, row.label, rank) for row in of.rows]
    return reader.filled(labels, (len(labels), rank, 1, 1) if of.extent else (len(labels), rank))


def _measured(reader: Reader, e: exprs.Measured) -> Labels:
    norm = reader.child.primitives.get(e.norm)
    if norm is None or not isinstance(norm.operation, BatchNorm):
        raise Unreadable("a statistic of no norm")
    kind = (e.statistic, e.norm, e.channels, norm.operation.eps)
    return reader.fresh("measured", kind, (e.channels,))


def _times(reader: Reader, e: exprs.Times) -> Labels:
    of = reader.labels(e.of)
    rows = (row._replace(label=reader.terms.scaled(row.label, e.factor)) for row in of.rows)
    return replace(of, rows=tuple(rows))


def _difference(reader: Reader, e: exprs.Difference) -> Labels:
    of, less = reader.labels(e.of), reader.labels(e.less)
    pairs = list(zip(of.rows, less.rows, strict=False))
    if len(of.rows) != len(less.rows) or any(a.columns != b.columns or a.frame != b.frame for a, b in pairs):
        raise Unreadable("a difference of rows of different kinds")
    labels = [reader.terms.total([(a.label, 1.0), (b.label, -1.0)]) for a, b in pairs]
    return replace(of, rows=tuple(a._replace(label=label) for (a, _), label in zip(pairs, labels, strict=True)))


def _constant(reader: Reader, e: exprs.Constant) -> Labels:
    if len(e.shape) == 3 and e.value:
        raise Unreadable("a constant at each position")
    return reader.filled([reader.terms.number(e.value)] * e.shape[0], e.shape)


def _dirac(reader: Reader, e: exprs.Dirac) -> Labels:
    return reader.filled([reader.terms.term("dirac", row) for row in range(e.shape[0])], e.shape)


def _random(reader: Reader, e: exprs.Random) -> Labels:
    return reader.fresh("new", reader.terms.term("expression", e), e.shape)


READ: Mapping[type[TensorExpr], Callable[[Reader, Any], Labels]] = {
    exprs.Source: _source,
    Gather: _gather,
    exprs.Pad: _pad,
    exprs.Crop: _crop,
    exprs.Spread: _spread,
    exprs.Dense: _dense,
    exprs.Part: _part,
    exprs.Merged: _merged,
    exprs.Factored: _factored,
    exprs.Measured: _measured,
    exprs.Times: _times,
    exprs.Difference: _difference,
    exprs.Constant: _constant,
    exprs.Dirac: _dirac,
    exprs.Random: _random,
}
