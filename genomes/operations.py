"""Primitive operations: frozen records that know their shape, tensors, cost and channel trait.

A shape is that of one example, without the batch axis: `[C, H, W]` for images and `[F]` for vectors.
MACs are multiply-accumulates of one example's forward pass; only convolutions and linear maps have any,
as in `torch.utils.flop_counter` (which counts 2 FLOPs a MAC).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from enum import Enum
from typing import Any, ClassVar

from genomes.errors import InvalidGenome

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

MAX_CHANNELS = 4096
MAX_EXTENT = 4096


class Trait(Enum):
    """What an operation does to the identity of channels, as a width edit has to know it."""

    MIXES = "mixes"  # every output channel is new
    PASSES = "passes"  # output channel k is input channel k
    STACKS = "stacks"  # output channels are those of all inputs, one input after the other
    UNITES = "unites"  # channel k of every input is one and the same


def bounded(low: float, high: float, default: Any = MISSING) -> Any:
    """Declares a numeric field with its inclusive range, which the loader enforces."""
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True)
class Operation:
    """A primitive computation, or one of the three marks `input`, `output` and `call`."""

    kind: ClassVar[str]
    trait: ClassVar[Trait] = Trait.PASSES
    variadic: ClassVar[bool] = False  # takes two inputs or more instead of exactly one

    def out_shape(self, in_shapes: Sequence[Shape]) -> Shape:
        """Returns the output's shape.

        Raises:
            InvalidGenome: the inputs do not fit the operation.
        """
        return in_shapes[0]

    def parameter_shapes(self, in_shapes: Sequence[Shape]) -> Shapes:
        """Returns the shapes of the trained tensors by name."""
        return {}

    def buffer_shapes(self, in_shapes: Sequence[Shape]) -> Shapes:
        """Returns the shapes of the tensors that are kept but not trained."""
        return {}

    def macs(self, in_shapes: Sequence[Shape]) -> int:
        """Returns the multiply-accumulates of one example."""
        return 0


def image(in_shapes: Sequence[Shape], kind: str) -> Shape:
    """Returns the only input's `[C, H, W]`.

    Raises:
        InvalidGenome: the input is not an image.
    """
    if len(in_shapes[0]) != 3:
        raise InvalidGenome(f"{kind} needs an input [C, H, W], got {list(in_shapes[0])}")
    return in_shapes[0]


@dataclass(frozen=True)
class Input(Operation):
    """The place where a module's value number `port` comes in; the root's has the example's shape."""

    kind: ClassVar[str] = "input"
    port: int = bounded(0, 15, 0)
    shape: Shape = ()

    def out_shape(self, in_shapes: Sequence[Shape]) -> Shape:
        """Returns the declared shape."""
        if len(self.shape) not in (1, 3):
            raise InvalidGenome(f"the network's input must have a shape [C, H, W] or [F], got {list(self.shape)}")
        return self.shape


@dataclass(frozen=True)
class Output(Operation):
    """The one value that a module returns."""

    kind: ClassVar[str] = "output"


@dataclass(frozen=True)
class Call(Operation):
    """Stands for a whole module; each call has weights of its own."""

    kind: ClassVar[str] = "call"
    module: str = ""


@dataclass(frozen=True)
class Conv(Operation):
    """Two-dimensional convolution; tensors `weight [O, I / groups, k, k]` and, if asked for, `bias [O]`."""

    kind: ClassVar[str] = "conv"
    trait: ClassVar[Trait] = Trait.MIXES
    out_channels: int = bounded(1, MAX_CHANNELS)
    kernel: int = bounded(1, 31, 3)
    stride: int = bounded(1, 32, 1)
    padding: int = bounded(0, 64, 0)
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
class Scale(Operation):
    """Multiplies each channel by a trained number; tensor `weight [C]`."""

    kind: ClassVar[str] = "scale"

    def parameter_shapes(self, in_shapes: Sequence[Shape]) -> Shapes:
        """Returns `weight [C]`."""
        return {"weight": in_shapes[0][:1]}


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
class MaxPool(Operation):
    """Maximum over k x k windows."""

    kind: ClassVar[str] = "max_pool"
    kernel: int = bounded(1, 31, 2)
    stride: int = bounded(1, 32, 2)
    padding: int = bounded(0, 15, 0)

    def out_shape(self, in_shapes: Sequence[Shape]) -> Shape:
        """Returns `[C, H', W']`."""
        channels, height, width = image(in_shapes, self.kind)
        if 2 * self.padding > self.kernel:
            raise InvalidGenome(f"{self.kind} padding must be at most half of kernel {self.kernel}, got {self.padding}")
        return (channels, *(slid(e, self.kernel, self.stride, self.padding) for e in (height, width)))


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


@dataclass(frozen=True)
class Dropout(Operation):
    """Zeroes each number with probability `rate` while training."""

    kind: ClassVar[str] = "dropout"
    rate: float = bounded(0.0, 0.99, 0.1)


@dataclass(frozen=True)
class Identity(Operation):
    """Returns its input."""

    kind: ClassVar[str] = "identity"


@dataclass(frozen=True)
class Flatten(Operation):
    """`[C, H, W]` to `[C H W]`; each channel becomes a block of H W features."""

    kind: ClassVar[str] = "flatten"

    def out_shape(self, in_shapes: Sequence[Shape]) -> Shape:
        """Returns `[C H W]`."""
        return (math.prod(in_shapes[0]),)


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


def slid(extent: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    """Returns the extent that a sliding window leaves.

    Raises:
        InvalidGenome: the window is larger than the padded extent.
    """
    room = extent + 2 * padding - dilation * (kernel - 1) - 1
    if room < 0:
        raise InvalidGenome(
            f"a window of {dilation * (kernel - 1) + 1} does not fit an extent of {extent + 2 * padding}"
        )
    return room // stride + 1


OPERATIONS: Mapping[str, type[Operation]] = {
    operation.kind: operation
    for operation in (
        Input,
        Output,
        Call,
        Conv,
        Linear,
        BatchNorm,
        Scale,
        ReLU,
        GELU,
        SiLU,
        Sigmoid,
        MaxPool,
        AvgPool,
        GlobalPool,
        Dropout,
        Identity,
        Flatten,
        Add,
        Mean,
        Mul,
        Concat,
    )
}
