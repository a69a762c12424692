"""Weights come back bit for bit, or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from search import CorruptWeights, DiskFull, UnreadableLedger, WeightStore
from tests.search.failpoints import Crash, Failpoints
from tests.search.toys import network

GENOME = network(4)


def tensors(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"conv.weight": (4, 1, 3, 3), "conv.bias": (4,), "logits.weight": (3, 4), "logits.bias": (3,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def files(store: WeightStore) -> list[str]:
    return sorted(path.name for path in store.directory.iterdir())


def test_what_was_put_is_got(place: Path) -> None:
    store = WeightStore(place / "deep" / "weights")
    digest = store.put(GENOME, tensors(0))
    genome, found = store.get(digest)
    assert genome == GENOME
    assert_same(found, tensors(0))


def test_a_digest_is_that_of_what_would_be_stored_and_nothing_is_written(place: Path) -> None:
    store = WeightStore(place)
    digest = WeightStore.digest(GENOME, tensors(0))
    assert files(store) == []
    assert store.put(GENOME, tensors(0)) == digest


def test_the_name_is_the_hash_of_the_content_and_the_file_is_private(place: Path) -> None:
    store = WeightStore(place)
    digest = store.put(GENOME, tensors(0))
    assert files(store) == [f"{digest}.safetensors"]
    assert hashlib.sha256(store.path(digest).read_bytes()).hexdigest() == digest
    assert stat.S_IMODE(store.path(digest).stat().st_mode) == 0o600


def test_equal_weights_are_stored_once_and_others_are_told_apart(place: Path) -> None:
    store = WeightStore(place)
    shuffled = dict(reversed(tensors(0).items()))
    assert store.put(GENOME, tensors(0)) == store.put(GENOME, shuffled)
    assert store.put(GENOME, tensors(1)) != store.put(GENOME, tensors(0))
    assert store.put(network(5), tensors(0)) != store.put(GENOME, tensors(0))
    assert len(files(store)) == 3


def test_weights_that_are_views_are_stored(place: Path) -> None:
    store = WeightStore(place)
    turned = {"logits.weight": torch.arange(12.0).reshape(4, 3).T}
    assert_same(store.get(store.put(GENOME, turned))[1], turned)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, place: Path) -> None:
    broken = tensors(0)
    broken["logits.bias"][1] = value
    store = WeightStore(place)
    with pytest.raises(CorruptWeights, match=r"must be finite, logits\.bias is not"):
        store.put(GENOME, broken)
    assert files(store) == []


def test_every_damage_is_found(place: Path) -> None:
    store = WeightStore(place)
    digest, other = store.put(GENOME, tensors(0)), store.put(GENOME, tensors(1))
    content = store.path(digest).read_bytes()
    rng = random.Random(0)
    flips = [(position, 1 << rng.randrange(8)) for position in range(len(content))]
    damaged = [content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :] for at, bit in flips]
    damaged += [content[: len(content) * part // 64] for part in range(64)]
    damaged += [content + b"\0", bytes(len(content)), store.path(other).read_bytes()]
    damaged += [(2**60).to_bytes(8, "little") + content[8:]]
    for broken in damaged:
        store.path(digest).write_bytes(broken)
        with pytest.raises(CorruptWeights, match="damaged"):
            store.get(digest)
    store.path(digest).unlink()
    with pytest.raises(CorruptWeights, match="missing"):
        store.get(digest)


def test_a_damaged_file_is_mended_when_the_same_weights_are_put_again(place: Path) -> None:
    store = WeightStore(place)
    digest = store.put(GENOME, tensors(0))
    store.path(digest).write_bytes(b"damaged")
    assert store.put(GENOME, tensors(0)) == digest
    assert_same(store.get(digest)[1], tensors(0))


@pytest.mark.parametrize(
    "content", [b"", b"hello, I am no tensor", (2**60).to_bytes(8, "little"), b"\2\0\0\0\0\0\0\0{}"]
)
def test_a_file_of_the_right_hash_that_holds_no_network_is_refused(content: bytes, place: Path) -> None:
    store = WeightStore(place)
    digest = hashlib.sha256(content).hexdigest()
    store.path(digest).write_bytes(content)
    with pytest.raises(CorruptWeights, match="must be a network's safetensors"):
        store.get(digest)


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n", "/" + "a" * 63])
def test_only_a_digest_names_a_file(digest: str, place: Path) -> None:
    with pytest.raises(CorruptWeights, match="64 hexadecimal digits"):
        WeightStore(place).path(digest)


def test_collecting_removes_what_nothing_names_and_nothing_else(place: Path) -> None:
    store = WeightStore(place)
    kept, loose = store.put(GENOME, tensors(0)), store.put(GENOME, tensors(1))
    (place / "partial-abc").write_bytes(b"half")
    (place / "notes.txt").touch()
    assert store.collect({kept}) == 2
    assert files(store) == sorted([f"{kept}.safetensors", "notes.txt"])
    assert not store.path(loose).exists()


def test_a_crash_while_putting_leaves_all_or_nothing(place: Path) -> None:
    points = Failpoints()
    with points.armed():
        digest = WeightStore(place / "undisturbed").put(GENOME, tensors(0))
    assert points.count >= 6  # two flushes and a rename, before and after each
    for at in range(1, points.count + 1):
        store = WeightStore(place / f"{at}")
        with pytest.raises(Crash), Failpoints(at).armed():
            store.put(GENOME, tensors(0))
        if store.path(digest).exists():
            assert_same(store.get(digest)[1], tensors(0))
        store.collect({digest})
        assert store.put(GENOME, tensors(0)) == digest
        assert files(store) == [f"{digest}.safetensors"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_said_and_nothing_is_left(number: int, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(number, "no room")

    store = WeightStore(place)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskFull, match="make room, then resume"):
            store.put(GENOME, tensors(0))
    assert files(store) == []


def test_a_place_that_is_no_directory_is_refused(place: Path) -> None:
    (place / "file").touch()
    for directory in (place / "file", place / "file" / "below"):
        with pytest.raises(UnreadableLedger, match="must be a writable directory"):
            WeightStore(directory)
