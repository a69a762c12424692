"""Operations that make new channels: every output channel is a weighted sum of input channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from genomes.errors import InvalidGenome
from genomes.operations.base import MAX_CHANNELS, Operation, Shape, Shapes, Trait, bounded, image, slid

MOST_PADDING = 64


@dataclass(frozen=True)
class Conv(Operation):
    """Two-dimensional convolution; tensors `weight [O, I / groups, k, k]` and, if asked for, `bias [O]`."""

    kind: ClassVar[str] = "conv"
    trait: ClassVar[Trait] = Trait.MIXES
    out_channels: int = bounded(1, MAX_CHANNELS)
    kernel: int = bounded(1, 31, 3)
    stride: int = bounded(1, 32, 1)
    padding: int = bounded(0, MOST_PADDING, 0)
    dilation: int = bounded(1, 16, 1)
    groups: int = bounded(1, MAX_CHANNELS, 1)
    bias: bool = False

    @classmethod
    def same(
        cls, out_channels: int, kernel: int, *, stride: int = 1, dilation: int = 1, groups: int = 1, bias: bool = False
    ) -> Conv:
        """Returns a convolution padded so that stride 1 keeps the extent (odd kernels)."""
        return cls(out_channels, kernel, stride, dilation * (kernel - 1) // 2, dilation, groups, bias)

    def out_shape(self, in_shapes: Sequence[Shape]) -> Shape:
        """Returns `[O, H', W']`."""
        channels, height, width = image(in_shapes, self.kind)
        if channels % self.groups or self.out_channels % self.groups:
            raise InvalidGenome(
                f"conv groups must divide its channels, got {self.groups} groups "
                f"for {channels} -> {self.out_channels} channels"
            )
        extents = (slid(e, self.kernel, self.stride, self.padding, self.dilation) for e in (height, width))
        return (self.out_channels, *extents)

    def parameter_shapes(self, in_shapes: Sequence[Shape]) -> Shapes:
        """Returns `weight` and, if there is one, `bias`."""
        weight = (self.out_channels, in_shapes[0][0] // self.groups, self.kernel, self.kernel)
        return {"weight": weight, "bias": (self.out_channels,)} if self.bias else {"weight": weight}

    def macs(self, in_shapes: Sequence[Shape]) -> int:
        """Returns O H' W' (I / groups) k²."""
        return math.prod(self.out_shape(in_shapes)) * (in_shapes[0][0] // self.groups) * self.kernel**2


@dataclass(frozen=True)
class Linear(Operation):
    """Affine map of a vector; tensors `weight [O, F]` and `bias [O]`."""

    kind: ClassVar[str] = "linear"
    trait: ClassVar[Trait] = Trait.MIXES
    out_features: int = bounded(1, MAX_CHANNELS)
    bias: bool = True

    def out_shape(self, in_shapes: Sequence[Shape]) -> Shape:
        """Returns `[O]`."""
        if len(in_shapes[0]) != 1:
            raise InvalidGenome(f"linear needs an input [F], got {list(in_shapes[0])}: flatten it first")
        return (self.out_features,)

    def parameter_shapes(self, in_shapes: Sequence[Shape]) -> Shapes:
        """Returns `weight` and, if there is one, `bias`."""
        weight = (self.out_features, in_shapes[0][0])
        return {"weight": weight, "bias": (self.out_features,)} if self.bias else {"weight": weight}

    def macs(self, in_shapes: Sequence[Shape]) -> int:
        """Returns O F."""
        return self.out_features * in_shapes[0][0]
