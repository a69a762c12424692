"""Primitive operations: frozen records that know their shape, tensors, cost and channel trait.

A shape is that of one example, without the batch axis: `[C, H, W]` for images and `[F]` for vectors.
MACs are multiply-accumulates of one example's forward pass; only convolutions and linear maps have any,
as in `torch.utils.flop_counter` (which counts 2 FLOPs a MAC).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum
from functools import cached_property
from typing import Any, ClassVar

from genomes.errors import InvalidGenome

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

MAX_CHANNELS = 4096
MAX_EXTENT = 4096
MOST_TEXTS = 2**12  # remembered


class Trait(Enum):
    """What an operation does to the identity of channels, as a width edit has to know it."""

    MIXES = "mixes"  # every output channel is new
    PASSES = "passes"  # output channel k is input channel k
    COUPLES = "couples"  # the same, but it depends on all: only replicas of every channel alike leave it as it is
    STACKS = "stacks"  # output channels are those of all inputs, one input after the other
    UNITES = "unites"  # channel k of every input is one and the same
    FREEZES = "freezes"  # output channels are input channels in another order that no width edit may change


def bounded(low: float, high: float, default: Any = MISSING) -> Any:
    """Declares a numeric field with its inclusive range, which the loader enforces."""
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True)
class Operation:
    """A primitive computation, or one of the three marks `input`, `output` and `call`."""

    kind: ClassVar[str]
    trait: ClassVar[Trait] = Trait.PASSES
    variadic: ClassVar[bool] = False  # takes two inputs or more instead of exactly one
    shared: ClassVar[bool] = False  # its tensors belong to no channel

    @cached_property
    def text(self) -> tuple[str, str]:
        """What stands before and behind the id of a node with this operation in canonical JSON.

        Raises:
            TypeError: a field is nothing that JSON knows.
            ValueError: a number is not finite.
        """
        key = (type(self), repr(vars(self)))  # as values 0, 0.0, -0.0 and false are equal
        if (known := _texts.get(key)) is None:
            if len(_texts) >= MOST_TEXTS:
                _texts.clear()
            known = _texts[key] = _text(self)
        return known

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


_texts: dict[tuple[type, str], tuple[str, str]] = {}


def _text(operation: Operation) -> tuple[str, str]:
    entry = {"id": "", "op": operation.kind, **{f.name: getattr(operation, f.name) for f in fields(operation)}}
    text = json.dumps(entry, sort_keys=True, separators=(",", ":"), allow_nan=False)
    before, _, behind = text.partition('"id":""')  # in a string, quotes are escaped
    return f'{before}"id":', behind


def image(in_shapes: Sequence[Shape], kind: str) -> Shape:
    """Returns the only input's `[C, H, W]`.

    Raises:
        InvalidGenome: the input is not an image.
    """
    if len(in_shapes[0]) != 3:
        raise InvalidGenome(f"{kind} needs an input [C, H, W], got {list(in_shapes[0])}")
    return in_shapes[0]


def slid(extent: int, kernel: int, stride: int, padding: int, dilation: int = 1, *, ceil: bool = False) -> int:
    """Returns the extent that a sliding window leaves.

    Raises:
        InvalidGenome: the window is larger than the padded extent.
    """
    room = extent + 2 * padding - dilation * (kernel - 1) - 1
    if room < 0:
        raise InvalidGenome(
            f"a window of {dilation * (kernel - 1) + 1} does not fit an extent of {extent + 2 * padding}"
        )
    count = -(-room // stride) if ceil else room // stride
    if ceil and count * stride >= extent + padding:
        count -= 1  # a window that starts beyond the image is left out, as in torch
    return count + 1


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
