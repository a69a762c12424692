"""Vectorised: batch norm and max pooling that are fast on a CPU although the channels are few.

Where channels lie last in memory, torch's kernels for a CPU take the channels of one position at a time. A vector of
512 bits holds 16 to 32 numbers, so with 6 channels most of it idles: batch norm took 38 % and max pooling 10 % of the
training of a network of 4,300 parameters (Zen 4). Here k positions of C channels are handed to the same kernels as one
position of k C channels, whose statistics are put together afterwards; and maxima are taken of whole rows. The values
are torch's but for rounding. Wide layers, other layouts and other devices keep torch's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

VECTOR = 8  # torch's own kernels are at ease with multiples of it
NARROW, WIDE = (
    16,
    32,
)  # channels; own batch norm takes 0.3 to 0.5 of the time with 6 to 13, 0.85 with 26, 1.4 with 32 (Zen 4)
LANES = 512  # channels that are made of few; half of it is slower, and more is not faster


@contextmanager
def vectorised(network: nn.Module) -> Iterator[None]:
    """Lets a network's batch norms and max pools compute in this way while it is entered; its tensors stay its own."""
    chosen = [(module, FORWARD[type(module)]) for module in network.modules() if type(module) in FORWARD]
    for module, forward in chosen:
        module.forward = partial(forward, module)
    try:
        yield
    finally:
        for module, _ in chosen:
            del module.forward


def batch_norm(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Returns `[N, C, H, W]` normalised, and updates the running statistics in train mode, as `norm` would.

    Source: Ioffe & Szegedy 2015, Batch Normalization, algorithm 1.
    """
    count, mean, variance = _packing(x), norm.running_mean, norm.running_var
    if count == 1 or mean is None or variance is None or norm.momentum is None:
        return nn.BatchNorm2d.forward(norm, x)
    if norm.training:
        y, of_batch, spread = _Normalised.apply(x, norm.weight, norm.bias, norm.eps, count)
        size = x.numel() // x.shape[1]
        mean.lerp_(of_batch, norm.momentum)
        variance.lerp_(spread * (size / (size - 1)), norm.momentum)
        return cast("Tensor", y)
    if torch.is_grad_enabled():
        return nn.BatchNorm2d.forward(norm, x)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return _affine(x, count, scale, norm.bias - mean * scale)


def max_pool(pool: nn.MaxPool2d, x: Tensor) -> Tensor:
    """Returns the maxima `[N, C, H / 2, W / 2]` of windows of 2 x 2, as `pool` would; others are left to it."""
    halving = (pool.kernel_size, pool.stride, pool.padding, pool.dilation) == (2, 2, 0, 1)
    # without a gradient, own takes 0.1 to 0.4 of the time; with one, 0.5 to 0.9 of it where the channels fit no vector
    faster = not torch.is_grad_enabled() or (x.shape[1] < NARROW and x.shape[1] % VECTOR)
    if not halving or not faster or not _last(x) or x.shape[2] % 2 or x.shape[3] % 2:
        return cast("Tensor", nn.MaxPool2d.forward(pool, x))
    return cast("Tensor", _Pooled.apply(x))


FORWARD: Mapping[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    nn.BatchNorm2d: batch_norm,
    nn.MaxPool2d: max_pool,
}


class _Normalised(torch.autograd.Function):
    """Takes `[N, C, H, W]`, returns it normalised by its own mean and variance, and these, float `[C]`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, count: int) -> tuple[Tensor, ...]:
        rows = _packed(x, count)
        unused = weight.new_zeros(2, rows.shape[1])  # running statistics, which say that results are in float32
        means, variances = torch.batch_norm_update_stats(rows, unused[0], unused[1], 0.0)
        between, mean = torch.var_mean(means.view(count, -1), 0, correction=0)
        variance = variances.view(count, -1).mean(0).add_(between)
        inverse = torch.rsqrt(variance + eps)
        scale = weight * inverse
        ctx.save_for_backward(x, weight, mean, variance, inverse)
        ctx.eps, ctx.count = eps, count
        ctx.mark_non_differentiable(mean, variance)
        return _affine(x, count, scale, bias - mean * scale), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, inverse = ctx.saved_tensors
        count, gradient = ctx.count, gradient.contiguous(memory_format=torch.channels_last)
        of_weight, of_bias = _sums(
            _packed(gradient, count), _packed(x, count), torch.stack([weight, mean, variance]).repeat(1, count), ctx.eps
        )
        of_weight, of_bias = of_weight.view(count, -1).sum(0), of_bias.view(count, -1).sum(0)
        size, scale = x.numel() // x.shape[1], weight * inverse
        # scale (dy - mean(dy) - y mean(y dy)), where y is x normalised
        factor = scale * inverse * of_weight / -size
        of_x = _affine(gradient, count, scale, torch.zeros_like(scale))
        of_x += _affine(x, count, factor, -mean * factor - scale * of_bias / size)
        return of_x, of_weight, of_bias, None, None


class _Pooled(torch.autograd.Function):
    """Takes `[N, C, H, W]` and returns its maxima over 2 x 2; of equal numbers, the upper left gets the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        at = x.permute(0, 2, 3, 1)
        upper = torch.maximum(at[:, ::2], at[:, 1::2])
        ctx.save_for_backward(x, upper)
        return torch.maximum(upper[:, :, ::2], upper[:, :, 1::2]).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x, upper = ctx.saved_tensors
        at, of_upper = x.permute(0, 2, 3, 1), torch.empty_like(upper)
        halves = [(t[:, :, ::2], t[:, :, 1::2]) for t in (upper, of_upper)]
        _divided(gradient.permute(0, 2, 3, 1).contiguous(), *halves)
        of_x = torch.empty_like(at)
        _divided(of_upper, (at[:, ::2], at[:, 1::2]), (of_x[:, ::2], of_x[:, 1::2]))
        return of_x.permute(0, 3, 1, 2)


def _divided(gradient: Tensor, values: tuple[Tensor, Tensor], gradients: tuple[Tensor, Tensor]) -> None:
    """Writes the gradient of the maximum of two values into that of the second where it is above, else of the first."""
    above = torch.ops.aten.threshold_backward(gradient, values[1] - values[0], 0)
    gradients[1].copy_(above)
    torch.sub(gradient, above, out=gradients[0])


def _last(x: Tensor) -> bool:
    """Says whether the channels of a batch of images lie last, in the memory of the processor."""
    return x.dim() == 4 and x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last)


def _packing(x: Tensor) -> int:
    """Returns how many positions are handed over as one: a power of two; 1 where that brings nothing."""
    channels = x.shape[1]
    if not _last(x) or channels >= WIDE or (channels >= NARROW and channels % VECTOR == 0):
        return 1
    return math.gcd(x.numel() // channels, 1 << (LANES // channels).bit_length() - 1)


def _packed(x: Tensor, count: int) -> Tensor:
    """Returns a view `[1, count C, N H W / count, 1]` of `[N, C, H, W]`, both with channels last."""
    return x.permute(0, 2, 3, 1).view(1, -1, 1, count * x.shape[1]).permute(0, 3, 1, 2)


def _affine(x: Tensor, count: int, scale: Tensor, shift: Tensor) -> Tensor:
    """Returns `[N, C, H, W]` times a scale plus a shift, `[C]`: a batch norm in eval mode, of mean 0 and variance 1."""
    given = torch.stack([scale, shift, torch.zeros_like(scale), torch.ones_like(scale)]).repeat(1, count)
    y, unused = torch.empty_like(x), scale.new_empty(0)  # no view: the next operation may write into it
    torch.ops.aten.native_batch_norm.out(
        _packed(x, count), *given, False, 0.0, 0.0, out=_packed(y, count), save_mean=unused, save_invstd=unused
    )
    return y


def _sums(slope: Tensor, rows: Tensor, given: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Returns the gradients of scale and shift, one for each packed channel."""
    weight, mean, variance = given
    unused, which = weight.new_empty(0), [False, True, True]
    found = torch.ops.aten.native_batch_norm_backward(
        slope, rows, weight, mean, variance, unused, unused, False, eps, which
    )
    return found[1], found[2]
