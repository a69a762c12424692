"""Data: a data set is converted once into one file, with its split, that all children map into memory."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from training.errors import DataError
from training.sources import Labelled, Raw, raw
from training.spec import DataSpec

LAYOUT = 1  # of the file
PARTS = ("train", "validation", "second_validation", "test")


@dataclass(frozen=True)
class Split:
    """What a data file holds.

    Attributes:
        train: to train on.
        validation: what selection sees.
        second_validation: what chooses among finalists.
        test: read once, at the very end.
    """

    train: Labelled
    validation: Labelled
    second_validation: Labelled
    test: Labelled


@dataclass(frozen=True)
class Prepared:
    """A data set that is ready.

    Attributes:
        file: the safetensors file.
        shape: of one image, `[C, H, W]`.
        classes: how many.
        sizes: how many examples are in each part, by the names of `Split`.
        mean: of all pixels of the training part, on the scale 0 to 1.
        std: their standard deviation, on the same scale.
    """

    file: Path
    shape: tuple[int, int, int]
    classes: int
    sizes: Mapping[str, int]
    mean: float
    std: float

    @property
    def normal(self) -> tuple[float, float]:
        """Mean and standard deviation, which inputs are normalised by."""
        return self.mean, self.std

    @classmethod
    def at(cls, file: Path) -> Prepared:
        """Reads the facts of a file that `prepare` wrote.

        Raises:
            DataError: it is missing or damaged.
        """
        try:
            with safe_open(file, "pt") as content:
                facts = json.loads(content.metadata()["facts"])
            return cls(file, tuple(facts.pop("shape")), **facts)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{file} must be a prepared data set ({error}): remove it, and it is made anew") from None


def prepare(spec: DataSpec, cache: Path) -> Prepared:
    """Returns the facts of a data set's file, and makes the file first if it is not there.

    The file is named by what `spec` says, and by the folder that it is about: after a change of the images themselves,
    or of your own function, remove it.

    Args:
        spec: which data, and how it is split.
        cache: the directory for such files.

    Raises:
        DataError: unknown, missing or malformed data.
    """
    own = spec.root or ("." if ":" in spec.name else None)
    placed = replace(spec, root=own and str(Path(own).absolute()))
    key = json.dumps([LAYOUT, asdict(placed)], sort_keys=True).encode()
    file = (
        cache
        / f"{re.sub('[^a-z0-9_]+', '-', spec.name.lower())[:40]}-{hashlib.sha256(key).hexdigest()[:12]}.safetensors"
    )
    if not file.exists():
        _write(_split(raw(spec), spec), file)
    return Prepared.at(file)


def load(prepared: Prepared) -> Split:
    """Returns a prepared data set; its tensors are views of the mapped file, shared by all readers: clone to write.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        with safe_open(prepared.file, "pt") as content:
            parts = {p: Labelled(content.get_tensor(f"{p}.images"), content.get_tensor(f"{p}.labels")) for p in PARTS}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{prepared.file} must be a prepared data set ({error}): remove it, and resume") from None
    return Split(**parts)


def _split(given: Raw, spec: DataSpec) -> dict[str, Labelled]:
    generator = torch.Generator().manual_seed(spec.seed)
    order = torch.randperm(len(given.train.labels), generator=generator)
    shares = {"validation": spec.validation, "second_validation": spec.second_validation}
    if given.test is None:
        shares["test"] = spec.test
    parts, start = {}, 0
    for part, share in shares.items():
        count = max(1, round(share * len(order)))
        parts[part] = Labelled(*(tensor[order[start : start + count]] for tensor in given.train))
        start += count
    if start >= len(order):
        raise DataError(f"data.validation, second_validation and test must leave examples to train on, got {shares}")
    parts["train"] = Labelled(*(tensor[order[start:]] for tensor in given.train))
    counts = given.train.labels.bincount()
    left = parts["train"].labels.bincount(minlength=len(counts))
    if len(unseen := ((counts > 0) & (left == 0)).nonzero()):
        first = int(unseen[0])
        raise DataError(
            f"data {spec.name} must have more images of class {first}: it has {int(counts[first])}, and none of them "
            "is left to train on"
        )
    return {"test": given.test, **parts} if given.test else parts


def _write(parts: Mapping[str, Labelled], file: Path) -> None:
    images = parts["train"].images
    mean, deviation = _moments(images)
    facts = {
        "shape": list(images.shape[1:]),
        "classes": 1 + max(int(part.labels.max()) for part in parts.values()),
        "sizes": {name: len(parts[name].labels) for name in PARTS},
        "mean": mean,
        "std": deviation,
    }
    tensors = {
        f"{name}.{field}": getattr(part, field).contiguous() for name, part in parts.items() for field in part._fields
    }
    partial = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, {"facts": json.dumps(facts)})
        partial.rename(file)
    except (OSError, SafetensorError) as error:
        if file.parent.is_dir():
            partial.unlink(missing_ok=True)
        raise DataError(f"{file} could not be written: {error}") from None


def _moments(images: Tensor) -> tuple[float, float]:
    """Returns mean and deviation of the pixels, counted in integers: alike on any machine, on any number of threads."""
    counts = torch.bincount(images.flatten(), minlength=256)
    values, total = torch.arange(256), int(counts.sum())
    mean = int((counts * values).sum()) / total
    variance = int((counts * values**2).sum()) / total - mean**2
    return mean / 255, max(math.sqrt(max(variance, 0.0)) / 255, 1e-6)
