"""Modules: operations that torch has no class for; a network uses them, and its source is written with their text."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  as in the sources that this text goes into
from torch import Tensor, nn


class Scale(nn.Module):
    """Multiplies each channel by a trained number."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Takes and returns `[N, C, ...]`."""
        return x * self.weight.view(-1, *(1,) * (x.dim() - 2))


class Position(nn.Module):
    """Adds a trained number to each channel at each position."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, height, width))

    def forward(self, x: Tensor) -> Tensor:
        """Takes and returns `[N, C, H, W]`."""
        return x + self.weight


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels, at each position for itself."""

    def forward(self, x: Tensor) -> Tensor:
        """Takes and returns `[N, C, H, W]`."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Blend(nn.Module):
    """Adds a of one function to 1 - a of another, with one trained a."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Takes and returns any shape."""
        first: Tensor = self.first(x)
        second: Tensor = self.second(x)
        return self.weight * first + (1 - self.weight) * second


class Gate(nn.Module):
    """Adds a of one value to 1 - a of another, with one trained a."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Takes two values of one shape."""
        return self.weight * x + (1 - self.weight) * y


class ClassToken(nn.Module):
    """Lays the positions in a row behind a trained first one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Takes `[N, C, H, W]` and returns `[N, C, H W + 1, 1]`."""
        token = self.weight.view(1, -1, 1, 1).expand(x.shape[0], -1, -1, -1)
        return torch.cat([token, x.flatten(2).unsqueeze(3)], 2)


class Select(nn.Module):
    """Takes one position, counted row by row."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, x: Tensor) -> Tensor:
        """Takes `[N, C, H, W]` and returns `[N, C, 1, 1]`."""
        return x.flatten(2)[:, :, self.index, None, None]


class Attention(nn.Module):
    """Attends from every position of the query to all of the key, for each head."""

    def __init__(self, heads: int, scale: float) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Takes `[N, h d, H, W]`, `[N, h d, H', W']`, `[N, h e, H', W']`.

        Returns `[N, h e, H, W]`.
        """
        q, k, v = map(self.by_head, (query, key, value))
        found = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return found.transpose(2, 3).reshape(query.shape[0], -1, *query.shape[2:])

    def by_head(self, x: Tensor) -> Tensor:
        """Takes `[N, h d, H, W]` and returns `[N, h, H W, d]`."""
        x = x.reshape(x.shape[0], self.heads, x.shape[1] // self.heads, -1)
        return x.transpose(2, 3)
