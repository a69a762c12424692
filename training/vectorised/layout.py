"""Layout: images with channels last, seen as rows of many channels, or as whole numbers."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

LANES = 512  # channels that are made of few; half of it is slower, and more is not faster
VECTOR, NARROW, WIDE = 8, 16, 32  # channels: torch's own kernels are at ease with multiples, and with many
INTEGERS = {torch.bfloat16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}


def last(x: Tensor) -> bool:
    """Says whether the channels of a batch of images lie last, in the memory of the processor."""
    return x.dim() == 4 and x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last)


def narrow(channels: int) -> bool:
    """Says whether so few channels leave vectors empty in torch's own kernels.

    A batch norm of rows takes 0.3 to 0.5 of the time with 6 to 13, 0.85 with 26, 1.4 with 32 (Zen 4).
    """
    return channels < NARROW or (channels < WIDE and channels % VECTOR > 0)


def packing(x: Tensor) -> int:
    """Returns how many positions are handed over as one: a power of two; 1 where that brings nothing."""
    channels = x.shape[1]
    if not narrow(channels):
        return 1
    return math.gcd(x.numel() // channels, 1 << (LANES // channels).bit_length() - 1)


def packed(x: Tensor, count: int) -> Tensor:
    """Returns a view `[1, count C, N H W / count, 1]` of `[N, C, H, W]`, both with channels last."""
    lanes = count * x.shape[1]
    return x.as_strided((1, lanes, x.numel() // lanes, 1), (x.numel(), 1, lanes, lanes))


@lru_cache(256)
def repeats(channels: int, count: int) -> Tensor:
    """Returns the channel of each packed channel, `[count C]`: to be selected in one call, a third of a repetition."""
    return torch.arange(channels).repeat(count)


def integers(x: Tensor) -> Tensor:
    """Returns a view of x whose whole numbers have the same bits.

    Those of positive numbers have the same order, and operations on them are 2 to 5 times as fast as on bfloat16, for
    which the processor has no arithmetic but products (Zen 4).
    """
    return x.view(INTEGERS[x.dtype])
