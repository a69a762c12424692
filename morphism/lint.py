"""Trainability lint: finds what an exact edit would plant that never learns, or learns far too fast.

Zeros that the edit makes are followed forward until something that is not zero absorbs them, such as a sum. All is
read off the genome and the expressions; what the parent's weights happen to be is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genomes import Primitive, expand
from genomes import operations as ops
from genomes.operations import Operation
from morphism import tensors as exprs
from morphism.edit import Edit
from morphism.tensors import Gather, TensorExpr

Channels = frozenset[int]  # of a value, that are zero for every input
NONE: Channels = frozenset()
FLAT = ("relu", "relu6")  # have no slope at 0, as torch has it
ELEMENTWISE = (exprs.Pad, exprs.Spread, exprs.Crop, exprs.Part, exprs.Times, exprs.Dense)


def lint(edit: Edit) -> tuple[str, ...]:
    """Returns what is wrong with an edit, or with the composition of several; empty if nothing is.

    Refused are, each because of a failure that was measured:
        * two zeros in series: what is zero is only read by what is zero, and neither ever gets a gradient;
        * zeros before a norm: its gradient is 1 / √ε, about 316 times, too large;
        * zeros before an activation whose slope at 0 is 0: they stay zero for ever.
    """
    walk, expansion = _Walk(edit.tensors), expand(edit.genome)
    for primitive in expansion.primitives.values():
        walk.visit(primitive)
    return tuple(walk.faults)


class _Walk:
    """The state of one way through the graph."""

    def __init__(self, tensors: Mapping[str, TensorExpr]) -> None:
        self.tensors = tensors
        self.zero: dict[str, Channels] = {}
        self.faults: list[str] = []
        self.touched = {name.rpartition(".")[0] for name in tensors}

    def visit(self, primitive: Primitive) -> None:
        """Notes which channels of one value are zero, and what is wrong with that."""
        if primitive.path not in self.touched and self.zero.keys().isdisjoint(primitive.inputs):
            return
        step = _Step(primitive, [self.zero.get(path, NONE) for path in primitive.inputs], self)
        if fault := step.fault():
            self.faults.append(f"{primitive.path}: {fault}")
        if made := step.made():
            self.zero[primitive.path] = made


@dataclass(frozen=True)
class _Step:
    """One primitive, and which channels of its inputs are zero."""

    primitive: Primitive
    reads: Sequence[Channels]
    walk: _Walk

    @property
    def op(self) -> Any:
        return self.primitive.operation

    @property
    def all(self) -> Channels:
        """All channels of the output."""
        return frozenset(range(self.primitive.shape[0]))

    def expression(self, parameter: str) -> TensorExpr | None:
        """Returns the expression of a parameter; None if it is inherited as it is."""
        return self.walk.tensors.get(f"{self.primitive.path}.{parameter}")

    def rows(self, parameter: str) -> Channels:
        """Returns the rows of a parameter that the edit makes zero; all, if the operation has no such parameter."""
        if f"{self.primitive.path}.{parameter}" not in self.primitive.tensor_shapes():
            return self.all
        return _zeros(self.expression(parameter), 0)

    def fault(self) -> str:
        """Returns what is wrong; empty if nothing is."""
        weight, zero = self.expression("weight"), self.reads[0] if self.reads else NONE
        match self.op:
            case ops.Conv() | ops.Linear():
                blocked = bool(zero and self.starved & _zeros(weight, 0))
                return "two zeros in series" if blocked or zero & _zeros(weight, 1) else ""
            case ops.Scale() if zero & _zeros(weight, 0):
                return "two zeros in series"
            case ops.Mul() | ops.Attention() if _both(self.reads[:2] if self.op.kind == "attention" else self.reads):
                return "a product of two zeros"
            case ops.BatchNorm() if zero:
                return "zeros before a norm"
            case ops.LayerNorm() | ops.GroupNorm() if self.constant_groups(getattr(self.op, "groups", 1)):
                return "zeros before a norm"
            case _:
                return "zeros before an activation without a slope at 0" if zero and self.flat() else ""

    @property
    def starved(self) -> Channels:
        """The output channels of a convolution or linear map that read nothing but zeros."""
        groups = getattr(self.op, "groups", 1)
        size, dead = self.primitive.shape[0] // groups, self.constant_groups(groups)
        return frozenset(row for group in dead for row in range(group * size, (group + 1) * size))

    def constant_groups(self, groups: int) -> list[int]:
        """Returns which groups of the input consist of zeros."""
        size, zero = self.primitive.in_shapes[0][0] // groups, self.reads[0]
        if len(zero) < size:
            return []
        return [g for g in range(groups) if zero.issuperset(range(g * size, (g + 1) * size))]

    def flat(self) -> bool:
        """Says whether the operation has no slope at 0."""
        if not isinstance(self.op, ops.Blend):
            return self.op.kind in FLAT
        weight = self.expression("weight")
        share = weight.value if isinstance(weight, exprs.Constant) else None
        return (self.op.first in FLAT and share == 1) or (self.op.second in FLAT and share == 0)

    def made(self) -> Channels:
        """Returns the channels of the output that are zero."""
        made = MADE.get(type(self.op))
        return made(self) if made else NONE


def _both(reads: Sequence[Channels]) -> bool:
    """Says whether some channel is zero in two inputs."""
    return sum(map(len, reads)) > len(frozenset().union(*reads))


def _zeros(expression: TensorExpr | None, axis: int) -> Channels:
    """Returns the slices along an axis that an expression makes zero, whatever its sources hold."""
    match expression:
        case exprs.Constant(shape, value):
            return NONE if value or axis else frozenset(range(shape[0]))
        case Gather(of, own, index, _, new, _, groups):
            inner = _zeros(of, axis)
            if own != axis:
                return inner
            fresh, kept = new == "zero" and -1 in index, inner if groups == 1 else NONE
            if not fresh and not kept:
                return NONE
            return frozenset(k for k, i in enumerate(index) if i in kept or (fresh and i < 0))
        case _ if isinstance(expression, ELEMENTWISE) and (axis == 0 or not isinstance(expression, exprs.Dense)):
            return _zeros(expression.of, axis)
        case _:
            return NONE


def _mixed(s: _Step) -> Channels:
    return (_zeros(s.expression("weight"), 0) | (s.starved if s.reads[0] else NONE)) & s.rows("bias")


def _kept(s: _Step) -> Channels:
    return s.reads[0]


def _flattened(s: _Step) -> Channels:
    extent = math.prod(s.primitive.in_shapes[0][1:])
    return frozenset(place for c in s.reads[0] for place in range(c * extent, (c + 1) * extent))


def _stacked(s: _Step) -> Channels:
    found, start = set[int](), 0
    for zero, shape in zip(s.reads, s.primitive.in_shapes, strict=True):
        found.update(start + channel for channel in zero)
        start += shape[0]
    return frozenset(found)


def _shuffled(s: _Step) -> Channels:
    return frozenset(k for k, old in enumerate(s.op.order(s.primitive.shape[0])) if old in s.reads[0])


def _summed(s: _Step) -> Channels:
    return frozenset.intersection(*s.reads)


MADE: Mapping[type[Operation], Callable[[_Step], Channels]] = {
    ops.Conv: _mixed,
    ops.Linear: _mixed,
    **dict.fromkeys(
        (ops.BatchNorm, ops.GroupNorm, ops.LayerNorm), lambda s: _zeros(s.expression("weight"), 0) & s.rows("bias")
    ),
    ops.Scale: lambda s: s.reads[0] | _zeros(s.expression("weight"), 0),
    **dict.fromkeys(
        (ops.ReLU, ops.ReLU6, ops.GELU, ops.SiLU, ops.Hardswish, ops.PReLU, ops.Blend, ops.Dropout, ops.Identity),
        _kept,
    ),
    **dict.fromkeys((ops.MaxPool, ops.AvgPool, ops.GlobalPool, ops.Select), _kept),
    ops.Flatten: _flattened,
    ops.Slice: lambda s: frozenset(c - s.op.start for c in s.reads[0] if s.op.start <= c < s.op.stop),
    ops.ChannelShuffle: _shuffled,
    ops.Concat: _stacked,
    **dict.fromkeys((ops.Add, ops.Mean, ops.Gate), _summed),
    ops.Mul: lambda s: frozenset().union(*s.reads),
    ops.Attention: lambda s: s.reads[2],
}
