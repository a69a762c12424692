"""The words on a box of a drawing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from genomes.expansion import Primitive
from genomes.operations import (
    Attention,
    AvgPool,
    Blend,
    ChannelShuffle,
    Conv,
    Dropout,
    GroupNorm,
    Linear,
    MaxPool,
    Operation,
    Select,
    Slice,
)

NAMES = {
    "batch_norm": "bn",
    "layer_norm": "ln",
    "add": "+",
    "mul": "×",
    "global_pool": "global pool",
    "relu": "relu",
    "gelu": "GELU",
    "silu": "SiLU",
    "prelu": "PReLU",
}
FAMILIES = {
    "conv": "conv",
    "linear": "linear",
    "max_pool": "pool",
    "avg_pool": "pool",
    "global_pool": "pool",
    "add": "join",
    "mean": "join",
    "mul": "join",
    "concat": "join",
    "gate": "join",
    "attention": "join",
    "select": "pool",
    "input": "end",
}


def label(members: Sequence[Primitive]) -> str:
    """Returns the line that says what a box does, such as `conv 3×3, 16, /2 · bn · relu`."""
    return " · ".join(_words(p) for p in members) or "output"


def family(members: Sequence[Primitive]) -> str:
    """Returns the family of operations that gives a box its colour."""
    return FAMILIES.get(members[0].operation.kind, "pointwise") if members else "end"


def extent(primitive: Primitive) -> str:
    """Returns the shape of a value, such as `16 × 14 × 14`."""
    return " × ".join(str(number) for number in primitive.shape)


def short(number: int) -> str:
    """Returns a count in at most four letters and a unit, such as `12.3 k`."""
    for size, unit in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}" if number < 999.5 * size else f"{number / size:.0f}{unit}"
    return str(number)


def _words(primitive: Primitive) -> str:
    operation = primitive.operation
    if isinstance(operation, Conv):
        return f"conv {operation.kernel}×{operation.kernel}, {operation.out_channels}{_conv(operation, primitive)}"
    return WORDS.get(type(operation), _name)(operation)


def _conv(operation: Conv, primitive: Primitive) -> str:
    words = f", /{operation.stride}" if operation.stride > 1 else ""
    words += f", dilation {operation.dilation}" if operation.dilation > 1 else ""
    if operation.groups > 1:
        whole = operation.groups == primitive.in_shapes[0][0]
        words += ", depthwise" if whole else f", {operation.groups} groups"
    return words


def _several(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _name(operation: Operation) -> str:
    return NAMES.get(operation.kind, operation.kind.replace("_", " "))


def _pool(operation: MaxPool) -> str:
    words = f"{_name(operation)} {operation.kernel}×{operation.kernel}"
    return words + (f", /{operation.stride}" if operation.stride > 1 else "")


WORDS: Mapping[type[Operation], Callable[[Any], str]] = {
    Linear: lambda op: f"linear {op.out_features}",
    MaxPool: _pool,
    AvgPool: _pool,
    Dropout: lambda op: f"dropout {op.rate:.2g}",
    GroupNorm: lambda op: f"gn, {_several(op.groups, 'group')}",
    ChannelShuffle: lambda op: f"shuffle, {_several(op.groups, 'group')}",
    Attention: lambda op: f"attention, {_several(op.heads, 'head')}",
    Blend: lambda op: f"blend {op.first}, {op.second}",
    Slice: lambda op: f"channels {op.start} to {op.stop - 1}",
    Select: lambda op: f"position {op.index}",
}
