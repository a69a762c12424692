from __future__ import annotations

import gzip
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from torchvision import datasets

from tests.training import samples
from training import DataError, DataSpec, load, prepare, sources
from training.data import PARTS, Prepared, Split

BLOBS = "tests.training.samples:blobs"


def parts(split: Split) -> list[set[bytes]]:
    """Returns the images of each part as bytes."""
    return [{image.numpy().tobytes() for image in getattr(split, part).images} for part in PARTS]


def test_digits_need_no_download(tmp_path: Path) -> None:
    prepared = prepare(DataSpec(), tmp_path)
    assert (prepared.shape, prepared.classes) == ((1, 8, 8), 10)
    assert sum(prepared.sizes.values()) == 1797
    split = load(prepared)
    assert int(split.train.images.max()) == 255
    pixels = split.train.images.double() / 255
    assert prepared.normal == pytest.approx((float(pixels.mean()), float(pixels.std(correction=0))), abs=1e-9)


@pytest.mark.parametrize("name", [BLOBS, "tests.training.samples:arrays"])
def test_the_parts_are_disjoint_and_whole(name: str, tmp_path: Path) -> None:
    prepared = prepare(DataSpec(name, validation=0.2, second_validation=0.1, test=0.3), tmp_path)
    found = parts(load(prepared))
    assert [len(part) for part in found] == [96, 48, 24, 72] == [prepared.sizes[part] for part in PARTS]
    assert set.union(*found) == {image.numpy().tobytes() for image in samples.blobs()[0]}
    assert sum(map(len, found)) == 240


def test_labels_stay_with_their_images(tmp_path: Path) -> None:
    images, labels = samples.blobs()
    known = {image.numpy().tobytes(): int(label) for image, label in zip(images, labels, strict=True)}
    split = load(prepare(DataSpec(BLOBS), tmp_path))
    for part in PARTS:
        images, labels = getattr(split, part)
        assert [known[image.numpy().tobytes()] for image in images] == labels.tolist()


def test_the_split_is_a_function_of_the_seed(tmp_path: Path) -> None:
    first, again, other = (
        parts(load(prepare(DataSpec(BLOBS, seed=seed), tmp_path / place)))
        for seed, place in ((1, "a"), (1, "b"), (2, "c"))
    )
    assert first == again
    assert all(one != two for one, two in zip(first, other, strict=True))


def test_a_test_part_of_its_own_is_kept_whole(tmp_path: Path) -> None:
    split = load(prepare(DataSpec("tests.training.samples:two_parts"), tmp_path))
    assert torch.equal(split.test.images, samples.blobs(60, seed=1)[0])
    assert sum(len(part) for part in parts(split)[:3]) == 240


def test_a_set_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(DataSpec(BLOBS), tmp_path)
    monkeypatch.setattr(samples, "blobs", samples.nothing)
    assert prepare(DataSpec(BLOBS), tmp_path) == first == Prepared.at(first.file)
    assert [path.name for path in tmp_path.iterdir()] == [first.file.name]


def test_each_specification_has_a_file_of_its_own(tmp_path: Path) -> None:
    specs = [DataSpec(BLOBS), DataSpec(BLOBS, seed=1), DataSpec(BLOBS, validation=0.3), DataSpec(BLOBS, root="tests")]
    assert len({prepare(spec, tmp_path).file for spec in specs}) == len(specs)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_tensors_are_views_of_the_file(tmp_path: Path) -> None:
    prepared = prepare(DataSpec(BLOBS), tmp_path)
    split = load(prepared)
    address = split.train.images.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(part, 16) for part in line.split()[0].split("-"))
        if low <= address < high:
            assert line.endswith(prepared.file.name)
            return
    pytest.fail("the images are in no mapping")


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_fashion_mnist_is_read_from_idx_files(suffix: str, tmp_path: Path) -> None:
    samples.write_fashion(tmp_path / "files", suffix)
    prepared = prepare(DataSpec("fashion_mnist", root=str(tmp_path / "files")), tmp_path)
    split = load(prepared)
    assert torch.equal(split.test.images, samples.blobs(40, seed=1)[0])
    assert torch.equal(split.test.labels, samples.blobs(40, seed=1)[1])
    assert sum(prepared.sizes.values()) == 280


def test_fashion_mnist_is_found_where_debian_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples.write_fashion(tmp_path / "debian")
    monkeypatch.setattr(sources, "DEBIAN", tmp_path / "debian")
    assert prepare(DataSpec("fashion_mnist"), tmp_path).sizes["test"] == 40


def test_missing_fashion_mnist_names_both_remedies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz\nmore")

    monkeypatch.setattr(sources, "DEBIAN", tmp_path / "nowhere")
    monkeypatch.setattr(datasets, "FashionMNIST", offline)
    with pytest.raises(DataError, match=r"(?s)fashion_mnist.*downloaded.*data\.root.*apt-get install") as caught:
        prepare(DataSpec("fashion_mnist"), tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0\x08\x01", b"\0\0\x08\x01\0\0\0\0", b"\0\0\x09\x01\0\0\0\x01\0", b"\0\0\x08\x01\0\0\0\x05\0", b"hello"],
)
@pytest.mark.parametrize("packed", [True, False])
def test_a_damaged_idx_file_is_refused(content: bytes, packed: bool, tmp_path: Path) -> None:
    (tmp_path / ("x.gz" if packed else "x")).write_bytes(gzip.compress(content, mtime=0) if packed else content)
    with pytest.raises(DataError, match="must be a whole IDX file"):
        sources.idx(tmp_path, "x")


@pytest.mark.parametrize(
    "content", [b"hello", gzip.compress(bytes(1000), mtime=0)[:20], gzip.compress(bytes(range(200)))[:-9] + b"!" * 9]
)
def test_a_damaged_gzip_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.gz must be a gzip file"):
        sources.idx(tmp_path, "x")


@pytest.mark.parametrize(
    ("name", "shape"), [("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32)), ("cifar100", (3, 32, 32))]
)
def test_torchvision_sets_are_brought_into_one_form(
    name: str, shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Published:
        """As torchvision publishes them: MNIST as a tensor [N, H, W], CIFAR as an array [N, H, W, C] and a list."""

        def __init__(self, root: str, train: bool, download: bool) -> None:
            assert (root, download) == (str(tmp_path), True)
            count = 30 if train else 10
            images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(count, *shape)
            colour = images.permute(0, 2, 3, 1).numpy()
            self.data = colour if len(shape) == 3 and shape[0] == 3 else images[:, 0]
            self.targets = [0, 1] * (count // 2) if shape[0] == 3 else torch.tensor([0, 1] * (count // 2))

    monkeypatch.setattr(datasets, sources.TORCHVISION[name], Published)
    prepared = prepare(DataSpec(name, root=str(tmp_path)), tmp_path)
    assert prepared.shape == shape
    images = load(prepared).test.images
    assert images[:, 0, 0, 0].tolist() == list(range(10))


def test_a_folder_of_images_is_brought_to_one_size(tmp_path: Path) -> None:
    for label, colour in {"cats": (250, 0, 0), "dogs": (0, 0, 250)}.items():
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (20 + number, 30), colour).save(tmp_path / "pictures" / label / f"{number}.png")
    prepared = prepare(DataSpec("image_folder", root=str(tmp_path / "pictures"), size=16), tmp_path)
    assert (prepared.shape, prepared.classes, sum(prepared.sizes.values())) == ((3, 16, 16), 2, 20)
    train = load(prepared).train
    assert all(int(image[0].max() > 200) == 1 - int(label) for image, label in zip(*train, strict=True))
    (tmp_path / "pictures" / "cats" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="must be a readable image"):
        prepare(DataSpec("image_folder", root=str(tmp_path / "pictures"), size=8), tmp_path)


def folder_of(place: Path, image: Image.Image) -> DataSpec:
    """Writes an image, and another one of another class."""
    for label, picture in {"one": image, "other": Image.new("RGB", (8, 8))}.items():
        (place / "pictures" / label).mkdir(parents=True)
        for number in range(9):
            picture.save(place / "pictures" / label / f"{number}.tiff")
    return DataSpec("image_folder", root=str(place / "pictures"), size=8)


def test_images_of_sixteen_bits_keep_their_range(tmp_path: Path) -> None:
    ramp = torch.arange(64, dtype=torch.int32).view(8, 8) * 1024
    image = Image.fromarray(ramp.numpy().astype("uint16"))
    train = load(prepare(folder_of(tmp_path, image), tmp_path)).train
    seen = train.images[train.labels == 0][0]
    assert torch.equal(seen, (ramp // 256).to(torch.uint8).expand(3, 8, 8))


def test_photographs_are_upright_and_what_is_transparent_is_white(tmp_path: Path) -> None:
    photograph = Image.new("RGB", (8, 8))
    photograph.paste((255, 255, 255), (0, 0, 8, 4))
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown turned by a quarter
    for label in ("dark", "turned"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
    for number in range(9):
        photograph.save(tmp_path / "pictures" / "turned" / f"{number}.png", exif=turned)
        shape = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
        shape.paste((0, 0, 0, 255), (0, 0, 4, 8))
        shape.save(tmp_path / "pictures" / "dark" / f"{number}.png")
    train = load(prepare(DataSpec("image_folder", root=str(tmp_path / "pictures"), size=8), tmp_path)).train
    half = torch.arange(8) >= 4
    for label in (0, 1):
        seen = train.images[train.labels == label][0]
        assert torch.equal(seen == 255, half.expand(3, 8, 8))


def test_hidden_folders_are_no_classes_and_folders_of_folders_are_refused(tmp_path: Path) -> None:
    spec = folder_of(tmp_path, Image.new("RGB", (8, 8)))
    (tmp_path / "pictures" / ".thumbnails").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / ".thumbnails" / "0.png")
    assert prepare(spec, tmp_path).classes == 2
    with pytest.raises(DataError, match=r"pictures must hold the images of one class, it holds none"):
        prepare(replace(spec, root=str(tmp_path)), tmp_path / "other")


def test_images_of_thirty_two_bits_are_refused(tmp_path: Path) -> None:
    spec = folder_of(tmp_path, Image.new("F", (8, 8), 0.5))
    with pytest.raises(DataError, match=r"one/\d\.tiff must have 8 or 16 bits for each colour"):
        prepare(spec, tmp_path)


def test_whatever_a_damaged_file_raises_is_told_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = folder_of(tmp_path, Image.new("RGB", (64, 64)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow's own error is no OSError
    with pytest.raises(DataError, match=r"one/\d\.tiff must be a readable image: Image size"):
        prepare(spec, tmp_path)
    files = tmp_path / "MNIST" / "raw"
    files.mkdir(parents=True)
    for part, kind in product(("train", "t10k"), ("images-idx3", "labels-idx1")):
        (files / f"{part}-{kind}-ubyte").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"mnist must be in .* whole"):
        prepare(DataSpec("mnist", root=str(tmp_path)), tmp_path)


@pytest.mark.parametrize("root", [None, "nowhere", "."])
def test_a_folder_without_images_is_refused(root: str | None, tmp_path: Path) -> None:
    place = root and str(tmp_path / root)
    with pytest.raises(DataError, match=r"data\.root"):
        prepare(DataSpec("image_folder", root=place), tmp_path / "cache")


def test_folders_of_one_relative_name_are_two_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    means = []
    for colour in ("black", "white"):
        folder_of(tmp_path / colour, Image.new("RGB", (8, 8), colour))
        monkeypatch.chdir(tmp_path / colour)
        means.append(prepare(DataSpec("image_folder", root="pictures", size=8), tmp_path / "cache").mean)
    assert means[0] < 0.1 < means[1]


def test_a_class_that_nothing_is_left_of_to_train_on_is_refused(tmp_path: Path) -> None:
    spec = folder_of(tmp_path, Image.new("RGB", (8, 8)))
    for number in range(1, 9):
        (tmp_path / "pictures" / "other" / f"{number}.tiff").unlink()
    words = "class 1: it has 1, and none of them is left to train on"
    refused = 0
    for seed in range(20):
        with suppress(DataError):
            assert set(load(prepare(replace(spec, seed=seed), tmp_path)).train.labels.tolist()) == {0, 1}
            continue
        with pytest.raises(DataError, match=words):
            prepare(replace(spec, seed=seed), tmp_path)
        refused += 1
    assert 0 < refused < 20


@pytest.mark.parametrize("source", ["def load():\n    return 1 / 0\n", "1 / 0\n", "def load(n):\n    pass\n"])
def test_what_a_function_of_the_user_s_raises_is_told_in_one_line(source: str, tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text(source)
    with pytest.raises(DataError, match=r"data\.name 'faulty\.py:load' must name a function") as caught:
        prepare(DataSpec("faulty.py:load", root=str(tmp_path)), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_function_is_found_in_the_root(tmp_path: Path) -> None:
    made = "torch.arange(80, dtype=torch.uint8).view(20, 1, 2, 2), torch.arange(20) % 2"
    source = f"import torch\n\ndef get():\n    return {made}\n"
    (tmp_path / "my_own_images.py").write_text(source)
    path = list(sys.path)
    assert prepare(DataSpec("my_own_images:get", root=str(tmp_path)), tmp_path).shape == (1, 2, 2)
    assert sys.path == path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("imagenet", "must be one of digits, fashion_mnist, image_folder.*got 'imagenet'"),
        ("no_such_package:get", "can be imported.*data.root"),
        ("tests.training.samples:no_such_function", "can be imported"),
        ("tests.training.samples:SHAPE", "can be imported"),
        ("tests.training.samples:floats", r"uint8 \[N, C, H, W\].*got float32 \[240, 1, 8, 8\]"),
        ("tests.training.samples:flat", r"got uint8 \[240, 64\]"),
        ("tests.training.samples:unpaired", "one label for each image, got 240 and 239"),
        ("tests.training.samples:one_class", "two classes or more.*0 to 0"),
        ("tests.training.samples:negative", "numbered 0, 1, ….*-1 to 2"),
        ("tests.training.samples:unequal", "images of one shape"),
        ("tests.training.samples:nothing", r"must return \(images, labels\)"),
        ("tests.training.samples:alone", r"must return \(images, labels\)"),
    ],
)
def test_data_that_cannot_be_used_is_refused(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        prepare(DataSpec(name), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_shares_must_leave_something_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must leave examples to train on"):
        prepare(DataSpec(BLOBS, validation=0.5, second_validation=0.3, test=0.2), tmp_path)


def test_a_damaged_file_is_a_typed_error(tmp_path: Path) -> None:
    prepared = prepare(DataSpec(BLOBS), tmp_path)
    prepared.file.write_bytes(prepared.file.read_bytes()[:100])
    for use in (lambda: prepare(DataSpec(BLOBS), tmp_path), lambda: load(prepared)):
        with pytest.raises(DataError, match="remove it"):
            use()
    prepared.file.unlink()
    with pytest.raises(DataError, match="remove it"):
        load(prepared)


def test_a_cache_that_cannot_be_written_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="could not be written"):
        prepare(DataSpec(BLOBS), tmp_path / "file")


@pytest.mark.parametrize("change", [{"validation": 0.0}, {"test": 1.0}, {"size": 1}, {"nme": "digits"}])
def test_a_configuration_with_a_mistake_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(DataSpec).validate_python({**asdict(DataSpec()), **change})
