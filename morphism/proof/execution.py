"""Symbolic execution: what every operation makes of the terms that it reads."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from genomes import Primitive
from genomes import operations as ops
from genomes.operations import Operation
from morphism.proof.labels import Columns, Frame, Labels
from morphism.proof.terms import Geometry, Terms

Values = tuple[int, ...]
LABELS = frozenset({"row", "number", "new", "part", "first", "opaque", "measured"})  # the same at every position


@dataclass
class Execution:
    """The state of one run.

    Attributes:
        terms: all terms.
        train: whether norms use the statistics of the batch.
        done: by operation, tensors and inputs, what came of them.
        loose: paths where copies do not add up to what they copy.
        undefined: paths of norms whose variance may be negative: not even 0 times what they make is surely 0.
    """

    terms: Terms
    train: bool
    done: dict[tuple[Any, ...], Values] = field(default_factory=dict)
    loose: list[str] = field(default_factory=list)
    undefined: list[str] = field(default_factory=list)

    def copy(self) -> Execution:
        """Returns a copy that may go on on its own."""
        return Execution(self.terms.copy(), self.train, self.done.copy(), self.loose.copy(), self.undefined.copy())

    def apply(self, primitive: Primitive, inputs: Sequence[Values], tensors: Mapping[str, Labels]) -> Values:
        """Returns the terms of the channels of a value."""
        key = (primitive.operation, primitive.in_shapes, *inputs, *tensors.values())
        if key not in self.done:
            step = Step(self, primitive, inputs, tensors)
            self.done[key] = tuple(APPLIED[type(primitive.operation)](step))
        return self.done[key]


@dataclass(frozen=True)
class Step:
    """One primitive at work: its inputs, and its tensors by name."""

    run: Execution
    primitive: Primitive
    inputs: Sequence[Values]
    tensors: Mapping[str, Labels]

    @property
    def terms(self) -> Terms:
        """All terms."""
        return self.run.terms

    @property
    def op(self) -> Any:
        """The operation."""
        return self.primitive.operation

    @property
    def x(self) -> Values:
        """The first input."""
        return self.inputs[0]

    @property
    def given(self) -> tuple[int, ...]:
        """The extents of the first input."""
        return self.primitive.in_shapes[0][1:]

    @property
    def made(self) -> tuple[int, ...]:
        """The extents of the output."""
        return self.primitive.shape[1:]

    def labels(self, name: str) -> list[int]:
        """Returns the labels of the rows of a tensor; of one that is not there, zeros."""
        if name not in self.tensors:
            return [self.terms.zero] * self.primitive.shape[0]
        return [row.label for row in self.tensors[name].rows]

    def linear(self, kind: str, value: int, *more: Any) -> int:
        """Returns what a linear function of a value makes of it; numbers that are everywhere the same stay."""
        if self.terms.value(value) is not None:
            return value
        factor, body = self.terms.content(value)
        return self.terms.scaled(self.terms.term(kind, *more, body), factor)


def _mixed(s: Step) -> list[int]:
    """Returns the rows of a convolution or linear map, each applied to what its columns read."""
    weight, groups = s.tensors["weight"], getattr(s.op, "groups", 1)
    size, reads, made = len(weight.rows) // groups, dict[tuple[int, Frame, int], int | None](), []
    for number, (row, bias) in enumerate(zip(weight.rows, s.labels("bias"), strict=True)):
        group = number // size
        key = (id(row.columns), row.frame, group)
        if key not in reads:
            band = s.x[group * weight.width : (group + 1) * weight.width]
            reads[key] = _read(s, band, row.columns, _geometry(s, row.frame))
        read = reads[key]
        if read is None:
            read = s.terms.unknown()  # each row for itself: what it draws is its own
        made.append(s.terms.added(s.terms.product(row.label, read), bias))
    return made


def _read(s: Step, values: Values, columns: Columns, geometry: Geometry) -> int | None:
    """Returns what columns read; None if it is not the same for every row."""
    terms, addends = s.terms, []
    for place, label, factor in columns:
        if values[place] != terms.zero:
            atom, number = terms.column(label, values[place])
            addends.append((atom, number * factor))
    whole = terms.total(addends)
    if whole == terms.zero:
        return whole
    if any(atom in terms.loose for atom, _ in terms.summands(whole)):
        s.run.loose.append(s.primitive.path)
        return None
    factor, body = terms.content(whole)
    return terms.scaled(terms.term("read", body, geometry), factor)


def _geometry(s: Step, frame: Frame) -> Geometry:
    if not isinstance(s.op, ops.Conv):
        return Geometry(0, 0, 1, 1, (), ())
    start, step = s.op.dilation * frame.start - s.op.padding, s.op.dilation * frame.step
    return Geometry(frame.taps, start, step if frame.taps > 1 else 1, s.op.stride, s.given, s.made)


NORM = ("running_mean", "running_var", "weight", "bias")


def _batch_norm(s: Step) -> list[int]:
    return [_normalised(s, *channel) for channel in zip(s.x, *(s.labels(name) for name in NORM), strict=True)]


def _normalised(s: Step, x: int, mean: int, variance: int, weight: int, bias: int) -> int:
    terms = s.terms
    if s.run.train:
        return terms.added(terms.product(weight, terms.term("normal", s.op.eps, x)), bias)
    if not _variance(terms, variance):
        s.run.undefined.append(s.primitive.path)
    return terms.added(terms.product(weight, terms.term("normal", s.op.eps, mean, variance, x)), bias)


def _variance(terms: Terms, label: int) -> bool:
    """Says whether a number is never negative, as running variances are."""
    kind, *what = terms.keys[label]
    known = terms.value(label)
    if known is not None:
        return known >= 0
    return bool(
        (kind == "number" and what[0].endswith(".running_var")) or (kind == "measured" and what[0][0] == "variance")
    )


def _group_norm(s: Step) -> list[int]:
    size = len(s.x) // getattr(s.op, "groups", 1)
    spread = "positions" if isinstance(s.op, ops.GroupNorm) else "channels"
    seen = [_population(s.x[start : start + size]) for start in range(0, len(s.x), size)]
    normal = [s.terms.term("normal", s.op.eps, spread, seen[k // size], x) for k, x in enumerate(s.x)]
    return _affine(s, normal, s.labels("weight"), s.labels("bias"))


def _population(values: Values) -> tuple[tuple[int, int], ...]:
    """Returns how often each term occurs, relative to the others: all that a mean and a variance depend on."""
    counts = Counter(values)
    common = math.gcd(*counts.values())
    return tuple(sorted((value, count // common) for value, count in counts.items()))


def _affine(s: Step, values: Sequence[int], weights: Sequence[int], biases: Sequence[int]) -> list[int]:
    terms = s.terms
    return [terms.added(terms.product(w, x), b) for x, w, b in zip(values, weights, biases, strict=True)]


FUNCTIONS: Mapping[str, Callable[[float], float]] = {
    "identity": lambda x: x,
    "relu": lambda x: max(x, 0.0),
    "relu6": lambda x: min(max(x, 0.0), 6.0),
    "gelu": lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "hardswish": lambda x: x * min(max(x + 3, 0.0), 6.0) / 6,
    "hardsigmoid": lambda x: min(max(x + 3, 0.0), 6.0) / 6,
}


def _function(terms: Terms, kind: str, x: int) -> int:
    """Returns a function of one number; it is applied where it can be, and relu does nothing the second time."""
    known = terms.value(x)
    if known is not None and abs(known) < 100:
        return terms.number(FUNCTIONS[kind](known))
    if kind == "identity" or (kind == "relu" and terms.non_negative(x)) or terms.keys[x][0] == kind == "relu6":
        return x
    return terms.term(kind, x)


def _functions(s: Step) -> list[int]:
    return [_function(s.terms, s.op.kind, x) for x in s.x]


def _prelu(s: Step) -> list[int]:
    return [_sloped(s.terms, x, slope) for x, slope in zip(s.x, s.labels("weight"), strict=True)]


def _sloped(terms: Terms, x: int, slope: int) -> int:
    if slope == terms.one or terms.non_negative(x):
        return x
    return _function(terms, "relu", x) if slope == terms.zero else terms.term("prelu", slope, x)


def _blend(s: Step) -> list[int]:
    terms, (weight,) = s.terms, s.labels("weight")[:1]
    pairs = [(_function(terms, s.op.first, x), _function(terms, s.op.second, x)) for x in s.x]
    return [_between(terms, weight, first, second) for first, second in pairs]


def _between(terms: Terms, weight: int, first: int, second: int) -> int:
    """Returns w x + (1 - w) y."""
    if first == second:
        return first
    return terms.total([(terms.product(weight, first), 1.0), (second, 1.0), (terms.product(weight, second), -1.0)])


def _gate(s: Step) -> list[int]:
    weight = s.labels("weight")[0]
    return [_between(s.terms, weight, x, y) for x, y in zip(*s.inputs, strict=True)]


def _max_pool(s: Step) -> list[int]:
    if s.op.kernel == 1 and s.op.padding == 0:
        return [_subsampled(s, x) for x in s.x]
    return [_pooled(s, x) for x in s.x]


def _pooled(s: Step, x: int) -> int:
    known = s.terms.value(x)
    constant = known == 0 or (known is not None and s.op.padding == 0)
    return x if constant else s.terms.term("pool", s.op, s.made, x)


def _subsampled(s: Step, x: int) -> int:
    """Returns every stride-th position; of a convolution, that is one of a larger stride."""
    if s.op.stride == 1:
        return x
    return s.terms.total((_strided(s, atom), factor) for atom, factor in s.terms.summands(x))


def _strided(s: Step, atom: int) -> int:
    terms = s.terms
    key = terms.keys[atom]
    if key[0] == "read":
        geometry = key[2]
        return terms.term("read", key[1], geometry._replace(stride=geometry.stride * s.op.stride, made=s.made))
    if key[0] in LABELS or atom == terms.one:
        return atom
    if key[0] == "product" and sum(terms.keys[factor][0] not in LABELS for factor in key[1]) == 1:
        return terms.product(*(_strided(s, factor) for factor in key[1]))
    return terms.term("pool", s.op, s.made, atom)


def _avg_pool(s: Step) -> list[int]:
    """Returns convolutions whose taps are all 1 / k²; with `ceil`, windows may count less."""
    if s.op.ceil:
        return [_pooled(s, x) for x in s.x]
    geometry = Geometry(s.op.kernel, -s.op.padding, 1, s.op.stride, s.given, s.made)
    columns = ((0, s.terms.term("place", 0), 1.0),)
    return [s.terms.scaled(_read(s, (x,), columns, geometry) or s.terms.zero, 1 / s.op.kernel**2) for x in s.x]


def _global_pool(s: Step) -> list[int]:
    return list(s.x) if math.prod(s.given) == 1 else [s.linear("global_pool", x) for x in s.x]


def _flatten(s: Step) -> list[int]:
    extent = math.prod(s.given)
    return list(s.x) if extent == 1 else [s.linear("at", x, place) for x in s.x for place in range(extent)]


def _select(s: Step) -> list[int]:
    return list(s.x) if math.prod(s.given) == 1 else [s.linear("at", x, s.op.index) for x in s.x]


def _class_token(s: Step) -> list[int]:
    pairs = zip(s.x, s.labels("weight"), strict=True)
    return [s.terms.zero if x == w == s.terms.zero else s.terms.term("token", s.made, x, w) for x, w in pairs]


def _add(s: Step) -> list[int]:
    share = 1 / len(s.inputs) if isinstance(s.op, ops.Mean) else 1.0
    return [s.terms.total((x, share) for x in channel) for channel in zip(*s.inputs, strict=True)]


def _mul(s: Step) -> list[int]:
    return [s.terms.product(*channel) for channel in zip(*s.inputs, strict=True)]


def _attention(s: Step) -> list[int]:
    terms, heads, (queries, keys, values) = s.terms, s.op.heads, s.inputs
    inner, outer = len(queries) // heads, len(values) // heads
    made = []
    for head in range(heads):
        band = slice(head * inner, (head + 1) * inner)
        scores = [_score(terms, q, k) for q, k in zip(queries[band], keys[band], strict=True)]
        logits = terms.total((score, s.op.scale(len(queries))) for score in scores)
        made += [s.linear("attention", v, logits, s.made) for v in values[head * outer : (head + 1) * outer]]
    return made


def _score(terms: Terms, query: int, key: int) -> int:
    """Returns the products of a query's with a key's numbers, position by position."""
    if terms.zero in (query, key):
        return terms.zero
    (one, q), (other, k) = terms.content(query), terms.content(key)
    return terms.scaled(terms.term("score", q, k), one * other)


def _passed(s: Step) -> list[int]:
    return list(s.x)


APPLIED: Mapping[type[Operation], Callable[[Step], list[int]]] = {
    ops.Input: lambda s: [s.terms.term("input", channel) for channel in range(s.primitive.shape[0])],
    ops.Conv: _mixed,
    ops.Linear: _mixed,
    ops.BatchNorm: _batch_norm,
    ops.GroupNorm: _group_norm,
    ops.LayerNorm: _group_norm,
    ops.Scale: lambda s: _affine(s, s.x, s.labels("weight"), s.labels("bias")),
    ops.Position: lambda s: [s.terms.added(*pair) for pair in zip(s.x, s.labels("weight"), strict=True)],
    ops.PReLU: _prelu,
    ops.Blend: _blend,
    **dict.fromkeys((ops.ReLU, ops.ReLU6, ops.GELU, ops.SiLU, ops.Sigmoid, ops.Hardswish, ops.Hardsigmoid), _functions),
    ops.Dropout: _passed,  # off in both modes, as in `interpreter`
    ops.Identity: _passed,
    ops.MaxPool: _max_pool,
    ops.AvgPool: _avg_pool,
    ops.GlobalPool: _global_pool,
    ops.Flatten: _flatten,
    ops.Select: _select,
    ops.ClassToken: _class_token,
    ops.Slice: lambda s: list(s.x[s.op.start : s.op.stop]),
    ops.ChannelShuffle: lambda s: [s.x[channel] for channel in s.op.order(len(s.x))],
    ops.Add: _add,
    ops.Mean: _add,
    ops.Mul: _mul,
    ops.Concat: lambda s: [x for values in s.inputs for x in values],
    ops.Gate: _gate,
    ops.Attention: _attention,
}
