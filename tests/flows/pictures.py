"""Data sets as users would write them, for the tests."""

from __future__ import annotations

import numpy as np


def tiny() -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((40, 1, 2, 2), np.uint8), np.arange(40) % 2


def floats() -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((40, 1, 8, 8), np.float32), np.arange(40) % 2


def stripes() -> tuple[np.ndarray, np.ndarray]:
    """Upright or level stripes, 10 x 10, in three colours."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    images = np.zeros((200, 3, 10, 10), np.uint8)
    for image, label in zip(images, labels, strict=True):
        if label:
            image[:, ::2, :] = 200
        else:
            image[:, :, ::2] = 200
        image += rng.integers(0, 50, image.shape, dtype=np.uint8)
    return images, labels
