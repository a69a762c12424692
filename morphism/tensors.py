"""TensorExpr: how each tensor of a child is made from its parent's tensors; records only, no torch.

Expressions nest, so that composing two edits is substitution: see `algebra.compose`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, replace
from functools import lru_cache
from typing import Any, ClassVar, Literal, get_args

from morphism.errors import Inapplicable

Share = Literal["copy", "split", "equal"]
New = Literal["zero", "one", "random", "opposite"]
Factor = Literal["first", "second"]
Statistic = Literal["mean", "variance", "deviation"]
MAX_NESTING = 256


@dataclass(frozen=True)
class TensorExpr:
    """The recipe of one tensor."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Source(TensorExpr):
    """The parent's tensor called `name`, the same object; if `donor` is 1, that of a crossover's second parent."""

    kind: ClassVar[str] = "source"
    name: str
    donor: int = 0


@dataclass(frozen=True)
class Gather(TensorExpr):
    """Slices of `of` along `axis`, in the order of `index`; -1 leaves room for a new slice, -2 for its partner.

    Attributes:
        share: what slices with equal index hold: `copy`, each the whole; `split`, parts that sum to the whole, drawn
            element by element from `seed` (the last part by subtraction); `equal`, equal parts.
        new: what a new slice holds: `zero`, `one`, or `random`, drawn from `seed` with the root mean square of `of`
            (with He's deviation where `of` is all zero, so that no second zero ever follows a first). The n-th
            partner holds what the n-th new slice holds; with `opposite`, which is random, its negative.
        seed: of the draws.
        groups: `of` is cut into this many equal parts along axis 0, and each is gathered with its own, equally long,
            part of `index`: the weights of a grouped convolution.
    """

    kind: ClassVar[str] = "gather"
    of: TensorExpr
    axis: int
    index: tuple[int, ...]
    share: Share = "copy"
    new: New = "zero"
    seed: int = 0
    groups: int = 1


@dataclass(frozen=True)
class Pad(TensorExpr):
    """`of` with `margin` zeros on each side of its last two axes."""

    kind: ClassVar[str] = "pad"
    of: TensorExpr
    margin: int


@dataclass(frozen=True)
class Crop(TensorExpr):
    """`of` without `margin` entries on each side of its last two axes."""

    kind: ClassVar[str] = "crop"
    of: TensorExpr
    margin: int


@dataclass(frozen=True)
class Spread(TensorExpr):
    """`of` with `step - 1` zeros between neighbours of its last two axes."""

    kind: ClassVar[str] = "spread"
    of: TensorExpr
    step: int


@dataclass(frozen=True)
class Strided(TensorExpr):
    """Every `step`-th entry of `of` along its last two axes: what `Spread` has spread."""

    kind: ClassVar[str] = "strided"
    of: TensorExpr
    step: int


@dataclass(frozen=True)
class Stacked(TensorExpr):
    """The slices of `of` along `axis`, then those of `other`."""

    kind: ClassVar[str] = "stacked"
    of: TensorExpr
    other: TensorExpr
    axis: int


@dataclass(frozen=True)
class Dense(TensorExpr):
    """The weight `[O, I, k, k]` of a dense convolution from that of a grouped one, `[O, I / groups, k, k]`."""

    kind: ClassVar[str] = "dense"
    of: TensorExpr
    groups: int


@dataclass(frozen=True)
class Part(TensorExpr):
    """Part `number` of `count` random parts that sum to `of` element by element, the last by subtraction."""

    kind: ClassVar[str] = "part"
    of: TensorExpr
    number: int
    count: int
    seed: int


@dataclass(frozen=True)
class Merged(TensorExpr):
    """Sums of slices of `of` along `axis`: slice k of the result is the sum of all slices i with `index[i]` = k.

    Slices with a negative index are left out, so that the index of a `Gather` that shares slices undoes it.

    Attributes:
        groups: `of` is cut into this many equal parts along axis 0, and each is summed with its own part of `index`.
    """

    kind: ClassVar[str] = "merged"
    of: TensorExpr
    axis: int
    index: tuple[int, ...]
    groups: int = 1


@dataclass(frozen=True)
class Factored(TensorExpr):
    """A factor of the singular value decomposition of `of` `[O, I, k, k]` or `[O, I]`, of full rank R = min(O, I k²).

    `first` is `[R, I, k, k]` (or `[R, I]`), `second` is `[O, R, 1, 1]` (or `[O, R]`); their product is `of`.
    """

    kind: ClassVar[str] = "factored"
    of: TensorExpr
    factor: Factor


@dataclass(frozen=True)
class Separated(TensorExpr):
    """A factor of the best separable approximation of `of` `[O, I, k, k]`, in the least squares of each input channel.

    `first` is the depthwise weight `[I, 1, k, k]`, `second` the pointwise one `[O, I, 1, 1]`.
    """

    kind: ClassVar[str] = "separated"
    of: TensorExpr
    factor: Factor


@dataclass(frozen=True)
class Measured(TensorExpr):
    """A statistic, over examples and positions, of what the child's batch norm at path `norm` reads.

    `deviation` is √(variance + eps). Without a batch to measure on, or where the norm has not `channels` channels any
    more, it is that of standardised values: 0, 1, √(1 + eps).
    """

    kind: ClassVar[str] = "measured"
    norm: str
    statistic: Statistic
    channels: int


@dataclass(frozen=True)
class Ranked(TensorExpr):
    """Slices of `of` along `axis` that belong to the `keep` members of largest |`by`|, in their old order.

    Attributes:
        members: for each slice, the number of the member that it belongs to; -1 is always kept.
        by: a vector, one entry for each member.
    """

    kind: ClassVar[str] = "ranked"
    of: TensorExpr
    axis: int
    members: tuple[int, ...]
    by: TensorExpr
    keep: int


@dataclass(frozen=True)
class Difference(TensorExpr):
    """`of` minus `less`, of one shape."""

    kind: ClassVar[str] = "difference"
    of: TensorExpr
    less: TensorExpr


@dataclass(frozen=True)
class Folded(TensorExpr):
    """`of`, slice k of its first axis times what a batch norm multiplies by: `gamma[k]` / √(`variance[k]` + `eps`)."""

    kind: ClassVar[str] = "folded"
    of: TensorExpr
    gamma: TensorExpr
    variance: TensorExpr
    eps: float


@dataclass(frozen=True)
class Times(TensorExpr):
    """`of` times a number."""

    kind: ClassVar[str] = "times"
    of: TensorExpr
    factor: float


@dataclass(frozen=True)
class Noise(TensorExpr):
    """`of` plus normal numbers, drawn from `seed`, of `deviation` times its root mean square."""

    kind: ClassVar[str] = "noise"
    of: TensorExpr
    deviation: float
    seed: int


@dataclass(frozen=True)
class Constant(TensorExpr):
    """A tensor filled with one value."""

    kind: ClassVar[str] = "constant"
    shape: tuple[int, ...]
    value: float


@dataclass(frozen=True)
class Dirac(TensorExpr):
    """The weight `[C, C, k, k]` of a convolution, or `[C, C]` of a linear map, that returns its input."""

    kind: ClassVar[str] = "dirac"
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Random(TensorExpr):
    """Normal numbers of standard deviation `deviation`, drawn from `seed`."""

    kind: ClassVar[str] = "random"
    shape: tuple[int, ...]
    deviation: float
    seed: int


EXPRESSIONS: Mapping[str, type[TensorExpr]] = {cls.kind: cls for cls in TensorExpr.__subclasses__()}
CHOICES = {
    "Share": get_args(Share),
    "New": get_args(New),
    "Factor": get_args(Factor),
    "Statistic": get_args(Statistic),
}
LOWEST = {
    "index": -2,
    "members": -1,
    "shape": 1,
    "groups": 1,
    "step": 1,
    "count": 1,
    "keep": 1,
}  # of integers; 0 where nothing is said


def to_json(expression: TensorExpr) -> dict[str, Any]:
    """Returns the expression as JSON values; what has its default is left out."""
    written = [(name, getattr(expression, name), default) for name, default in _defaults(expression.kind)]
    return {"kind": expression.kind, **{name: _plain(value) for name, value, default in written if value != default}}


@lru_cache
def _defaults(kind: str) -> tuple[tuple[str, object], ...]:
    """Returns the fields of a kind of expression with their defaults."""
    return tuple((f.name, f.default) for f in fields(EXPRESSIONS[kind]))


def from_json(document: Any, place: str = "expression", depth: int = 0) -> TensorExpr:
    """Reads what `to_json` wrote.

    Raises:
        Inapplicable: no such expression, nested too deep, or a field is missing, unknown or of the wrong type.
    """
    kind = document.get("kind") if isinstance(document, Mapping) else None
    if not isinstance(kind, str) or kind not in EXPRESSIONS:
        raise Inapplicable(f"{place}: kind must be one of {', '.join(EXPRESSIONS)}, got {str(document)[:60]}")
    if depth > MAX_NESTING:
        raise Inapplicable(f"{place} must nest at most {MAX_NESTING} deep")
    declared = {f.name: f for f in fields(EXPRESSIONS[kind])}
    required = {name for name, f in declared.items() if f.default is MISSING}
    given = set(document) - {"kind"}
    if not required <= given <= set(declared):
        raise Inapplicable(f"{place}: {kind} has the fields {', '.join(declared)}, got {', '.join(sorted(given))}")
    return EXPRESSIONS[kind](**{n: _field(document[n], declared[n], f"{place}.{n}", depth) for n in sorted(given)})


def substitute(expression: TensorExpr, definitions: Mapping[str, TensorExpr]) -> TensorExpr:
    """Returns `expression` with each source that has a definition replaced by it."""
    if isinstance(expression, Source):
        return expression if expression.donor else definitions.get(expression.name, expression)
    return rebuilt(expression, lambda inner: substitute(inner, definitions))


def within(expression: TensorExpr) -> Iterator[TensorExpr]:
    """Yields an expression and all that are nested in it."""
    yield expression
    for name in _nested(expression.kind):
        yield from within(getattr(expression, name))


def rebuilt(expression: TensorExpr, change: Callable[[TensorExpr], TensorExpr]) -> TensorExpr:
    """Returns an expression with those in it changed; the same object where no change changes any."""
    inner = {name: getattr(expression, name) for name in _nested(expression.kind)}
    made = {name: change(value) for name, value in inner.items()}
    return replace(expression, **made) if any(made[name] is not value for name, value in inner.items()) else expression


@lru_cache
def _nested(kind: str) -> tuple[str, ...]:
    """Returns the names of the fields of a kind of expression that hold expressions."""
    return tuple(f.name for f in fields(EXPRESSIONS[kind]) if f.type == "TensorExpr")


def _plain(value: Any) -> Any:
    if isinstance(value, TensorExpr):
        return to_json(value)
    return list(value) if isinstance(value, tuple) else value


def _field(value: Any, declared: Field[Any], place: str, depth: int) -> Any:
    low = LOWEST.get(declared.name, 0)
    match declared.type:
        case "TensorExpr":
            return from_json(value, place, depth + 1)
        case "int":
            return _integer(value, low, place)
        case "tuple[int, ...]" if isinstance(value, list):
            return tuple(_integer(entry, low, place) for entry in value)
        case "float" if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        case "str" if isinstance(value, str):
            return value
        case str() as kind if value in CHOICES.get(kind, ()):
            return value
        case _:
            raise Inapplicable(f"{place} must be {declared.type}, got {str(value)[:60]}")


def _integer(value: Any, low: int, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise Inapplicable(f"{place} must be an integer of at least {low}, got {str(value)[:60]}")
    return value
