"""Finalists that nights train from scratch: new ones, what was cut off, and nothing twice."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from flows.assembly import RETRAIN
from flows.home import Home
from search import Evaluation, Retrainings
from search.retrainings import FILE
from tests.flows.conftest import config

SETTINGS = config(budget={"candidates": 2}, retrain={"top": 2, "seeds": 1, "fidelity": {"examples": 256}})


@pytest.fixture(scope="module")
def first(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home after a night of two children, both of which were retrained, so that one is champion."""
    from flows.nightly import nightly

    home = tmp_path_factory.mktemp("first") / "searches"
    nightly(SETTINGS, candidates=2, retrain=True, home=home)
    return home


@pytest.fixture
def after(first: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(first, tmp_path / "searches"))


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
def test_what_follows_from_trainings_is_made_up_for_by_the_next_night(after: Path, cut: tuple[str, ...]) -> None:
    from flows.nightly import nightly

    def outcome() -> tuple[object, ...]:
        with Retrainings.read(after / "tiny" / RETRAIN) as record:
            return record.chosen(), record.test_errors(), record.holders()

    whole = outcome()
    with closing(sqlite3.connect(after / "tiny" / RETRAIN / FILE)) as db, db:  # as if it had been killed
        for table in cut:
            db.execute(f"DELETE FROM {table}")
    assert outcome() != whole
    assert "Champion: child" in nightly(SETTINGS, retrain=True, home=after)["note"]
    assert outcome() == whole
    assert "Champion" not in nightly(SETTINGS, retrain=True, home=after)["note"]


def test_a_choice_that_was_cut_off_is_made_also_if_the_last_one_is_no_finalist_any_more(after: Path) -> None:
    from flows.nightly import nightly

    with Retrainings.open(after / "tiny" / RETRAIN) as record:
        winner, (promotion,) = record.chosen(), record.promotions()
        assert winner is not None
        assert promotion.evidence["images"] == 180  # a tenth of the digits, which no selection has seen
        assert promotion.evidence["limits"]["parameters"] == SETTINGS.space.parameters
        evaluation = replace(winner.evaluation, weights="0" * 64)
        record.record(replace(winner, key="earlier", number=99, evaluation=evaluation))
        record.choose("earlier")
        record.reading_ended("0" * 64, 0.9)
        record.decide("earlier", "promoted", promotion.evidence)
    assert "Champion: child" in nightly(SETTINGS, retrain=True, home=after)["note"]
    with Retrainings.read(after / "tiny" / RETRAIN) as record:
        assert record.chosen() == winner
    assert "Champion" not in nightly(SETTINGS, retrain=True, home=after)["note"]


def test_a_choice_by_hand_with_other_settings_is_left_as_it_is(after: Path) -> None:
    from flows.nightly import nightly
    from flows.retrain import retrain

    retrain("tiny", examples=512, home=after)
    with Retrainings.read(after / "tiny" / RETRAIN) as record:
        chosen = record.chosen()
    assert "Champion" not in nightly(SETTINGS, retrain=True, home=after)["note"]
    with Retrainings.read(after / "tiny" / RETRAIN) as record:
        assert record.chosen() == chosen


def test_what_failed_in_a_retraining_is_not_tried_again_each_night(after: Path) -> None:
    from flows.retrain import lacking

    with Retrainings.open(after / "tiny" / RETRAIN) as record:
        for one in record.recorded().values():
            record.record(replace(one, evaluation=Evaluation(one.number, "timeout", reason="as the test wants it")))
    assert not lacking("tiny", Home(after))
