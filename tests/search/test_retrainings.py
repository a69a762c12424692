"""The record of retrainings: each once, what was cut off shows, and one process at a time."""

from __future__ import annotations

import sqlite3
from collections import deque
from dataclasses import replace
from pathlib import Path

import pytest

from search import DiskFull, Evaluation, Reading, Retraining, Retrainings, SearchLocked, UnreadableLedger
from search.errors import NewerSchema
from search.retrainings import FILE

GOOD = Evaluation(3, "ok", {"error": 0.25, "second_validation_error": 0.5}, {"seconds": 2.0}, weights="a" * 64)
ONE = Retraining("key", 3, 1, {"recipe": {"crop": 1}}, GOOD)


def test_what_is_recorded_is_read_again_also_by_who_only_looks(tmp_path: Path) -> None:
    with Retrainings.open(tmp_path) as record:
        record.record(ONE)
        record.record(replace(ONE, key="other", seed=0))
    with Retrainings.read(tmp_path) as record:
        assert record.recorded() == {"key": ONE, "other": replace(ONE, key="other", seed=0)}


def test_a_second_attempt_takes_the_place_of_the_first(tmp_path: Path) -> None:
    failure = replace(ONE, evaluation=Evaluation(3, "killed", reason="died of SIGKILL"))
    assert not failure.final
    assert ONE.final
    assert replace(ONE, evaluation=Evaluation(3, "non_finite")).final
    assert not replace(ONE, evaluation=Evaluation(3, "out_of_memory")).final, "another machine may have enough"
    with Retrainings.open(tmp_path) as record:
        record.record(failure)
        record.record(ONE)
        assert list(record.recorded().values()) == [ONE]


def test_a_reading_shows_from_its_beginning_on(tmp_path: Path) -> None:
    with Retrainings.open(tmp_path) as record:
        record.reading_begins("a")
    with Retrainings.open(tmp_path) as record:
        assert record.readings() == [Reading("a", None)]
        assert record.test_errors() == {}
        record.reading_begins("a")
        record.reading_ended("a", 0.125)
        record.reading_begins("b")
        assert record.readings() == [Reading("a", None), Reading("a", 0.125), Reading("b", None)]
        assert record.test_errors() == {"a": 0.125}
        record.reading_ended("c", 0.5)  # it landed, and the record was lost
        assert record.test_errors() == {"a": 0.125, "c": 0.5}


def test_the_last_choice_counts_and_the_same_one_is_written_once(tmp_path: Path) -> None:
    other = replace(ONE, key="other")
    with Retrainings.open(tmp_path) as record:
        assert record.chosen() is None
        record.record(ONE)
        record.record(other)
        for key in ("key", "key", "other", "key"):
            record.choose(key)
        assert record.chosen() == ONE
    with sqlite3.connect(tmp_path / FILE) as db:
        assert [key for (key,) in db.execute("SELECT key FROM choice ORDER BY seq")] == ["key", "other", "key"]
    db.close()


def test_one_process_at_a_time_adds_to_it_and_others_may_look(tmp_path: Path) -> None:
    directory = tmp_path / "flowers" / "retrain"
    with Retrainings.open(directory) as record:
        record.record(ONE)
        with pytest.raises(SearchLocked, match="the retraining of search flowers must be run by one process"):
            Retrainings.open(directory)
        with Retrainings.read(directory) as other:
            assert other.recorded() == {"key": ONE}
    Retrainings.open(directory).close()


def test_looking_makes_no_file(tmp_path: Path) -> None:
    with Retrainings.read(tmp_path) as record:
        assert record.recorded() == {}
        assert record.readings() == []
        assert record.chosen() is None
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    with Retrainings.open(tmp_path) as record:
        record.record(ONE)
        broken = replace(ONE, evaluation=replace(GOOD, objectives={"error": float("nan")}))
        with pytest.raises(ValueError, match="JSON"):
            record.record(broken)
        record.record(replace(ONE, key="next"))
        assert set(record.recorded()) == {"key", "next"}


def test_a_record_that_may_not_grow_is_a_full_disk_and_loses_nothing(tmp_path: Path) -> None:
    with Retrainings.open(tmp_path) as record:
        record.record(ONE)
        pages = record._db.execute("PRAGMA page_count").fetchone()[0]
        record._db.execute(f"PRAGMA max_page_count = {pages}")
        more = (replace(ONE, key=f"more {number}") for number in range(500))
        with pytest.raises(DiskFull, match="make room, then go on"):
            deque(map(record.record, more))
        written = len(record.recorded())
    with Retrainings.open(tmp_path) as record:
        assert len(record.recorded()) == written < 500


def test_another_version_or_another_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    Retrainings.open(tmp_path).close()
    db = sqlite3.connect(tmp_path / FILE)
    db.execute("PRAGMA user_version = 7")
    db.close()
    with pytest.raises(NewerSchema, match="must have schema 2 or less to be read by this version, it has 7"):
        Retrainings.open(tmp_path)
    (tmp_path / FILE).write_bytes(b"no database, but more than a hundred bytes " * 10)
    with pytest.raises(UnreadableLedger, match="must be a whole record of retrainings"):
        Retrainings.open(tmp_path)
    with pytest.raises(UnreadableLedger):
        Retrainings.read(tmp_path)
    assert (tmp_path / FILE).read_bytes().startswith(b"no database")
    (tmp_path / "file").write_text("")
    with pytest.raises(UnreadableLedger, match="must be a writable directory"):
        Retrainings.open(tmp_path / "file")
