"""Pool: maxima of 2 x 2, of whole rows and then of whole columns; gradients go where the maxima came from."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from training.vectorised.layout import integers, last, narrow


def gains(pool: nn.MaxPool2d, channels: int, size: tuple[int, int], kind: torch.dtype) -> bool:
    """Says whether a pool is faster so: one of windows of 2 x 2 that cover a height and a width.

    Of torch's time, forward and backward, 0.2 with 6 channels and 0.6 with 32 in bfloat16 (Zen 4). In float32 wide ones
    are slower if gradients are wanted.
    """
    square = (pool.kernel_size, pool.stride, pool.padding, pool.dilation) == (2, 2, 0, 1)
    faster = kind == torch.bfloat16 or narrow(channels) or not torch.is_grad_enabled()
    return faster and square and size[0] % 2 == size[1] % 2 == 0


def max_pool(pool: nn.MaxPool2d, x: Tensor) -> Tensor:
    """Returns the maxima `[N, C, H / 2, W / 2]` of windows of 2 x 2, as `pool` would; others are left to it."""
    if last(x) and gains(pool, x.shape[1], (x.shape[2], x.shape[3]), x.dtype):
        return cast("Tensor", _Pooled.apply(x))
    return cast("Tensor", nn.MaxPool2d.forward(pool, x))


class _Pooled(torch.autograd.Function):
    """Takes `[N, C, H, W]` and returns its maxima over 2 x 2; of equal numbers, one gets the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        upper, y = maxima(x)
        ctx.save_for_backward(x, upper)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x, upper = ctx.saved_tensors
        return of_maxima(integers(gradient.contiguous(memory_format=torch.channels_last)), x, upper).view(x.dtype)


def maxima(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the larger of each two rows of `[N, C, H, W]`, and the larger of each two columns of these."""
    upper = torch.maximum(x[:, :, ::2], x[:, :, 1::2])
    return upper, torch.maximum(upper[..., ::2], upper[..., 1::2])


def of_maxima(gradient: Tensor, x: Tensor, upper: Tensor) -> Tensor:
    """Returns the bits of the gradient of what maxima were taken of, `[N, C, H, W]`; takes those of theirs."""
    of_upper, of_x = (torch.empty_like(t, dtype=gradient.dtype) for t in (upper, x))
    _divide(gradient, upper[..., ::2], upper[..., 1::2], of_upper[..., ::2], of_upper[..., 1::2])
    _divide(of_upper, x[:, :, ::2], x[:, :, 1::2], of_x[:, :, ::2], of_x[:, :, 1::2])
    return of_x


def _divide(gradient: Tensor, first: Tensor, second: Tensor, of_first: Tensor, of_second: Tensor) -> None:
    """Writes the gradient of the maximum of two values into that of the second where it is above, else of the first.

    All bits of a number are handed on or none, so that the difference of their whole numbers is exact.
    """
    above = torch.ops.aten.threshold_backward(gradient, (second - first).view(gradient.dtype), 0)
    of_second.copy_(above)
    torch.sub(gradient, above, out=of_first)
