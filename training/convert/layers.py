"""Layers: how the modules of torch.nn become operations of a genome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from genomes import operations as ops
from training.convert.axes import Atom, joined
from training.convert.walk import BATCH, Handler, Unknown, Value, Walk


def square(name: str, given: Any) -> int:
    """Returns the one number that a setting for both extents has.

    Raises:
        Unknown: it has two.
    """
    pair = tuple(given) if isinstance(given, tuple | list) else (given, given)
    if len(set(pair)) != 1 or not isinstance(pair[0], int):
        raise Unknown(f"{name} must be one number for both extents, got {given}")
    return pair[0]


def only(name: str, given: object, wanted: object) -> None:
    """Raises Unknown unless a setting is the only one that a genome has."""
    if given != wanted:
        raise Unknown(f"{name} must be {wanted!r}, got {given!r}")


def biased(weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
    """Returns the tensors of an operation that may have a bias."""
    return {"weight": weight} if bias is None else {"weight": weight, "bias": bias}


def affine(channels: int, weight: Tensor | None, bias: Tensor | None) -> dict[str, Tensor]:
    """Returns the tensors of a norm: a genome's always has both."""
    default = torch.ones(channels, dtype=torch.float64)
    return {
        "weight": default if weight is None else weight,
        "bias": torch.zeros_like(default) if bias is None else bias,
    }


def conv(walk: Walk, m: nn.Conv2d, x: Value) -> Value:
    """Puts a convolution."""
    only("padding_mode", m.padding_mode, "zeros")
    kernel, stride, dilation = (square(name, getattr(m, name)) for name in ("kernel_size", "stride", "dilation"))
    padding: Any = m.padding
    if padding == "same" and (kernel - 1) * dilation % 2 == 0:
        padding = (kernel - 1) * dilation // 2
    padding = square("padding", 0 if padding == "valid" else padding)
    op = ops.Conv(m.out_channels, kernel, stride, padding, dilation, m.groups, m.bias is not None)
    return walk.put(op, walk.image(x), tensors=biased(m.weight, m.bias))


def linear(walk: Walk, x: Value, weight: Tensor, bias: Tensor | None = None, name: str | None = None) -> Value:
    """Puts a linear map of vectors, or a 1 x 1 convolution of what has its channels last."""
    x, features = walk.settled(x), weight.shape[0]
    is_vector = len(walk.shape_of(x)) == 1
    at_once = walk.is_channels(x, -1) and not is_vector
    if at_once and (len(x.axes) > 2 or walk.place in walk.as_images):
        axes = (*x.axes[:-1], (Atom("c", 1, features),) if features > 1 else ())
        op = ops.Conv(features, 1, bias=bias is not None)
        return walk.put(op, x, axes=axes, name=name, tensors=biased(weight[:, :, None, None], bias))
    if len(x.axes) > 2:
        raise Unknown(f"a linear map needs [N, F], or its channels on the last axis, got {walk.told(x)}")
    return walk.put(ops.Linear(features, bias is not None), walk.vector(x), tensors=biased(weight, bias))


def by_channel(walk: Walk, x: Value) -> Value:
    """Returns a value whose second axis is its channels; one that is flattened becomes a vector."""
    x = walk.settled(x)
    if len(x.axes) == 2 and not walk.is_channels(x, 1):
        x = walk.vector(x)
    if len(x.axes) < 2 or not walk.is_channels(x, 1):
        raise Unknown(f"its input must have its channels on the second axis, got {walk.told(x)}")
    return x


def batch_norm(walk: Walk, m: nn.BatchNorm2d, x: Value) -> Value:
    """Puts a batch norm."""
    if m.running_mean is None or m.running_var is None:
        raise Unknown("track_running_stats must be True, got False")
    tensors = {"running_mean": m.running_mean, "running_var": m.running_var}
    x = by_channel(walk, x)
    tensors |= affine(m.num_features, m.weight, m.bias)
    return walk.put(ops.BatchNorm(m.eps), x, axes=x.axes, tensors=tensors)


def group_norm(walk: Walk, m: nn.GroupNorm, x: Value) -> Value:
    """Puts a group norm."""
    x = by_channel(walk, x)
    return walk.put(
        ops.GroupNorm(m.num_groups, m.eps), x, axes=x.axes, tensors=affine(m.num_channels, m.weight, m.bias)
    )


def layer_norm(
    walk: Walk,
    x: Value,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Value:
    """Puts a norm over the channels, which must be the last axis and all that it is taken over."""
    x, shape = walk.settled(x), tuple(normalized_shape)
    if len(shape) == 1 and len(x.axes) == 2 and not walk.is_channels(x, 1):
        x = walk.vector(x)
    if len(shape) != 1 or not walk.is_channels(x, -1):
        raise Unknown(f"it must be taken over the channels alone, as the last axis, got {list(shape)}")
    return walk.put(ops.LayerNorm(eps), x, axes=x.axes, tensors=affine(shape[0], weight, bias))


def pointwise(walk: Walk, op: ops.Operation, x: Value) -> Value:
    """Puts a function of single numbers, for which axes do not matter."""
    return walk.put(op, x, axes=x.axes)


def dropout(walk: Walk, rate: float, x: Value) -> Value:
    """Puts a dropout, or nothing if it drops nothing."""
    return pointwise(walk, ops.Dropout(float(rate)), x) if rate else x


def prelu(walk: Walk, x: Value, weight: Tensor) -> Value:
    """Puts a PReLU; one slope for all channels becomes one for each."""
    x = by_channel(walk, x)
    slopes = weight.reshape(-1).expand(walk.shape_of(x)[0]).clone()
    return walk.put(ops.PReLU(), x, axes=x.axes, tensors={"weight": slopes})


def leaky_relu(walk: Walk, x: Value, slope: float) -> Value:
    """Puts a PReLU whose slopes are at first the constant one."""
    return prelu(walk, x, torch.tensor([slope], dtype=torch.float64))


def gelu(walk: Walk, x: Value, approximate: str) -> Value:
    """Puts a GELU."""
    only("approximate", approximate, "none")
    return pointwise(walk, ops.GELU(), x)


def max_pool(
    walk: Walk, x: Value, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Value:  # fmt: skip
    """Puts a maximum over windows."""
    only("dilation", square("dilation", dilation), 1)
    only("return_indices", return_indices, False)
    return walk.put(ops.MaxPool(*window(kernel_size, stride, padding), ceil_mode), walk.image(x))


def avg_pool(
    walk: Walk, x: Value, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Value:  # fmt: skip
    """Puts a mean over windows."""
    only("divisor_override", divisor_override, None)
    numbers = window(kernel_size, stride, padding)
    if numbers[2]:
        only("count_include_pad", count_include_pad, True)
    return walk.put(ops.AvgPool(*numbers, ceil_mode), walk.image(x))


def window(kernel: Any, stride: Any, padding: Any) -> tuple[int, int, int]:
    """Returns the settings of a window; it moves by its own extent unless told otherwise."""
    return square("kernel_size", kernel), square("stride", stride or kernel), square("padding", padding)


def adaptive_avg_pool(walk: Walk, x: Value, output_size: Any) -> Value:
    """Puts a mean over all positions, over equal windows, or nothing if the extents are right already."""
    x = walk.image(x)
    extents = walk.shape_of(x)[1:]
    given = tuple(output_size) if isinstance(output_size, tuple | list) else (output_size, output_size)
    wanted = tuple(extent if extent is not None else old for extent, old in zip(given, extents, strict=True))
    if wanted == extents:
        return x
    if wanted == (1, 1):
        return walk.put(ops.GlobalPool(), x)
    windows = {divmod(old, new) for old, new in zip(extents, wanted, strict=True)}
    (window, rest), *others = windows
    if others or rest:
        raise Unknown(f"it must divide the extents {list(extents)} into equal square windows, got {list(wanted)}")
    return walk.put(ops.AvgPool(window, window), x)


def attention(walk: Walk, m: nn.MultiheadAttention, query: Value, key: Value, value: Value, **settings: Any) -> Any:
    """Puts three convolutions, the attention, and a convolution; returns `(value, None)`."""
    for name, wanted in MASKS.items():
        only(name, settings.get(name, wanted), wanted)
    only("dropout", m.dropout, 0.0)
    only("add_zero_attn", m.add_zero_attn, False)
    only("add_bias_kv", m.bias_k is not None, False)
    weights: Sequence[Tensor] = (m.q_proj_weight, m.k_proj_weight, m.v_proj_weight)
    if m.in_proj_weight is not None:
        weights = m.in_proj_weight.chunk(3)
    biases = (None,) * 3 if m.in_proj_bias is None else m.in_proj_bias.chunk(3)
    parts = []
    for name, x, weight, bias in zip(("query", "key", "value"), (query, key, value), weights, biases, strict=True):
        row = (Atom("p", 1, walk.positions(x)),) if walk.positions(x) > 1 else ()
        before = ((Atom("n", 1, BATCH),), row) if m.batch_first else (row, (Atom("n", 1, BATCH),))
        if len(x.axes) != 3 or x.axes[:2] != before:
            raise Unknown(f"its inputs must be [N, L, D], or [L, N, D] without batch_first, got {walk.told(x)}")
        parts.append(linear(walk, x, weight, bias, name))
    found = walk.put(ops.Attention(m.num_heads), *parts, axes=parts[0].axes, name="attention")
    return linear(walk, found, m.out_proj.weight, m.out_proj.bias, "out"), None


MASKS = {"key_padding_mask": None, "attn_mask": None, "is_causal": False}


def flattened(_: Walk, x: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    """Returns a value with some of its axes flattened into one."""
    start, end = start_dim % len(x.axes), end_dim % len(x.axes)
    row = joined([atom for axis in x.axes[start : end + 1] for atom in axis])
    return Value(x.node, (*x.axes[:start], row, *x.axes[end + 1 :]))


def _pointwise(op: ops.Operation) -> Handler:
    return lambda walk, _, x: pointwise(walk, op, x)


POINTWISE: Mapping[Any, ops.Operation] = {
    nn.ReLU: ops.ReLU(),
    nn.ReLU6: ops.ReLU6(),
    nn.SiLU: ops.SiLU(),
    nn.Sigmoid: ops.Sigmoid(),
    nn.Hardswish: ops.Hardswish(),
    nn.Hardsigmoid: ops.Hardsigmoid(),
}
LAYERS: Mapping[Any, Handler] = {
    **{kind: _pointwise(op) for kind, op in POINTWISE.items()},
    nn.Conv2d: conv,
    nn.Linear: lambda walk, m, x: linear(walk, x, m.weight, m.bias),
    nn.BatchNorm2d: batch_norm,
    nn.BatchNorm1d: batch_norm,
    nn.GroupNorm: group_norm,
    nn.LayerNorm: lambda walk, m, x: layer_norm(walk, x, m.normalized_shape, m.weight, m.bias, m.eps),
    nn.GELU: lambda walk, m, x: gelu(walk, x, m.approximate),
    nn.PReLU: lambda walk, m, x: prelu(walk, x, m.weight),
    nn.LeakyReLU: lambda walk, m, x: leaky_relu(walk, x, m.negative_slope),
    nn.MaxPool2d: lambda walk, m, x: max_pool(
        walk, x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices
    ),
    nn.AvgPool2d: lambda walk, m, x: avg_pool(
        walk, x, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, m.divisor_override
    ),
    nn.AdaptiveAvgPool2d: lambda walk, m, x: adaptive_avg_pool(walk, x, m.output_size),
    nn.Dropout: lambda walk, m, x: dropout(walk, m.p, x),
    nn.Identity: lambda *given: given[-1],
    nn.Flatten: lambda walk, m, x: flattened(walk, x, m.start_dim, m.end_dim),
    nn.ChannelShuffle: lambda walk, m, x: walk.put(ops.ChannelShuffle(m.groups), walk.image(x)),
    nn.MultiheadAttention: attention,
}
