"""A depot gives back what was put there, or says that it cannot; any kind of file system that fsspec knows will do."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from flows.cluster.depot import Depot, Supply
from flows.home import BadInput
from search import CorruptWeights, Evaluation, sha256
from tests.flows.test_orders import begun

CONTENT = b"some weights"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(params=["file", "memory"])
def depot(request: pytest.FixtureRequest, tmp_path: Path) -> Depot:
    return Depot((tmp_path / "depot").as_uri() if request.param == "file" else f"memory://{tmp_path.name}")


def written(file: Path, content: bytes = CONTENT) -> Path:
    file.write_bytes(content)
    return file


def test_what_was_put_there_is_had_from_there(depot: Depot, tmp_path: Path) -> None:
    depot.put(DIGEST, written(tmp_path / "a"))
    depot.get(DIGEST, tmp_path / "below" / "b")
    assert (tmp_path / "below" / "b").read_bytes() == CONTENT
    assert [file.name for file in (tmp_path / "below").iterdir()] == ["b"]


def test_what_is_here_and_whole_is_not_had_again(tmp_path: Path) -> None:
    Depot((tmp_path / "empty").as_uri()).get(DIGEST, file := written(tmp_path / "a"))
    assert file.read_bytes() == CONTENT


def test_what_is_here_and_damaged_is_had_again(depot: Depot, tmp_path: Path) -> None:
    depot.put(DIGEST, written(tmp_path / "a"))
    depot.get(DIGEST, written(tmp_path / "b", b"some weighty"))
    assert (tmp_path / "b").read_bytes() == CONTENT


def test_what_is_damaged_there_is_not_taken(depot: Depot, tmp_path: Path) -> None:
    depot.put(DIGEST, written(tmp_path / "a", b"other"))
    with pytest.raises(CorruptWeights, match="is damaged, its SHA-256 is"):
        depot.get(DIGEST, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_what_is_not_there_is_an_error_of_the_system(depot: Depot, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        depot.get(DIGEST, tmp_path / "b")


def test_an_upload_that_was_cut_off_is_done_again_and_a_whole_one_is_not(tmp_path: Path) -> None:
    depot, there = Depot((tmp_path / "depot").as_uri()), tmp_path / "depot" / f"{DIGEST}.safetensors"
    depot.put(DIGEST, written(tmp_path / "a", CONTENT[:5]))
    depot.put(DIGEST, written(tmp_path / "a"))
    assert there.read_bytes() == CONTENT
    before = there.stat().st_mtime_ns
    depot.put(DIGEST, tmp_path / "a")
    assert there.stat().st_mtime_ns == before


def test_a_search_sends_what_its_nodes_need_and_gets_what_they_trained(tmp_path: Path) -> None:
    _, evaluator = begun(tmp_path / "searches")
    bucket = tmp_path / "bucket"
    supply = Supply(bucket.as_uri(), evaluator)
    assert supply.data == sha256(evaluator.prepared.file)
    mine = written(evaluator.store.path(DIGEST))
    supply.send([DIGEST])
    assert {file.stem for file in bucket.iterdir()} == {supply.data, DIGEST}
    mine.unlink()
    evaluation = Evaluation(1, "ok", {"error": 0.5}, weights=DIGEST)
    assert supply.receive(evaluation) == evaluation
    assert mine.read_bytes() == CONTENT


def test_weights_that_do_not_arrive_are_a_failure_that_is_tried_again(tmp_path: Path) -> None:
    _, evaluator = begun(tmp_path / "searches")
    supply = Supply((tmp_path / "bucket").as_uri(), evaluator)
    failed = supply.receive(Evaluation(1, "ok", {"error": 0.5}, weights=DIGEST))
    assert (failed.status, failed.weights) == ("io_error", None)
    assert "trained and not received" in failed.reason


def test_without_a_depot_nothing_is_sent_or_received(tmp_path: Path) -> None:
    _, evaluator = begun(tmp_path / "searches")
    supply = Supply(None, evaluator)
    supply.send([DIGEST])
    evaluation = Evaluation(1, "ok", {"error": 0.5}, weights=DIGEST)
    assert (supply.data, supply.receive(evaluation)) == (None, evaluation)


@pytest.mark.parametrize("address", ["nosuchkind://a/b", "file:///proc/depot"])
def test_a_depot_that_cannot_be_written_is_refused_before_anything_is_trained(tmp_path: Path, address: str) -> None:
    _, evaluator = begun(tmp_path / "searches")
    with pytest.raises(BadInput, match=r"slots\.ray\.store must be what fsspec can write"):
        Supply(address, evaluator)
