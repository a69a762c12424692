"""Evaluation: the error of a network on data that it was not trained on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.loop import normalised

BATCH = 512


@torch.inference_mode()
def error(network: nn.Module, images: Tensor, labels: Tensor, normal: tuple[float, float]) -> float:
    """Returns the share of wrongly classified images, in [0, 1].

    Args:
        network: returns logits `[N, K]`.
        images: uint8 `[M, C, H, W]`.
        labels: int64 `[M]`.
        normal: as in `training.loop.train`.
    """
    network.eval()
    wrong = 0
    for start in range(0, len(images), BATCH):
        logits = network(normalised(images[start : start + BATCH], normal))
        wrong += int((logits.argmax(1) != labels[start : start + BATCH]).sum())
    return wrong / len(images)
