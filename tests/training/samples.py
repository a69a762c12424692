"""Data for the tests, as functions that a configuration can name, and a Debian-like folder of IDX files."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SHAPE = (1, 8, 8)


def blobs(count: int = 240, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Returns images that are all different, with four bright quarters as classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    images = torch.randint(0, 100, (count, *SHAPE), generator=generator, dtype=torch.uint8)
    for number, label in enumerate(labels.tolist()):
        row, column = 4 * (label // 2), 4 * (label % 2)
        images[number, 0, row : row + 4, column : column + 4] += 100
        images[number, 0, 0, :2] = torch.tensor([number % 256, number // 256], dtype=torch.uint8)
    return images, labels


def arrays() -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    images, labels = blobs()
    return images.numpy(), labels.numpy()


def two_parts() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return blobs(), blobs(60, seed=1)


def floats() -> tuple[Tensor, Tensor]:
    images, labels = blobs()
    return images.float(), labels


def flat() -> tuple[Tensor, Tensor]:
    images, labels = blobs()
    return images.flatten(1), labels


def unpaired() -> tuple[Tensor, Tensor]:
    images, labels = blobs()
    return images, labels[:-1]


def one_class() -> tuple[Tensor, Tensor]:
    images, labels = blobs()
    return images, labels * 0


def negative() -> tuple[Tensor, Tensor]:
    images, labels = blobs()
    return images, labels - 1


def unequal() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    images, labels = blobs()
    return (images, labels), (images[..., :5], labels)


def nothing() -> None:
    return None


def alone() -> Tensor:
    return blobs()[0]


def write_idx(path: Path, values: np.ndarray) -> None:  # type: ignore[type-arg]
    head = b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    content = head + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_fashion(root: Path, suffix: str = ".gz") -> None:
    root.mkdir(exist_ok=True)
    for prefix, (images, labels) in {"train": blobs(), "t10k": blobs(40, seed=1)}.items():
        write_idx(root / f"{prefix}-images-idx3-ubyte{suffix}", images[:, 0].numpy())
        write_idx(root / f"{prefix}-labels-idx1-ubyte{suffix}", labels.numpy())
