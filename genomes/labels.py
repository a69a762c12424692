"""The words on a box of a drawing."""

from __future__ import annotations

from collections.abc import Sequence

from genomes.expansion import Primitive
from genomes.operations import Conv, Dropout, Input, Linear, MaxPool, Operation

NAMES = {
    "batch_norm": "bn",
    "add": "+",
    "mul": "×",
    "global_pool": "global pool",
    "relu": "relu",
    "gelu": "GELU",
    "silu": "SiLU",
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
    match operation:
        case Conv():
            return f"conv {operation.kernel}×{operation.kernel}, {operation.out_channels}{_conv(operation, primitive)}"
        case Linear():
            return f"linear {operation.out_features}"
        case MaxPool():
            name, stride = operation.kind.replace("_", " "), operation.stride
            return f"{name} {operation.kernel}×{operation.kernel}" + (f", /{stride}" if stride > 1 else "")
        case Dropout():
            return f"dropout {operation.rate:.2g}"
        case Input():
            return "input"
        case _:
            return _name(operation)


def _conv(operation: Conv, primitive: Primitive) -> str:
    words = f", /{operation.stride}" if operation.stride > 1 else ""
    words += f", dilation {operation.dilation}" if operation.dilation > 1 else ""
    if operation.groups > 1:
        whole = operation.groups == primitive.in_shapes[0][0]
        words += ", depthwise" if whole else f", {operation.groups} groups"
    return words


def _name(operation: Operation) -> str:
    return NAMES.get(operation.kind, operation.kind.replace("_", " "))
