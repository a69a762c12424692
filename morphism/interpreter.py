"""Runs a genome on its weights directly, without building modules; what certificates measure with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    return values(genome, weights, images, train)[expand(genome).output]


def values(genome: Genome, weights: Weights, images: Tensor, train: bool = False) -> dict[str, Tensor]:
    """Returns, by path, what every primitive computes; see `run`."""
    found: dict[str, Tensor] = {}
    for path, primitive in expand(genome).primitives.items():
        if isinstance(primitive.operation, ops.Input):
            found[path] = images
        else:
            found[path] = _apply(primitive, [found[source] for source in primitive.inputs], weights, train)
    return found


@dataclass(frozen=True)
class _Step:
    """One primitive at work: its operation, its inputs, its tensors by name, and the mode."""

    op: Any
    inputs: Sequence[Tensor]
    tensors: Mapping[str, Tensor]
    train: bool

    @property
    def x(self) -> Tensor:
        return self.inputs[0]

    @property
    def weight(self) -> Tensor:
        return self.tensors["weight"]

    @property
    def bias(self) -> Tensor | None:
        return self.tensors.get("bias")


def _apply(primitive: Primitive, inputs: Sequence[Tensor], weights: Weights, train: bool) -> Tensor:
    tensors = {name.rpartition(".")[2]: weights[name] for name in primitive.tensor_shapes()}
    return APPLIED[type(primitive.operation)](_Step(primitive.operation, inputs, tensors, train))


def attention(heads: int, scale: float, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Returns softmax(scale qᵀk) v by head, of images `[N, h d, H, W]`, `[N, h d, H', W']`, `[N, h e, H', W']`."""
    q, k, v = (x.flatten(2).reshape(len(x), heads, x.shape[1] // heads, -1) for x in (query, key, value))
    shares = (scale * (q.transpose(2, 3) @ k)).softmax(3)
    return (v @ shares.transpose(2, 3)).reshape(len(v), -1, *query.shape[2:])


def _conv(s: _Step) -> Tensor:
    op = s.op
    return functional.conv2d(s.x, s.weight, s.bias, op.stride, op.padding, op.dilation, op.groups)


def _batch_norm(s: _Step) -> Tensor:
    mean, variance = (None if s.train else s.tensors[f"running_{name}"] for name in ("mean", "var"))
    return functional.batch_norm(s.x, mean, variance, s.weight, s.bias, s.train, eps=s.op.eps)


def _layer_norm(s: _Step) -> Tensor:
    return (
        functional.layer_norm(s.x.movedim(1, -1), s.x.shape[1:2], s.weight, s.bias, s.op.eps)
        .movedim(-1, 1)
        .contiguous()
    )


def _class_token(s: _Step) -> Tensor:
    token = s.weight.reshape(1, -1, 1, 1).expand(len(s.x), -1, -1, -1)
    return torch.cat([token, s.x.flatten(2).unsqueeze(3)], 2)


def _channel_shuffle(s: _Step) -> Tensor:
    grouped = s.x.reshape(len(s.x), s.op.groups, -1, *s.x.shape[2:])
    return grouped.transpose(1, 2).reshape(s.x.shape)


def _sum(s: _Step) -> Tensor:
    return reduce(torch.add, s.inputs)


BLENDED: Mapping[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
}
APPLIED: Mapping[type[ops.Operation], Callable[[_Step], Tensor]] = {
    ops.Conv: _conv,
    ops.Linear: lambda s: functional.linear(s.x, s.weight, s.bias),
    ops.BatchNorm: _batch_norm,
    ops.GroupNorm: lambda s: functional.group_norm(s.x, s.op.groups, s.weight, s.bias, s.op.eps),
    ops.LayerNorm: _layer_norm,
    ops.Scale: lambda s: s.x * s.weight.reshape(-1, *[1] * (s.x.dim() - 2)),
    ops.Position: lambda s: s.x + s.weight,
    ops.ReLU: lambda s: functional.relu(s.x),
    ops.ReLU6: lambda s: functional.relu6(s.x),
    ops.GELU: lambda s: functional.gelu(s.x),
    ops.SiLU: lambda s: functional.silu(s.x),
    ops.Sigmoid: lambda s: torch.sigmoid(s.x),
    ops.Hardswish: lambda s: functional.hardswish(s.x),
    ops.Hardsigmoid: lambda s: functional.hardsigmoid(s.x),
    ops.PReLU: lambda s: functional.prelu(s.x, s.weight),
    # lerp(b, a, 1) is a to the last bit
    ops.Blend: lambda s: torch.lerp(BLENDED[s.op.second](s.x), BLENDED[s.op.first](s.x), s.weight),
    ops.MaxPool: lambda s: functional.max_pool2d(s.x, s.op.kernel, s.op.stride, s.op.padding, 1, s.op.ceil),
    ops.AvgPool: lambda s: functional.avg_pool2d(s.x, s.op.kernel, s.op.stride, s.op.padding, s.op.ceil),
    ops.GlobalPool: lambda s: s.x.mean((2, 3), keepdim=True),
    ops.Dropout: lambda s: s.x,
    ops.Identity: lambda s: s.x,
    ops.Flatten: lambda s: s.x.flatten(1),
    # views would let later sums run in another order, and cost what is bit-identical its bits
    ops.Slice: lambda s: s.x[:, s.op.start : s.op.stop].contiguous(),
    ops.ChannelShuffle: _channel_shuffle,
    ops.ClassToken: _class_token,
    ops.Select: lambda s: s.x.flatten(2)[:, :, s.op.index, None, None],
    ops.Add: _sum,
    ops.Mean: lambda s: _sum(s) / len(s.inputs),
    ops.Mul: lambda s: reduce(torch.mul, s.inputs),
    ops.Concat: lambda s: torch.cat(list(s.inputs), 1),
    ops.Gate: lambda s: torch.lerp(s.inputs[1], s.x, s.weight),
    ops.Attention: lambda s: attention(s.op.heads, s.op.scale(s.x.shape[1]), *s.inputs),
}
