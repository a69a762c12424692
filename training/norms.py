"""Norms: the running statistics of batch norms, measured anew in place after weights were changed without training."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

BATCHES, SIZE = 12, 256


def batches(images: Tensor) -> tuple[Tensor, ...]:
    """Returns the first images in the batches that norms are measured by.

    A single image is left out where others came before it: a norm of one value for each channel would refuse it.
    """
    found = torch.split(images[: BATCHES * SIZE], SIZE)
    return found[:-1] if len(found) > 1 and len(found[-1]) == 1 else found


@torch.no_grad()
def remeasure(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replaces each batch norm's running mean and variance by their mean over batches, and leaves the network in eval.

    Dropout is off, and every norm normalises by the batch, so that each sees what it would see in training. Batches are
    not drawn if there is no norm.

    Args:
        network: changed in place, its buffers only.
        batches: each of them inputs `[N, C, H, W]`, normalised.
    """
    network.eval()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    seen = 0
    for batch in batches if norms else ():
        seen += len(batch)
        for norm in norms:
            norm.train().momentum = len(batch) / seen  # the first batch replaces what was there
        network(batch)
    for norm, momentum in zip(norms, before, strict=True):
        norm.eval().momentum = momentum
