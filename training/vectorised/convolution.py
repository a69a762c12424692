"""Convolution: as torch computes it, and in two other ways that are faster where the channels are few."""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

FEW = 16  # inputs of an output
NARROW, MANY = 8, 2**15  # channels, and pairs of positions


class Form(Protocol):
    """A way to compute a convolution without bias and its gradients."""

    @staticmethod
    def forward(x: Tensor, kernel: Tensor, conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
        """Returns `[N, C, H, W]`, channels last, and what `backward` needs of x."""

    @staticmethod
    def backward(slope: Tensor, seen: Tensor, kernel: Tensor, conv: nn.Conv2d, needed: bool) -> Gradients:
        """Returns the gradients of x, if needed, and of the kernel."""


Gradients = tuple[Tensor | None, Tensor]


def simple(conv: nn.Conv2d) -> bool:
    """Says whether a convolution has no bias, and zeros around its inputs, so many as are given."""
    return conv.bias is None and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def extents(conv: nn.Conv2d, x: Tensor) -> tuple[int, int]:
    """Returns the height and the width of what a convolution returns."""
    padding = cast("tuple[int, int]", conv.padding)

    def extent(d: int) -> int:
        return (
            1 + (x.shape[2 + d] + 2 * padding[d] - 1 - conv.dilation[d] * (conv.kernel_size[d] - 1)) // conv.stride[d]
        )

    return extent(0), extent(1)


def kind(conv: nn.Conv2d | None, x: Tensor) -> torch.dtype:
    """Returns the type of what a convolution returns: that of x, if there is none."""
    return torch.get_autocast_dtype("cpu") if conv and torch.is_autocast_enabled("cpu") else x.dtype


def form(conv: nn.Conv2d, x: Tensor) -> Form:
    """Returns the fastest way, from what was measured on one thread of a Zen 4 in bfloat16."""
    if conv.groups > 1 or conv.dilation != (1, 1):
        return Direct
    if conv.weight[0].numel() <= FEW and not x.requires_grad:
        return Columns
    same = conv.stride == (1, 1) and extents(conv, x) == x.shape[2:]
    few = max(conv.weight.shape[:2]) <= NARROW and x.shape[3] % 2 == 0
    return Paired if same and few and x[:, 0].numel() >= 2 * MANY else Direct


class Direct:
    """Torch's own convolution."""

    @staticmethod
    def forward(x: Tensor, kernel: Tensor, conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
        """As of `Form`."""
        padding = cast("tuple[int, int]", conv.padding)
        z = functional.conv2d(x, kernel, None, conv.stride, padding, conv.dilation, conv.groups)
        return z.contiguous(memory_format=torch.channels_last), x

    @staticmethod
    def backward(slope: Tensor, seen: Tensor, kernel: Tensor, conv: nn.Conv2d, needed: bool) -> Gradients:
        """As of `Form`."""
        given: Any = (conv.stride, conv.padding, conv.dilation, False, [0, 0], conv.groups, [needed, True, False])
        of_x, of_kernel, _ = torch.ops.aten.convolution_backward(slope, seen, kernel, None, *given)
        return of_x, of_kernel


class Columns:
    """A product of matrices, where an output has so few inputs that a column of each costs little.

    Of the time of the first layer's convolution and its gradient, 0.5 with 6 channels and 0.25 with 32.
    """

    @staticmethod
    def forward(x: Tensor, kernel: Tensor, conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
        """As of `Form`."""
        (down, right), (high, wide) = cast("tuple[int, int]", conv.padding), conv.kernel_size
        height, width = extents(conv, x)
        padded = functional.pad(x, (right, right, down, down)).contiguous()
        images, channels, rows, line = padded.shape
        size = (images, height, width)
        steps = (channels * rows * line, conv.stride[0] * line, conv.stride[1])
        columns = x.new_empty((kernel[0].numel(), *size))
        for number, column in enumerate(columns.unbind()):
            channel, place = divmod(number, high * wide)
            offset = channel * rows * line + place // wide * line + place % wide
            column.copy_(padded.as_strided(size, steps, offset))
        columns = columns.view(len(columns), -1)
        z = columns.t() @ kernel.reshape(len(kernel), -1).t()
        return z.view(*size, -1).permute(0, 3, 1, 2), columns

    @staticmethod
    def backward(slope: Tensor, seen: Tensor, kernel: Tensor, conv: nn.Conv2d, needed: bool) -> Gradients:
        """As of `Form`."""
        rows = slope.permute(0, 2, 3, 1).reshape(seen.shape[1], -1)
        return None, (seen @ rows).t().reshape(kernel.shape)


class Paired:
    """A convolution that makes two neighbours in a row at a time, with twice the channels: so that a vector is full.

    Of the time of torch's own, 0.75 to 0.8 with 4 to 8 channels at 28 x 28; at 14 x 14 it gains nothing.
    """

    @staticmethod
    def forward(x: Tensor, kernel: Tensor, conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
        """As of `Form`."""
        return _pairs(x, kernel, conv), x

    @staticmethod
    def backward(slope: Tensor, seen: Tensor, kernel: Tensor, conv: nn.Conv2d, needed: bool) -> Gradients:
        """As of `Form`."""
        of_x = _pairs(slope, kernel.transpose(0, 1).flip(2, 3), conv) if needed else None
        images, channels, height, width = slope.shape
        pairs = slope.permute(0, 2, 3, 1).view(images, height, width // 2, -1).permute(0, 3, 1, 2)
        given: Any = ((1, 2), conv.padding, (1, 1), False, [0, 0], 1, [False, True, False])
        _, found, _ = torch.ops.aten.convolution_backward(pairs, seen, _double(kernel), None, *given)
        return of_x, found[:channels, ..., :-1] + found[channels:, ..., 1:]


def _double(kernel: Tensor) -> Tensor:
    """Returns `[2 C, I, H, W + 1]` for the kernel `[C, I, H, W]`: of an output, and of its right neighbour."""
    double = functional.pad(kernel, (0, 1))
    return torch.cat([double, double.roll(1, 3)]).contiguous(memory_format=torch.channels_last)


def _pairs(x: Tensor, kernel: Tensor, conv: nn.Conv2d) -> Tensor:
    """Returns the convolution of x, stride 1 and as large as x."""
    padding = cast("tuple[int, int]", conv.padding)
    z = functional.conv2d(x, _double(kernel), None, (1, 2), padding)
    images, _, height, width = x.shape
    rows = z.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    return rows.view(images, height, width, -1).permute(0, 3, 1, 2)
