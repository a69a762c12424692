"""Functions of a single number, and dropout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from genomes.errors import InvalidGenome
from genomes.operations.base import Operation, Shape, Shapes, bounded

BLENDED = ("identity", "relu", "gelu", "silu")


@dataclass(frozen=True)
class ReLU(Operation):
    """max(x, 0)."""

    kind: ClassVar[str] = "relu"


@dataclass(frozen=True)
class GELU(Operation):
    """x Φ(x), exact form."""

    kind: ClassVar[str] = "gelu"


@dataclass(frozen=True)
class SiLU(Operation):
    """x σ(x)."""

    kind: ClassVar[str] = "silu"


@dataclass(frozen=True)
class Sigmoid(Operation):
    """σ(x)."""

    kind: ClassVar[str] = "sigmoid"


@dataclass(frozen=True)
class ReLU6(Operation):
    """min(max(x, 0), 6)."""

    kind: ClassVar[str] = "relu6"


@dataclass(frozen=True)
class Hardswish(Operation):
    """x min(max(x + 3, 0), 6) / 6."""

    kind: ClassVar[str] = "hardswish"


@dataclass(frozen=True)
class Hardsigmoid(Operation):
    """min(max(x + 3, 0), 6) / 6."""

    kind: ClassVar[str] = "hardsigmoid"


@dataclass(frozen=True)
class PReLU(Operation):
    """x where it is positive, a x elsewhere, with a trained slope a for each channel; tensor `weight [C]`.

    Source: He et al. 2015, Delving deep into rectifiers.
    """

    kind: ClassVar[str] = "prelu"

    def parameter_shapes(self, in_shapes: Sequence[Shape]) -> Shapes:
        """Returns `weight [C]`."""
        return {"weight": in_shapes[0][:1]}


@dataclass(frozen=True)
class Blend(Operation):
    """a f(x) + (1 - a) g(x) with one trained a; tensor `weight [1]`.

    Attributes:
        first: f, one of `identity`, `relu`, `gelu`, `silu`.
        second: g, another of these.
    """

    kind: ClassVar[str] = "blend"
    shared: ClassVar[bool] = True
    first: str = "relu"
    second: str = "silu"

    def out_shape(self, in_shapes: Sequence[Shape]) -> Shape:
        """Returns the input's shape."""
        if self.first not in BLENDED or self.second not in BLENDED or self.first == self.second:
            raise InvalidGenome(f"blend needs two of {', '.join(BLENDED)}, got {self.first} and {self.second}")
        return in_shapes[0]

    def parameter_shapes(self, in_shapes: Sequence[Shape]) -> Shapes:
        """Returns `weight [1]`."""
        return {"weight": (1,)}


@dataclass(frozen=True)
class Dropout(Operation):
    """Zeroes each number with probability `rate` while training."""

    kind: ClassVar[str] = "dropout"
    rate: float = bounded(0.0, 0.99, 0.1)


@dataclass(frozen=True)
class Identity(Operation):
    """Returns its input."""

    kind: ClassVar[str] = "identity"
