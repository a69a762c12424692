"""Norm: the passes over the numbers that batch norm is made of, k positions of C channels as one of k C.

Source: Ioffe & Szegedy 2015, Batch Normalization, algorithm 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.vectorised.layout import last, packed, packing, repeats


def batch_norm(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Returns `[N, C, H, W]` normalised, as `norm` would; in this way if nothing is trained."""
    mean, variance = norm.running_mean, norm.running_var
    if norm.training or torch.is_grad_enabled() or not norm.affine or mean is None or variance is None or not last(x):
        return nn.BatchNorm2d.forward(norm, x)
    count = packing(x)
    return normalised(x, spread(torch.stack([norm.weight, norm.bias, mean, variance]), count), norm.eps, count)


def statistics(z: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns mean and variance of each channel of `[N, C, H, W]`, float32 (or the type of z, if that is wider)."""
    rows = packed(z, count)
    kind = torch.float64 if z.dtype == torch.float64 else torch.float32
    unused = torch.zeros(rows.shape[1], dtype=kind)  # running statistics, which say of what type results are
    means, variances = torch.batch_norm_update_stats(rows, unused, unused, 0.0)
    if count == 1:
        return means, variances
    between, mean = torch.var_mean(means.view(count, -1), 0, correction=0)
    return mean, variances.view(count, -1).mean(0).add_(between)


def spread(given: Tensor, count: int) -> Tensor:
    """Returns numbers for each channel, `[M, C]`, for each packed channel, `[M, count C]`."""
    return given.index_select(1, repeats(given.shape[1], count)) if count > 1 else given


def normalised(z: Tensor, given: Tensor, eps: float, count: int) -> Tensor:
    """Returns `[N, C, H, W]` normalised by `given`: weight, bias, mean and variance, `[4, count C]`."""
    y, unused = torch.empty_like(z), given.new_empty(0)  # no view: the next operation may write into it
    torch.ops.aten.native_batch_norm.out(
        packed(z, count), *given.unbind(), False, 0.0, eps, out=packed(y, count), save_mean=unused, save_invstd=unused
    )
    return y


def sums(slope: Tensor, z: Tensor, given: Tensor, eps: float, count: int) -> Tensor:
    """Returns, for each channel, the sums of a gradient times normalised z and of the gradient: `[2, C]`."""
    weight, _, mean, variance = given.unbind()
    unused, which = given.new_empty(0), [False, True, True]
    found = torch.ops.aten.native_batch_norm_backward(
        packed(slope, count), packed(z, count), weight, mean, variance, unused, unused, False, eps, which
    )
    return torch.stack(found[1:]).view(2, count, -1).sum(1)
