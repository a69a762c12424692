"""Runs a genome on its weights directly, without building modules; what certificates measure with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from genomes import Genome, Primitive, expand
from genomes import operations as ops

Weights = Mapping[str, Tensor]


def run(genome: Genome, weights: Weights, images: Tensor, train: bool = False) -> Tensor:
    """Returns the outputs `[N, classes]` of the network on `images` `[N, C, H, W]`.

    Args:
        genome: the architecture; its expansion is run node by node, nothing is simplified.
        weights: its tensors by name, with the dtype of `images`.
        images: the batch.
        train: whether norms use the statistics of the batch; the running ones stay untouched. Dropout is always off.
    """
    expansion = expand(genome)
    values: dict[str, Tensor] = {}
    for path, primitive in expansion.primitives.items():
        if isinstance(primitive.operation, ops.Input):
            values[path] = images
        else:
            values[path] = _apply(primitive, [values[source] for source in primitive.inputs], weights, train)
    return values[expansion.output]


def _apply(primitive: Primitive, inputs: Sequence[Tensor], weights: Weights, train: bool) -> Tensor:
    op, x = primitive.operation, inputs[0]

    def tensor(name: str) -> Tensor:
        return weights[f"{primitive.path}.{name}"]

    match op:
        case ops.Conv():
            bias = tensor("bias") if op.bias else None
            return functional.conv2d(x, tensor("weight"), bias, op.stride, op.padding, op.dilation, op.groups)
        case ops.Linear():
            return functional.linear(x, tensor("weight"), tensor("bias") if op.bias else None)
        case ops.BatchNorm():
            mean, variance = (None, None) if train else (tensor("running_mean"), tensor("running_var"))
            return functional.batch_norm(x, mean, variance, tensor("weight"), tensor("bias"), train, eps=op.eps)
        case ops.Scale():
            return x * tensor("weight").reshape(-1, *[1] * (x.dim() - 2))
        case _ if op.variadic:
            return MANY[type(op)](inputs)
        case _:
            return ONE[type(op)](op, x)


def _sum(inputs: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, inputs)


MANY: Mapping[type[ops.Operation], Callable[[Sequence[Tensor]], Tensor]] = {
    ops.Add: _sum,
    ops.Mean: lambda inputs: _sum(inputs) / len(inputs),
    ops.Mul: lambda inputs: reduce(torch.mul, inputs),
    ops.Concat: lambda inputs: torch.cat(list(inputs), 1),
}
ONE: Mapping[type[ops.Operation], Callable[[Any, Tensor], Tensor]] = {
    ops.ReLU: lambda _, x: functional.relu(x),
    ops.GELU: lambda _, x: functional.gelu(x),
    ops.SiLU: lambda _, x: functional.silu(x),
    ops.Sigmoid: lambda _, x: torch.sigmoid(x),
    ops.MaxPool: lambda op, x: functional.max_pool2d(x, op.kernel, op.stride, op.padding),
    ops.AvgPool: lambda op, x: functional.avg_pool2d(x, op.kernel, op.stride, op.padding),
    ops.GlobalPool: lambda _, x: x.mean((2, 3), keepdim=True),
    ops.Dropout: lambda _, x: x,
    ops.Identity: lambda _, x: x,
    ops.Flatten: lambda _, x: x.flatten(1),
}
