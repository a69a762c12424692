"""Operations that put numbers in other places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from genomes.errors import InvalidGenome
from genomes.operations.base import MAX_CHANNELS, MAX_EXTENT, Operation, Shape, Shapes, Trait, bounded, image


@dataclass(frozen=True)
class Flatten(Operation):
    """`[C, H, W]` to `[C H W]`; each channel becomes a block of H W features."""

    kind: ClassVar[str] = "flatten"

    def out_shape(self, in_shapes: Sequence[Shape]) -> Shape:
        """Returns `[C H W]`."""
        return (math.prod(in_shapes[0]),)


@dataclass(frozen=True)
class Slice(Operation):
    """Channels `start` to `stop` (excluded) of its input."""

    kind: ClassVar[str] = "slice"
    start: int = bounded(0, MAX_CHANNELS)
    stop: int = bounded(1, MAX_CHANNELS)

    def out_shape(self, in_shapes: Sequence[Shape]) -> Shape:
        """Returns `[stop - start, ...]`."""
        if not self.start < self.stop <= in_shapes[0][0]:
            raise InvalidGenome(f"slice {self.start}:{self.stop} must lie in its {in_shapes[0][0]} channels")
        return (self.stop - self.start, *in_shapes[0][1:])


@dataclass(frozen=True)
class ChannelShuffle(Operation):
    """Deals channels out: input channel i of group g becomes output channel i G + g, with G groups.

    Source: Zhang et al. 2018, ShuffleNet, section 3.1.
    """

    kind: ClassVar[str] = "channel_shuffle"
    trait: ClassVar[Trait] = Trait.FREEZES
    groups: int = bounded(1, MAX_CHANNELS)

    def out_shape(self, in_shapes: Sequence[Shape]) -> Shape:
        """Returns the input's shape."""
        channels = image(in_shapes, self.kind)[0]
        if channels % self.groups:
            raise InvalidGenome(f"channel_shuffle groups must divide its {channels} channels, got {self.groups}")
        return in_shapes[0]

    def order(self, channels: int) -> list[int]:
        """Returns the input channel that each output channel is."""
        size = channels // self.groups
        return [group * size + place for place in range(size) for group in range(self.groups)]


@dataclass(frozen=True)
class ClassToken(Operation):
    """Lays the positions in a row behind a trained first one: `[C, H, W]` to `[C, H W + 1, 1]`; tensor `weight [C]`.

    Source: Dosovitskiy et al. 2021, An image is worth 16x16 words, section 3.1.
    """

    kind: ClassVar[str] = "class_token"

    def out_shape(self, in_shapes: Sequence[Shape]) -> Shape:
        """Returns `[C, H W + 1, 1]`."""
        channels, height, width = image(in_shapes, self.kind)
        return (channels, height * width + 1, 1)

    def parameter_shapes(self, in_shapes: Sequence[Shape]) -> Shapes:
        """Returns `weight [C]`."""
        return {"weight": in_shapes[0][:1]}


@dataclass(frozen=True)
class Select(Operation):
    """One position, counted row by row: `[C, H, W]` to `[C, 1, 1]`."""

    kind: ClassVar[str] = "select"
    index: int = bounded(0, MAX_EXTENT, 0)

    def out_shape(self, in_shapes: Sequence[Shape]) -> Shape:
        """Returns `[C, 1, 1]`."""
        channels, *extents = image(in_shapes, self.kind)
        if self.index >= math.prod(extents):
            raise InvalidGenome(f"select needs a position below {math.prod(extents)}, got {self.index}")
        return (channels, 1, 1)
