"""Unseen: taps of a kernel that see nothing but padding, as where a stride meets a tiny image.

Their gradient is zero. In bfloat16 oneDNN leaves there what it finds in memory (torch 2.14), so that the same seed gave
other weights each time, or none that are finite.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn


@contextmanager
def zeroed(network: nn.Module) -> Iterator[None]:
    """Gives such taps the gradient zero in what is computed while it is entered."""
    unseen: dict[nn.Module, Tensor] = {}
    looked = set[tuple[nn.Module, torch.Size]]()

    def look(conv: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        size = inputs[0].shape[2:]
        if (conv, size) in looked:
            return
        looked.add((conv, size))
        assert isinstance(conv, nn.Conv2d)
        found = ~taps(conv, size)
        if conv in unseen:
            unseen[conv] &= found  # it is called again, with another size
            return
        unseen[conv] = found
        if found.any():
            blank: Any = conv.weight.register_hook  # torch has no types for it
            hooks.callback(blank(lambda slope: slope.masked_fill(unseen[conv], 0)).remove)

    with ExitStack() as hooks:
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.padding_mode == "zeros" and not isinstance(module.padding, str):
                hooks.callback(module.register_forward_pre_hook(look).remove)
        yield


def taps(conv: nn.Conv2d, size: torch.Size) -> Tensor:
    """Returns which taps of a kernel `[h, w]` see a position of an image of this size, in any of its outputs."""
    padding = cast("tuple[int, int]", conv.padding)
    rows, columns = (_seen(size[d], conv.kernel_size[d], conv.stride[d], padding[d], conv.dilation[d]) for d in (0, 1))
    return rows[:, None] & columns


@lru_cache
def _seen(extent: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    starts = range(-padding, extent + padding - dilation * (kernel - 1), stride)
    return torch.tensor([any(0 <= start + dilation * tap < extent for start in starts) for tap in range(kernel)])
