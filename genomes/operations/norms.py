"""Normalisation, and what scales or shifts each channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from genomes.errors import InvalidGenome
from genomes.operations.base import MAX_CHANNELS, Operation, Shape, Shapes, Trait, bounded, image


@dataclass(frozen=True)
class BatchNorm(Operation):
    """Batch normalisation over `[C, H, W]` or `[F]`; tensors `weight`, `bias`, `running_mean`, `running_var`."""

    kind: ClassVar[str] = "batch_norm"
    eps: float = bounded(1e-12, 1.0, 1e-5)

    def parameter_shapes(self, in_shapes: Sequence[Shape]) -> Shapes:
        """Returns `weight [C]` and `bias [C]`."""
        return {"weight": in_shapes[0][:1], "bias": in_shapes[0][:1]}

    def buffer_shapes(self, in_shapes: Sequence[Shape]) -> Shapes:
        """Returns `running_mean [C]` and `running_var [C]`."""
        return {"running_mean": in_shapes[0][:1], "running_var": in_shapes[0][:1]}


@dataclass(frozen=True)
class GroupNorm(Operation):
    """Normalisation of each example over a group of channels and all positions; tensors `weight [C]`, `bias [C]`.

    Source: Wu & He 2018, Group Normalization.
    """

    kind: ClassVar[str] = "group_norm"
    trait: ClassVar[Trait] = Trait.COUPLES
    groups: int = bounded(1, MAX_CHANNELS, 1)
    eps: float = bounded(1e-12, 1.0, 1e-5)

    def out_shape(self, in_shapes: Sequence[Shape]) -> Shape:
        """Returns the input's shape."""
        if in_shapes[0][0] % self.groups:
            raise InvalidGenome(f"group_norm groups must divide its {in_shapes[0][0]} channels, got {self.groups}")
        return in_shapes[0]

    def parameter_shapes(self, in_shapes: Sequence[Shape]) -> Shapes:
        """Returns `weight [C]` and `bias [C]`."""
        return {"weight": in_shapes[0][:1], "bias": in_shapes[0][:1]}


@dataclass(frozen=True)
class LayerNorm(Operation):
    """Normalisation over the channels, at each position for itself; tensors `weight [C]`, `bias [C]`.

    Source: Ba et al. 2016, Layer Normalization; at each position as in ConvNeXt (Liu et al. 2022).
    """

    kind: ClassVar[str] = "layer_norm"
    trait: ClassVar[Trait] = Trait.COUPLES
    eps: float = bounded(1e-12, 1.0, 1e-5)

    def parameter_shapes(self, in_shapes: Sequence[Shape]) -> Shapes:
        """Returns `weight [C]` and `bias [C]`."""
        return {"weight": in_shapes[0][:1], "bias": in_shapes[0][:1]}


@dataclass(frozen=True)
class Scale(Operation):
    """Multiplies each channel by a trained number; tensor `weight [C]`."""

    kind: ClassVar[str] = "scale"

    def parameter_shapes(self, in_shapes: Sequence[Shape]) -> Shapes:
        """Returns `weight [C]`."""
        return {"weight": in_shapes[0][:1]}


@dataclass(frozen=True)
class Position(Operation):
    """Adds a trained number to each channel at each position; tensor `weight [C, H, W]`."""

    kind: ClassVar[str] = "position"

    def out_shape(self, in_shapes: Sequence[Shape]) -> Shape:
        """Returns the input's shape."""
        return image(in_shapes, self.kind)

    def parameter_shapes(self, in_shapes: Sequence[Shape]) -> Shapes:
        """Returns `weight [C, H, W]`."""
        return {"weight": in_shapes[0]}
