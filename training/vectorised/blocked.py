"""Blocked: the layout of oneDNN, in which 16 channels of a position lie together, for what torch can compute in it.

Batch norm takes 0.43 ns a number there, forward and backward, and ReLU 0.19, where torch's own take 1.1 and 0.37 with
channels last (Zen 4, bfloat16); convolutions take as long or a tenth less. Channels are filled up to a multiple of 16
by some that are zero, and so are their weights and gradients; parameters keep their shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from training.errors import NonFinite
from training.vectorised.regions import BLOCK, Regions, full


@cache
def available() -> bool:
    """Says whether this processor's fastest layout for a convolution in bfloat16 has blocks of 16 channels."""
    private = ("_is_mkldnn_bf16_supported", "_nbytes")  # operators that another version of torch may not have
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if not all(hasattr(torch.ops.mkldnn, name) for name in private) or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    x, kernel = (torch.ones(shape, dtype=torch.bfloat16) for shape in ((1, BLOCK, 4, 4), (1, BLOCK, 3, 3)))
    y = torch.mkldnn_convolution(x.to_mkldnn(), kernel, None, [1, 1], [1, 1], [1, 1], 1)
    return bool(torch.ops.mkldnn._nbytes(y) == BLOCK * x[0, 0].numel() * x.element_size())


def blocked(network: fx.GraphModule) -> Iterator[tuple[nn.Module, Callable[..., Tensor]]]:
    """Yields modules, each with the function that takes or makes a blocked value for it."""
    regions = Regions(network)
    for node, module in regions.modules.items():
        source = node.all_input_nodes[0]
        taken, made = regions.width(source), regions.width(node)
        if isinstance(module, nn.Conv2d) and (taken or made):
            yield module, partial(_convolved, module, bool(made))
        elif isinstance(module, nn.BatchNorm2d) and taken:
            yield module, partial(_batch_norm, module)
        elif isinstance(module, nn.AdaptiveAvgPool2d) and taken:
            yield module, partial(_mean, taken)
        elif isinstance(module, nn.ReLU) and taken:
            unread = source.target is torch.add or isinstance(regions.modules.get(source), nn.BatchNorm2d)
            yield module, torch.relu_ if unread and len(source.users) == 1 else torch.relu  # by no backward pass
        elif isinstance(module, nn.MaxPool2d) and taken:
            yield module, partial(nn.MaxPool2d.forward, module)


def _convolved(conv: nn.Conv2d, made: bool, x: Tensor) -> Tensor:
    return cast("Tensor", _Convolved.apply(x, conv.weight, conv, made))


def _batch_norm(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Returns x normalised, as `norm` would.

    Raises:
        NonFinite: a mean is NaN or infinite; ReLU and max pool would make zeros of it here.
    """
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    given = [_filled(t, x.shape[1]) for t in (norm.weight, norm.bias, mean, variance)]
    y = functional.batch_norm(x, given[2], given[3], given[0], given[1], True, cast("float", norm.momentum), norm.eps)
    if x.shape[1] != len(mean):
        mean.copy_(given[2][: len(mean)])
        variance.copy_(given[3][: len(mean)])
    if not math.isfinite(total := float(mean.sum())):
        raise NonFinite(f"the mean of a batch norm's input must be finite, it is {total}")
    return y


def _mean(channels: int, x: Tensor) -> Tensor:
    """Returns `[N, C, 1, 1]`, not blocked."""
    return x.to_dense().mean((2, 3), keepdim=True)[:, :channels]


def _filled(vector: Tensor, channels: int) -> Tensor:
    more = channels - len(vector)
    return torch.constant_pad_nd(vector, (0, more)) if more else vector


def _widened(x: Tensor, channels: int) -> Tensor:
    more = channels - x.shape[1]
    return torch.constant_pad_nd(x, (0, 0, 0, 0, 0, more)) if more else x


class _Convolved(torch.autograd.Function):
    """Takes `[N, C, H, W]`, blocked or not, and returns it blocked or not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, conv: nn.Conv2d, made: bool) -> Tensor:
        ctx.conv, ctx.made, ctx.taken = conv, made, x.is_mkldnn
        outputs, single = full(len(weight)), conv.groups > 1  # each channel is made of one
        if not x.is_mkldnn:
            x = _widened(x.to(torch.bfloat16).contiguous(), outputs if single else x.shape[1]).to_mkldnn()
        kernel = torch.constant_pad_nd(
            weight.to(torch.bfloat16),
            (0, 0, 0, 0, 0, 0 if single else x.shape[1] - weight.shape[1], 0, outputs - len(weight)),
        )
        groups = outputs if single else 1
        ctx.groups = groups
        ctx.save_for_backward(x, kernel)
        padding = cast("tuple[int, int]", conv.padding)
        y = torch.mkldnn_convolution(x, kernel, None, padding, conv.stride, conv.dilation, groups)
        if made:
            return y
        return y.to_dense()[:, : len(weight)].contiguous(memory_format=torch.channels_last)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, kernel = ctx.saved_tensors
        conv = ctx.conv
        if not ctx.made:
            gradient = _widened(gradient.contiguous(), len(kernel)).to_mkldnn()
        given: Any = (conv.stride, conv.padding, conv.dilation, False, [0, 0], ctx.groups)
        of_x, of_kernel, _ = torch.ops.aten.convolution_backward(
            gradient, x, kernel, None, *given, [ctx.needs_input_grad[0], True, False]
        )
        channels, inputs = conv.weight.shape[:2]
        if of_x is not None and not ctx.taken:
            of_x = of_x.to_dense()[:, : conv.in_channels]
        return of_x, of_kernel[:channels, :inputs].to(conv.weight.dtype), None, None
