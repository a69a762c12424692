"""Convolution: as torch computes it, and in two other ways that are faster where the channels are few."""

from __future__ import annotations

from itertools import product
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

FEW = 16  # inputs of an output
WINDOW = 3  # the largest kernel whose gradient torch is fast at, if it is depthwise
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


def deep(conv: nn.Conv2d) -> bool:
    """Says whether a convolution is depthwise: each channel is made of one."""
    return conv.groups == conv.in_channels == conv.out_channels


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
    if conv.dilation != (1, 1):
        return Direct
    if conv.groups > 1:
        return Windows if deep(conv) and max(conv.kernel_size) > WINDOW else Direct
    if conv.weight[0].numel() <= FEW and not x.requires_grad:
        return Columns
    same = conv.stride == (1, 1) and extents(conv, x) == x.shape[2:]
    few = max(conv.weight.shape[:2]) <= NARROW and x.shape[3] % 2 == 0
    return Paired if same and few and x[:, 0].numel() >= 2 * MANY else Direct


def convolved(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Returns the convolution of x, in the fastest way if gradients are wanted."""
    if not torch.is_grad_enabled() or form(conv, x) is Direct:
        return nn.Conv2d.forward(conv, x)
    return cast("Tensor", _Convolved.apply(x, conv.weight, conv))


class _Convolved(torch.autograd.Function):
    """Takes and returns `[N, C, H, W]`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, conv: nn.Conv2d) -> Tensor:
        ctx.conv, ctx.form, kernel = conv, form(conv, x), kernel.to(kind(conv, x))
        y, seen = ctx.form.forward(x.to(kernel.dtype), kernel, conv)
        ctx.save_for_backward(seen, kernel)
        return cast("Tensor", y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        slope = gradient.contiguous(memory_format=torch.channels_last)
        of_x, of_kernel = ctx.form.backward(slope, *ctx.saved_tensors, ctx.conv, ctx.needs_input_grad[0])
        return of_x, of_kernel.to(ctx.conv.weight.dtype), None


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


class Windows(Direct):
    """A depthwise convolution whose kernel's gradient is that of several of 3 x 3, which torch is fast at.

    Of the time of torch's own gradient of 5 x 5, 0.14 to 0.2 with 8 to 22 channels.
    """

    @staticmethod
    def backward(slope: Tensor, seen: Tensor, kernel: Tensor, conv: nn.Conv2d, needed: bool) -> Gradients:
        """As of `Form`."""
        (down, right), sizes = cast("tuple[int, int]", conv.padding), [min(WINDOW, size) for size in kernel.shape[2:]]
        padded = functional.pad(seen, (right, right, down, down))
        reach = [conv.stride[d] * (slope.shape[2 + d] - 1) + sizes[d] for d in (0, 1)]
        window, of_kernel = kernel.new_empty((len(kernel), 1, *sizes)), torch.empty_like(kernel)
        given: Any = (conv.stride, (0, 0), (1, 1), False, [0, 0], conv.groups, [False, True, False])
        for row, column in product(*(_starts(size) for size in kernel.shape[2:])):
            part = padded[:, :, row : row + reach[0], column : column + reach[1]]
            part = part.contiguous(memory_format=torch.channels_last)
            _, found, _ = torch.ops.aten.convolution_backward(slope, part, window, None, *given)
            of_kernel[:, :, row : row + sizes[0], column : column + sizes[1]] = found
        if not needed:
            return None, of_kernel
        given = (conv.stride, conv.padding, (1, 1), False, [0, 0], conv.groups, [True, False, False])
        return torch.ops.aten.convolution_backward(slope, seen, kernel, None, *given)[0], of_kernel


def _starts(size: int) -> list[int]:
    """Returns where windows begin that cover a size, the last one at its end."""
    return sorted({max(0, min(start, size - WINDOW)) for start in range(0, size, WINDOW)})


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
