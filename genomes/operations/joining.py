"""Operations of several inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from genomes.errors import InvalidGenome
from genomes.operations.base import MAX_CHANNELS, Operation, Shape, Shapes, Trait, bounded


@dataclass(frozen=True)
class Add(Operation):
    """Sum of equally shaped inputs."""

    kind: ClassVar[str] = "add"
    trait: ClassVar[Trait] = Trait.UNITES
    variadic: ClassVar[bool] = True

    def out_shape(self, in_shapes: Sequence[Shape]) -> Shape:
        """Returns the common shape."""
        if len(set(in_shapes)) != 1:
            raise InvalidGenome(f"{self.kind} needs inputs of one shape, got {[list(s) for s in in_shapes]}")
        return in_shapes[0]


@dataclass(frozen=True)
class Mean(Add):
    """Mean of equally shaped inputs."""

    kind: ClassVar[str] = "mean"


@dataclass(frozen=True)
class Mul(Operation):
    """Product of inputs with equal channels; an input `[C, 1, 1]` is spread over all positions."""

    kind: ClassVar[str] = "mul"
    trait: ClassVar[Trait] = Trait.UNITES
    variadic: ClassVar[bool] = True

    def out_shape(self, in_shapes: Sequence[Shape]) -> Shape:
        """Returns the largest of the shapes."""
        largest = max(in_shapes, key=math.prod)
        spread = (largest[0], *(1 for _ in largest[1:]))
        if any(shape not in (largest, spread) for shape in in_shapes):
            raise InvalidGenome(f"mul needs inputs of one shape or [C, 1, 1], got {[list(s) for s in in_shapes]}")
        return largest


@dataclass(frozen=True)
class Concat(Operation):
    """Stacks the channels of inputs of one extent."""

    kind: ClassVar[str] = "concat"
    trait: ClassVar[Trait] = Trait.STACKS
    variadic: ClassVar[bool] = True

    def out_shape(self, in_shapes: Sequence[Shape]) -> Shape:
        """Returns `[ΣC, H, W]` or `[ΣF]`."""
        if len({shape[1:] for shape in in_shapes}) != 1:
            raise InvalidGenome(f"concat needs inputs of one extent, got {[list(s) for s in in_shapes]}")
        channels = sum(shape[0] for shape in in_shapes)
        if channels > MAX_CHANNELS:
            raise InvalidGenome(f"concat makes {channels} channels, at most {MAX_CHANNELS} are allowed")
        return (channels, *in_shapes[0][1:])


@dataclass(frozen=True)
class Gate(Operation):
    """a x + (1 - a) y with one trained a, of two inputs x and y; tensor `weight [1]`."""

    kind: ClassVar[str] = "gate"
    trait: ClassVar[Trait] = Trait.UNITES
    variadic: ClassVar[bool] = True
    shared: ClassVar[bool] = True

    def out_shape(self, in_shapes: Sequence[Shape]) -> Shape:
        """Returns the common shape."""
        if len(in_shapes) != 2 or in_shapes[0] != in_shapes[1]:
            raise InvalidGenome(f"gate needs two inputs of one shape, got {[list(s) for s in in_shapes]}")
        return in_shapes[0]

    def parameter_shapes(self, in_shapes: Sequence[Shape]) -> Shapes:
        """Returns `weight [1]`."""
        return {"weight": (1,)}


@dataclass(frozen=True)
class Attention(Operation):
    """softmax(qᵀk / √dimension) v at every position, for each head; three inputs q, k and v, no tensors.

    q is `[h d, H, W]`, k is `[h d, H', W']`, v is `[h e, H', W']`: the channels of a head lie side by side. Without a
    `dimension` it is d; heads that were grown keep the one that they had.
    Source: Vaswani et al. 2017, Attention is all you need, section 3.2.
    """

    kind: ClassVar[str] = "attention"
    variadic: ClassVar[bool] = True
    heads: int = bounded(1, MAX_CHANNELS, 1)
    dimension: int = bounded(0, MAX_CHANNELS, 0)

    def scale(self, width: int) -> float:
        """Returns 1 / √dimension, given the channels of q."""
        return 1 / math.sqrt(self.dimension or width // self.heads)

    def out_shape(self, in_shapes: Sequence[Shape]) -> Shape:
        """Returns `[h e, H, W]`."""
        told = [list(shape) for shape in in_shapes]
        if len(told) != 3 or any(len(shape) != 3 for shape in told):
            raise InvalidGenome(f"attention needs three inputs [C, H, W], got {told}")
        query, key, value = in_shapes
        if query[0] != key[0] or key[1:] != value[1:]:
            raise InvalidGenome(f"attention needs q and k of one width, k and v of one extent, got {told}")
        if query[0] % self.heads or value[0] % self.heads:
            raise InvalidGenome(f"attention heads must divide its channels, got {self.heads} heads for {told}")
        return (value[0], *query[1:])

    def macs(self, in_shapes: Sequence[Shape]) -> int:
        """Returns L L' (h d + h e), with L and L' positions."""
        query, _, value = in_shapes
        return math.prod(query[1:]) * math.prod(value[1:]) * (query[0] + value[0])
