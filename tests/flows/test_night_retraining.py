"""Finalists that nights train from scratch: new ones, what was cut off, and nothing twice."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from flows.assembly import RETRAIN
from search import Evaluation, Retrainings
from search.retrainings import FILE
from tests.flows.conftest import config


def test_new_finalists_are_retrained_at_the_end_of_a_night_and_known_ones_are_not(
    prefect_server: None, home: Path
) -> None:
    from flows.nightly import nightly

    few = {"top": 1, "seeds": 1, "fidelity": {"examples": 256}}
    settings = config(budget={"candidates": 3}, retrain=few)
    result = nightly(settings, candidates=3, retrain=True, home=home)
    assert result["note"].startswith("Chosen: child")
    assert "Champion: child" in result["note"]
    assert "Champion: child" in Path(result["file"]).read_text().split("## Champion")[1]
    with Retrainings.read(home / "tiny" / RETRAIN) as record:
        known = record.recorded()
    assert len(known) == 1
    again = nightly(config(budget={}, retrain=few), seconds=0.001, retrain=True, home=home)  # too short for a child
    assert again["note"] == ""
    with Retrainings.read(home / "tiny" / RETRAIN) as record:
        assert record.recorded() == known
    settings = config(budget={"candidates": 9}, retrain={**few, "top": 100})
    with Retrainings.open(home / "tiny" / RETRAIN):  # somebody retrains by hand
        result = nightly(settings, candidates=1, retrain=True, home=home)
    assert (result["outcome"], "one process at a time" in result["note"]) == ("went on", True)


def test_trainings_that_a_night_did_not_end_are_ended_by_the_next_one_also_when_the_search_is_finished(
    prefect_server: None, home: Path
) -> None:
    from flows.nightly import nightly

    few = {"top": 1, "seeds": 2, "fidelity": {"examples": 256}}
    settings = config(budget={"candidates": 6}, retrain=few)
    nightly(settings, candidates=6, retrain=True, home=home)
    record = home / "tiny" / RETRAIN
    with Retrainings.read(record) as before:
        whole, chosen = before.recorded(), before.chosen()
    assert chosen is not None
    with closing(sqlite3.connect(record / FILE)) as db, db:  # as if it had been killed
        db.execute("DELETE FROM retraining WHERE key <> ?", (chosen.key,))
    result = nightly(settings, retrain=True, home=home)
    assert (result["outcome"], "Champion: child" in result["note"]) == ("rested", True)
    with Retrainings.read(record) as now:
        assert now.recorded().keys() == whole.keys()
    again = nightly(settings, retrain=True, home=home)
    assert "Champion" not in again["note"]
    with closing(sqlite3.connect(record / FILE)) as db, db:
        db.execute("DELETE FROM retraining WHERE key <> ?", (chosen.key,))
    successor = nightly(settings, candidates=1, searches=2, retrain=True, home=home)
    assert successor["search"] == "tiny-2"
    with Retrainings.read(record) as now:
        assert now.recorded().keys() == whole.keys()


@pytest.mark.parametrize("cut", [("promotion",), ("promotion", "reading", "choice")])
def test_what_follows_from_trainings_is_made_up_for_by_the_next_night(
    prefect_server: None, home: Path, cut: tuple[str, ...]
) -> None:
    from flows.nightly import nightly

    settings = config(budget={"candidates": 2}, retrain={"top": 2, "seeds": 1, "fidelity": {"examples": 256}})

    def outcome() -> tuple[object, ...]:
        with Retrainings.read(home / "tiny" / RETRAIN) as record:
            return record.chosen(), record.test_errors(), record.holders()

    nightly(settings, candidates=2, retrain=True, home=home)
    whole = outcome()
    with closing(sqlite3.connect(home / "tiny" / RETRAIN / FILE)) as db, db:  # as if it had been killed
        for table in cut:
            db.execute(f"DELETE FROM {table}")
    assert outcome() != whole
    assert "Champion: child" in nightly(settings, retrain=True, home=home)["note"]
    assert outcome() == whole
    assert "Champion" not in nightly(settings, retrain=True, home=home)["note"]


def test_a_choice_that_was_cut_off_is_made_also_if_the_last_one_is_no_finalist_any_more(
    prefect_server: None, home: Path
) -> None:
    from flows.nightly import nightly

    settings = config(budget={"candidates": 2}, retrain={"top": 2, "seeds": 1, "fidelity": {"examples": 256}})
    nightly(settings, candidates=2, retrain=True, home=home)
    with Retrainings.open(home / "tiny" / RETRAIN) as record:
        winner, (promotion,) = record.chosen(), record.promotions()
        assert winner is not None
        evaluation = replace(winner.evaluation, weights="0" * 64)
        record.record(replace(winner, key="earlier", number=99, evaluation=evaluation))
        record.choose("earlier")
        record.reading_ended("0" * 64, 0.9)
        record.decide("earlier", "promoted", promotion.evidence)
    assert "Champion: child" in nightly(settings, retrain=True, home=home)["note"]
    with Retrainings.read(home / "tiny" / RETRAIN) as record:
        assert record.chosen() == winner
    assert "Champion" not in nightly(settings, retrain=True, home=home)["note"]


def test_a_choice_by_hand_with_other_settings_is_left_as_it_is(prefect_server: None, home: Path) -> None:
    from flows.nightly import nightly
    from flows.retrain import retrain

    settings = config(budget={"candidates": 2}, retrain={"top": 2, "seeds": 1, "fidelity": {"examples": 256}})
    nightly(settings, candidates=2, retrain=True, home=home)
    retrain("tiny", examples=512, home=home)
    with Retrainings.read(home / "tiny" / RETRAIN) as record:
        chosen = record.chosen()
    assert "Champion" not in nightly(settings, retrain=True, home=home)["note"]
    with Retrainings.read(home / "tiny" / RETRAIN) as record:
        assert record.chosen() == chosen


def test_what_failed_in_a_retraining_is_not_tried_again_each_night(prefect_server: None, home: Path) -> None:
    from flows.nightly import nightly

    few = {"top": 1, "seeds": 1, "fidelity": {"examples": 256}}
    settings = config(budget={"candidates": 2}, retrain=few)
    nightly(settings, candidates=2, retrain=True, home=home)
    with Retrainings.open(home / "tiny" / RETRAIN) as record:
        (one,) = record.recorded().values()
        slow = replace(one, evaluation=Evaluation(one.number, "timeout", reason="as the test wants it"))
        record.record(slow)
    nightly(settings, retrain=True, home=home)
    with Retrainings.read(home / "tiny" / RETRAIN) as record:
        assert list(record.recorded().values()) == [slow]
