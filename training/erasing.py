"""Erasing: a random rectangle of an image is covered with noise, so that no single part of it decides."""

from __future__ import annotations

import torch
from torch import Tensor

AREA = (0.02, 0.4)  # of the image: s_l and s_h
ASPECT = (0.3, 1 / 0.3)  # height over width: r_1 and r_2


def erased(batch: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Returns images of which each has, with probability `share`, one rectangle of noise of its own.

    All images at once: a side that is longer than the image is cut to it, where the paper draws again, which happens to
    fewer than one in twenty.

    Source: Zhong et al. 2020, Random Erasing Data Augmentation, algorithm 1, with random values (RE-R).

    Args:
        batch: uint8 `[N, C, H, W]`; never changed.
        share: of the images, in [0, 1].
        generator: of the choice, the rectangles and the noise.
    """
    count, _, height, width = batch.shape
    draws = torch.rand(5, count, generator=generator, device=batch.device)
    area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * draws[0])
    aspect = ASPECT[0] + (ASPECT[1] - ASPECT[0]) * draws[1]
    rows = _covered(height, (area * aspect).sqrt(), draws[2])
    columns = _covered(width, (area / aspect).sqrt(), draws[3])
    hit = (draws[4] < share).view(-1, 1, 1, 1) & rows.view(count, 1, height, 1) & columns.view(count, 1, 1, width)
    noise = torch.randint(0, 256, batch.shape, generator=generator, device=batch.device, dtype=torch.uint8)
    return torch.where(hit, noise, batch)


def _covered(size: int, lengths: Tensor, draws: Tensor) -> Tensor:
    """Returns which of `size` places an interval covers, bool `[N, size]`; at least one, and none outside."""
    lengths = lengths.round().clamp(1, size)
    starts = (draws * (size - lengths + 1)).floor()
    places = torch.arange(size, device=draws.device)
    return (places >= starts[:, None]) & (places < (starts + lengths)[:, None])
