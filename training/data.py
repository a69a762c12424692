"""Data: image classification sets, converted once into one file that all children map into memory."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from training.errors import DataError
from training.spec import DataSpec

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
TORCHVISION = {"mnist": "MNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
PARTS = ("train", "validation", "second_validation", "test")


class Labelled(NamedTuple):
    """Images, uint8 `[N, C, H, W]`, and their classes, int64 `[N]`."""

    images: Tensor
    labels: Tensor


class Raw(NamedTuple):
    """A data set as it is published; without a test part of its own, one is split off."""

    train: Labelled
    test: Labelled | None


@dataclass(frozen=True)
class Split:
    """What a data file holds.

    Attributes:
        train: to train on.
        validation: what selection sees.
        second_validation: what chooses among finalists.
        test: read once, at the very end.
        normal: mean and standard deviation of the training images, on the scale 0 to 1.
    """

    train: Labelled
    validation: Labelled
    second_validation: Labelled
    test: Labelled
    normal: tuple[float, float]


@dataclass(frozen=True)
class Prepared:
    """A data set that is ready.

    Attributes:
        file: the safetensors file.
        shape: of one image, `[C, H, W]`.
        classes: how many.
    """

    file: Path
    shape: tuple[int, int, int]
    classes: int


def prepare(spec: DataSpec, cache: Path) -> Prepared:
    """Returns the file of a data set, and makes it first if it is not there.

    Args:
        spec: which data, and how it is split.
        cache: the directory for such files.

    Raises:
        DataError: unknown, missing or malformed data.
    """
    key = json.dumps(asdict(spec), sort_keys=True).encode()
    file = cache / f"{spec.name.replace(':', '-')}-{hashlib.sha256(key).hexdigest()[:12]}.safetensors"
    if not file.exists():
        _write(_split(_raw(spec), spec), file)
    with safe_open(file, "pt") as content:
        classes, *shape = json.loads(content.metadata()["facts"])
    return Prepared(file, (shape[0], shape[1], shape[2]), classes)


def load(file: Path) -> Split:
    """Returns a prepared data set; its tensors are views of the mapped file, shared by all that read it."""
    with safe_open(file, "pt") as content:
        parts = {p: Labelled(content.get_tensor(f"{p}.images"), content.get_tensor(f"{p}.labels")) for p in PARTS}
        mean, deviation = json.loads(content.metadata()["normal"])
    return Split(**parts, normal=(mean, deviation))


def _raw(spec: DataSpec) -> Raw:
    makers: Mapping[str, Callable[[DataSpec], Raw]] = {
        "digits": _digits,
        "fashion_mnist": _fashion_mnist,
        "image_folder": _image_folder,
        **dict.fromkeys(TORCHVISION, _torchvision),
    }
    if spec.name in makers:
        raw = makers[spec.name](spec)
    elif ":" in spec.name:
        raw = _own(spec)
    else:
        raise DataError(
            f"data.name must be one of {', '.join(makers)} or your own package.module:function, got {spec.name!r}"
        )
    for part in filter(None, raw):
        _checked(part, spec.name)
    return raw


def _checked(part: Labelled, name: str) -> None:
    images, labels = part
    if images.dtype != torch.uint8 or images.dim() != 4 or labels.dtype != torch.int64 or len(images) != len(labels):
        raise DataError(
            f"data {name} must be images uint8 [N, C, H, W] and labels int64 [N], got {images.dtype} "
            f"{list(images.shape)} and {labels.dtype} {list(labels.shape)}"
        )
    if len(images) == 0 or int(labels.min()) < 0:
        raise DataError(f"data {name} must have examples with classes 0, 1, …, got {len(images)} examples")


def _digits(_: DataSpec) -> Raw:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy((bunch.images * (255 / 16)).round().astype(np.uint8)).unsqueeze(1)
    return Raw(Labelled(images, torch.from_numpy(bunch.target.astype(np.int64))), None)


def _fashion_mnist(spec: DataSpec) -> Raw:
    root = Path(spec.root) if spec.root else DEBIAN
    names = {"train": "train", "test": "t10k"}
    try:
        parts = {
            part: Labelled(
                _idx(root, f"{prefix}-images-idx3-ubyte").unsqueeze(1), _idx(root, f"{prefix}-labels-idx1-ubyte").long()
            )
            for part, prefix in names.items()
        }
    except FileNotFoundError:
        return _torchvision(spec)
    return Raw(**parts)


def _idx(root: Path, name: str) -> Tensor:
    """Reads an IDX file of bytes, compressed or not."""
    plain, packed = root / name, root / f"{name}.gz"
    content = plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())
    axes = content[3] if len(content) > 3 else 0
    shape = np.frombuffer(content, ">u4", axes, 4) if len(content) >= 4 + 4 * axes else np.zeros(1)
    if content[:3] != b"\0\0\x08" or len(content) != 4 + 4 * axes + int(shape.prod()):
        raise DataError(f"{root / name} must be an IDX file of unsigned bytes")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape.tolist()).copy())


def _torchvision(spec: DataSpec) -> Raw:
    from torchvision import datasets

    root = Path(spec.root) if spec.root else Path.home() / ".cache" / "morphogen"
    maker = getattr(datasets, {**TORCHVISION, "fashion_mnist": "FashionMNIST"}[spec.name])
    try:
        parts = [maker(str(root), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        hint = " (on Debian: apt-get install dataset-fashion-mnist)" if spec.name == "fashion_mnist" else ""
        raise DataError(
            f"{spec.name} must be in {root}, and it could not be downloaded ({str(error).splitlines()[0]}): put its "
            f"files there and set data.root{hint}"
        ) from None
    return Raw(*(Labelled(_channels_first(np.asarray(p.data)), torch.as_tensor(p.targets).long()) for p in parts))


def _channels_first(images: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(np.array(images))
    return tensor.unsqueeze(1) if tensor.dim() == 3 else tensor.permute(0, 3, 1, 2).contiguous()


def _image_folder(spec: DataSpec) -> Raw:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.functional import pil_to_tensor, resize

    if not spec.root or not Path(spec.root).is_dir():
        raise DataError(f"data.root must be a folder with one sub-folder of images for each class, got {spec.root!r}")
    try:
        folder = ImageFolder(spec.root)
    except FileNotFoundError as error:
        raise DataError(f"data.root {spec.root}: {error}") from None
    size = [spec.size, spec.size]
    images = torch.stack([resize(pil_to_tensor(image), size) for image, _ in folder])
    return Raw(Labelled(images, torch.tensor(folder.targets, dtype=torch.int64)), None)


def _own(spec: DataSpec) -> Raw:
    module, _, name = spec.name.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise DataError(f"data.name {spec.name!r} must name a function that can be imported: {error}") from None
    images, labels = function()
    return Raw(Labelled(torch.as_tensor(images), torch.as_tensor(labels)), None)


def _split(raw: Raw, spec: DataSpec) -> dict[str, Labelled]:
    generator = torch.Generator().manual_seed(spec.seed)
    order = torch.randperm(len(raw.train.labels), generator=generator)
    shares = {"validation": spec.validation, "second_validation": spec.second_validation}
    if raw.test is None:
        shares["test"] = spec.test
    parts, start = {}, 0
    for part, share in shares.items():
        count = max(1, round(share * len(order)))
        parts[part] = Labelled(*(tensor[order[start : start + count]] for tensor in raw.train))
        start += count
    if start >= len(order):
        raise DataError(f"data.validation, second_validation and test must leave examples to train on, got {shares}")
    parts["train"] = Labelled(*(tensor[order[start:]] for tensor in raw.train))
    return {"test": raw.test, **parts} if raw.test else parts


def _write(parts: Mapping[str, Labelled], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    images = parts["train"].images
    pixels = images.float() / 255
    facts = [1 + max(int(part.labels.max()) for part in parts.values()), *images.shape[1:]]
    tensors = {
        f"{name}.{field}": getattr(part, field).contiguous() for name, part in parts.items() for field in part._fields
    }
    normal = [float(pixels.mean()), max(float(pixels.std()), 1e-6)]
    partial = file.with_suffix(f".{os.getpid()}")
    save_file(tensors, partial, {"facts": json.dumps(facts), "normal": json.dumps(normal)})
    partial.rename(file)
