"""ReLU: on the bits of numbers, and on what is left of them by a max pool behind it."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from training.vectorised.layout import integers, last
from training.vectorised.pool import maxima, of_maxima

LOWEST = {torch.bfloat16: -(2**7), torch.float32: -(2**23), torch.float64: -(2**52)}  # the bits of minus infinity
LARGE = 2**17  # numbers from which it is worth the calls


def relu(module: nn.ReLU, x: Tensor, pooled: bool = False) -> Tensor:
    """Returns the positive numbers of `[N, C, H, W]`, as `module` would; if `pooled`, their maxima over 2 x 2."""
    if pooled or (last(x) and x.dtype == torch.bfloat16 and x.numel() >= LARGE and x.requires_grad):
        return cast("Tensor", _Rectified.apply(x, pooled))
    return nn.ReLU.forward(module, x)


class _Rectified(torch.autograd.Function):
    """Takes `[N, C, H, W]`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pooled: bool) -> Tensor:
        y, kept = rectified(x.clone(), pooled, mixed=True)
        ctx.save_for_backward(*kept)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return of_rectified(gradient, *ctx.saved_tensors), None


def rectified(x: Tensor, pooled: bool, mixed: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Returns x without its negative numbers, which are overwritten, and what `of_rectified` needs.

    Bits as a whole number: positive ones are positive, those of negative numbers are at most those of minus infinity,
    and in between are negative ones that are none (NaN), which stay. Where these may be `mixed` with others (behind
    a batch norm they are not) they are made positive, and so the largest.
    """
    bits = integers(x)
    torch.threshold_(bits, LOWEST[x.dtype], 0)
    if not pooled:
        return x, (x,)
    if mixed:
        bits.bitwise_and_(torch.iinfo(bits.dtype).max)
    upper, most = maxima(bits)
    y = torch.empty_like(most, dtype=x.dtype)  # no view
    integers(y).copy_(most)
    return y, (y, x, upper)


def of_rectified(gradient: Tensor, y: Tensor, x: Tensor | None = None, upper: Tensor | None = None) -> Tensor:
    """Returns the gradient of what `rectified` was given: as it is where a positive number was handed on, else zero."""
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    positive: Tensor = torch.ops.aten.threshold_backward(integers(gradient), integers(y), 0)
    if x is not None and upper is not None:
        positive = of_maxima(positive, integers(x), upper)
    return positive.view(y.dtype)
