"""Sources: image classification sets as they are published, from files, downloads, or a function of the user's own."""

from __future__ import annotations

import gzip
import math
import traceback
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.errors import DataError, line
from training.own import function
from training.spec import DataSpec

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
TORCHVISION = {"mnist": "MNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}


class Labelled(NamedTuple):
    """Images, uint8 `[N, C, H, W]`, and their classes, int64 `[N]`."""

    images: Tensor
    labels: Tensor


class Raw(NamedTuple):
    """A data set as it is published; without a test part of its own, one is split off."""

    train: Labelled
    test: Labelled | None


def raw(spec: DataSpec) -> Raw:
    """Returns a data set as it is published.

    Raises:
        DataError: unknown, missing or malformed data.
    """
    makers: Mapping[str, Callable[[DataSpec], Raw]] = {
        "digits": _digits,
        "fashion_mnist": _fashion_mnist,
        "image_folder": _image_folder,
        **dict.fromkeys(TORCHVISION, _torchvision),
    }
    if spec.name in makers:
        found = makers[spec.name](spec)
    elif ":" in spec.name:
        found = _own(spec)
    else:
        raise DataError(
            f"data.name must be one of {', '.join(makers)} or your own package.module:function or file.py:function, "
            f"got {spec.name!r}"
        )
    for part in filter(None, found):
        _checked(part, spec.name)
    if found.test and found.train.images.shape[1:] != found.test.images.shape[1:]:
        shapes = [_words(part.images) for part in (found.train, found.test)]
        raise DataError(f"data {spec.name} must have images of one shape to train and to test on, got {shapes}")
    return found


def _checked(part: Labelled, name: str) -> None:
    images, labels = part
    if images.dtype != torch.uint8 or images.dim() != 4 or labels.dtype != torch.int64 or labels.dim() != 1:
        raise DataError(
            f"data {name} must be images uint8 [N, C, H, W] and labels int64 [N], "
            f"got {_words(images)} and {_words(labels)}"
        )
    if len(images) != len(labels) or images.numel() == 0:
        raise DataError(f"data {name} must have one label for each image, got {len(images)} and {len(labels)}")
    if int(labels.min()) < 0 or int(labels.max()) < 1:
        span = f"{int(labels.min())} to {int(labels.max())}"
        raise DataError(f"data {name} must have two classes or more, numbered 0, 1, …, got labels {span}")


def _words(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _digits(_: DataSpec) -> Raw:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy((bunch.images * (255 / 16)).round().astype(np.uint8)).unsqueeze(1)
    return Raw(Labelled(images, torch.from_numpy(bunch.target.astype(np.int64))), None)


def _fashion_mnist(spec: DataSpec) -> Raw:
    """Reads the IDX files in `root` or where Debian's package puts them, or else downloads them."""
    root = Path(spec.root) if spec.root else DEBIAN
    try:
        return Raw(_idx_pair(root, "train"), _idx_pair(root, "t10k"))
    except FileNotFoundError:
        return _torchvision(spec)


def _idx_pair(root: Path, prefix: str) -> Labelled:
    images, labels = (idx(root, f"{prefix}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
    return Labelled(images.unsqueeze(1), labels.long())


def idx(root: Path, name: str) -> Tensor:
    """Reads an IDX file of unsigned bytes, plain or with `.gz` behind its name.

    Raises:
        FileNotFoundError: neither is there.
        DataError: it is something else, or cut short.
    """
    plain, packed = root / name, root / f"{name}.gz"
    try:
        content = plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{packed} must be a gzip file: {error}") from None
    axes = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    shape = [int.from_bytes(content[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(axes)]
    if not axes or not 0 < math.prod(shape) == len(content) - 4 - 4 * axes:
        raise DataError(f"{plain} must be a whole IDX file of unsigned bytes, one at least")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=4 + 4 * axes).reshape(shape)


def _torchvision(spec: DataSpec) -> Raw:
    from torchvision import datasets

    root = Path(spec.root) if spec.root else Path.home() / ".cache" / "morphogen"
    maker = getattr(datasets, {**TORCHVISION, "fashion_mnist": "FashionMNIST"}[spec.name])
    try:
        parts = [maker(str(root), train=train, download=True) for train in (True, False)]
        return Raw(*(Labelled(_channels_first(np.asarray(p.data)), torch.as_tensor(p.targets).long()) for p in parts))
    except Exception as error:  # of damaged files any kind
        hint = " (on Debian: apt-get install dataset-fashion-mnist)" if spec.name == "fashion_mnist" else ""
        raise DataError(
            f"{spec.name} must be in {root}, whole, or be downloaded, which failed ({line(error)}): put its files "
            f"there and set data.root{hint}"
        ) from None


def _channels_first(images: np.ndarray[Any, Any]) -> Tensor:
    tensor = torch.from_numpy(np.array(images))
    return tensor.unsqueeze(1) if tensor.dim() == 3 else tensor.permute(0, 3, 1, 2).contiguous()


def _image_folder(spec: DataSpec) -> Raw:
    """Reads pictures of any sizes, a sub-folder of images for each class; what is hidden is left out."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset
    from torchvision.transforms.functional import resize

    if not spec.root or not Path(spec.root).is_dir():
        raise DataError(f"data.root must be a folder with one sub-folder of images for each class, got {spec.root!r}")
    folders = [path for path in sorted(Path(spec.root).iterdir()) if path.is_dir() and not path.name.startswith(".")]
    for folder in folders:
        if not any(path.is_file() for path in folder.iterdir()):
            raise DataError(f"{folder} must hold the images of one class, it holds none: set data.root to their folder")
    try:
        found = make_dataset(spec.root, {folder.name: n for n, folder in enumerate(folders)}, IMG_EXTENSIONS)
    except (OSError, ValueError) as error:
        raise DataError(f"data.root {spec.root} must hold images, a sub-folder a class: {line(error)}") from None
    images = torch.stack([resize(_picture(path), [spec.size, spec.size]) for path, _ in found])
    return Raw(Labelled(images, torch.tensor([label for _, label in found], dtype=torch.int64)), None)


def _picture(path: str) -> Tensor:
    """Returns an image file as colours, uint8 `[3, H, W]`: upright, on white, of 16 bits the higher eight."""
    from PIL import Image, ImageOps
    from torchvision.transforms.functional import pil_to_tensor

    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode in ("I", "F"):
                raise DataError(f"{path} must have 8 or 16 bits for each colour, it has 32")
            if image.mode.startswith("I;16"):
                return torch.from_numpy((np.asarray(image) >> 8).astype(np.uint8)).expand(3, -1, -1)
            if "A" in image.getbands() or "transparency" in image.info:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            colours: Tensor = pil_to_tensor(image.convert("RGB"))
            return colours
    except DataError:
        raise
    except Exception as error:  # of damaged files any kind
        raise DataError(f"{path} must be a readable image: {line(error)}") from None


def _own(spec: DataSpec) -> Raw:
    """Calls the user's function; its module is also looked for in `root`, or else in the working directory."""
    try:
        make = function(spec.name, Path(spec.root or "."))
    except ImportError as error:
        raise DataError(
            f"data.name {spec.name!r} must name a function that can be imported ({error}): install its package, or set "
            "data.root to the folder that holds its module"
        ) from None
    try:
        made = make()
    except Exception as error:  # it is the user's code
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise DataError(
            f"data.name {spec.name!r} must name a function that returns images and labels, without arguments; it "
            f"raises {type(error).__name__}: {line(error)} ({last.filename}:{last.lineno})"
        ) from error
    try:
        pairs = made if isinstance(made[0], tuple | list) else [made]
        train, *test = [Labelled(*map(torch.as_tensor, pair)) for pair in pairs]
        return Raw(train, *test) if test else Raw(train, None)
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise DataError(
            f"data {spec.name} must return (images, labels), or two such pairs to train and to test on: {error}"
        ) from None
