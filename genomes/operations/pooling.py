"""Operations that gather over positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from genomes.errors import InvalidGenome
from genomes.operations.base import Operation, Shape, bounded, image, slid


@dataclass(frozen=True)
class MaxPool(Operation):
    """Maximum over k x k windows; `ceil` also takes a last window that is only partly inside."""

    kind: ClassVar[str] = "max_pool"
    kernel: int = bounded(1, 31, 2)
    stride: int = bounded(1, 32, 2)
    padding: int = bounded(0, 15, 0)
    ceil: bool = False

    def out_shape(self, in_shapes: Sequence[Shape]) -> Shape:
        """Returns `[C, H', W']`."""
        channels, height, width = image(in_shapes, self.kind)
        if 2 * self.padding > self.kernel:
            raise InvalidGenome(f"{self.kind} padding must be at most half of kernel {self.kernel}, got {self.padding}")
        return (channels, *(slid(e, self.kernel, self.stride, self.padding, ceil=self.ceil) for e in (height, width)))


@dataclass(frozen=True)
class AvgPool(MaxPool):
    """Mean over k x k windows, padding counted as zeros."""

    kind: ClassVar[str] = "avg_pool"


@dataclass(frozen=True)
class GlobalPool(Operation):
    """Mean over all positions: `[C, H, W]` to `[C, 1, 1]`."""

    kind: ClassVar[str] = "global_pool"

    def out_shape(self, in_shapes: Sequence[Shape]) -> Shape:
        """Returns `[C, 1, 1]`."""
        return (image(in_shapes, self.kind)[0], 1, 1)
