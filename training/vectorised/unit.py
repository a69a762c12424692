"""Unit: convolution, batch norm, ReLU and max pool, or those of them that follow each other, in one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from training.vectorised.convolution import convolved, extents, form, kind
from training.vectorised.layout import INTEGERS, last, narrow, packing
from training.vectorised.norm import batch_norm, normalised, spread, statistics, sums
from training.vectorised.pool import gains, max_pool
from training.vectorised.relu import of_rectified, rectified, relu


@dataclass(frozen=True)
class Unit:
    """Modules that follow each other; what is None is left out.

    Attributes:
        conv: simple.
        norm: of what it returns.
        relu: of what the norm returns.
        pool: of what the ReLU returns.
    """

    conv: nn.Conv2d | None = None
    norm: nn.BatchNorm2d | None = None
    relu: nn.ReLU | None = None
    pool: nn.MaxPool2d | None = None

    @property
    def parts(self) -> Sequence[nn.Module]:
        """All modules, in order."""
        return [part for part in (self.conv, self.norm, self.relu, self.pool) if part is not None]

    def __call__(self, x: Tensor) -> Tensor:
        """Takes and returns `[N, C, H, W]`; what gains nothing by being joined is computed part by part."""
        if not last(x) or x.dtype not in INTEGERS:
            for part in self.parts:
                x = type(part).forward(part, x)
            return x
        size = extents(self.conv, x) if self.conv else (x.shape[2], x.shape[3])
        channels = self.conv.out_channels if self.conv else x.shape[1]
        halved = self.pool is not None and gains(self.pool, channels, size, kind(self.conv, x))
        pooled = halved and self.relu is not None and torch.is_grad_enabled()
        # what `_Joint` subtracts, rounded to bfloat16, is wrong by as much at all positions: without ReLU that adds up
        fine = self.relu is not None or kind(self.conv, x) != torch.bfloat16
        if self.norm and fine and _joins(self.norm, x.shape[0] * size[0] * size[1]):
            norm, conv = self.norm, self.conv
            kernel = conv.weight if conv else None
            x = _Joint.apply(x, kernel, norm.weight, norm.bias, norm, conv, self.relu is not None, pooled)
        else:
            x = convolved(self.conv, x) if self.conv else x
            x = batch_norm(self.norm, x) if self.norm else x
            x = relu(self.relu, x, pooled) if self.relu else x
        return max_pool(self.pool, x) if self.pool and not pooled else x


def _joins(norm: nn.BatchNorm2d, count: int) -> bool:
    """Says whether a batch norm in train mode, with so many numbers for each channel, is a step of `_Joint`."""
    usual = norm.affine and norm.momentum is not None and norm.running_mean is not None
    return narrow(norm.num_features) and usual and norm.training and torch.is_grad_enabled() and count > 1


class _Joint(torch.autograd.Function):
    """Takes and returns `[N, C, H, W]`, and updates the running statistics.

    The gradient of what the norm is given is scale (g - mean(g) - n mean(n g)), where n is normalised. A convolution is
    linear, so that its kernel gets the scale instead of all those numbers.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        kernel: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        norm: Any,
        conv: nn.Conv2d | None,
        rectify: bool,
        pooled: bool,
    ) -> Tensor:
        z = seen = x
        if kernel is not None and conv is not None:
            kernel, ctx.form = kernel.to(kind(conv, x)), form(conv, x)
            z, seen = ctx.form.forward(x.to(kernel.dtype), kernel, conv)
        count, size = packing(z), z.numel() // z.shape[1]
        mean, variance = statistics(z, count)
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (size / (size - 1)), norm.momentum)
        given = spread(torch.stack([weight, bias, mean, variance]), count)
        y = normalised(z, given, norm.eps, count)
        y, kept = rectified(y, pooled) if rectify else (y, ())
        ctx.save_for_backward(seen, kernel, z, given, *kept)
        ctx.conv, ctx.eps, ctx.count, ctx.size = conv, norm.eps, count, size
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        seen, kernel, z, given, *kept = ctx.saved_tensors
        count, eps = ctx.count, ctx.eps
        g = of_rectified(gradient, *kept) if kept else gradient.contiguous(memory_format=torch.channels_last)
        found = sums(g, z, given, eps, count)
        moved = torch.cat([spread(found / -ctx.size, count), given[2:]])
        slope = normalised(z, moved, eps, count).add_(g)
        weight, _, _, variance = given[:, : z.shape[1]].unbind()
        scale = weight * torch.rsqrt(variance + eps)
        of_weight, of_bias = found.unbind()
        if kernel is None:
            unit = torch.zeros_like(scale)
            factors = spread(torch.stack([scale, unit, unit, unit + 1]), count)
            return normalised(slope, factors, 0.0, count), None, of_weight, of_bias, None, None, None, None
        factor = scale.view(-1, 1, 1, 1)
        scaled = (kernel * factor).to(kernel.dtype)
        of_x, of_kernel = ctx.form.backward(slope, seen, scaled, ctx.conv, ctx.needs_input_grad[0])
        return of_x, of_kernel * factor, of_weight, of_bias, None, None, None, None
