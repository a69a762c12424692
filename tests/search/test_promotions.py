"""Who is champion follows from the decisions, each of which is recorded once."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from search import Holders, Promotion, Retrainings
from search.promotions import Outcome, holders
from search.retrainings import FILE
from tests.search.test_retrainings import ONE


@pytest.mark.parametrize(
    ("decisions", "champion", "previous", "withdrawn"),
    [
        ("", None, None, ""),
        ("-a", None, None, ""),
        ("+a", "a", None, ""),
        ("+a -b", "a", None, ""),
        ("+a +b", "b", "a", ""),
        ("+a +b -c", "b", "a", ""),
        ("+a +b +c", "c", "b", ""),
        ("+a +b ^a", "a", "b", "b"),
        ("+a +b ^a ^b", "b", "a", "a"),
        ("+a +b ^a +c", "c", "a", "b"),
        ("+a +b ^a +b", "b", "a", ""),
    ],
)
def test_the_places_follow_from_the_decisions(
    decisions: str, champion: str | None, previous: str | None, withdrawn: str
) -> None:
    meant: dict[str, Outcome] = {"+": "promoted", "-": "refused", "^": "restored"}
    made = [Promotion(word[1], meant[word[0]], {}, 0.0) for word in decisions.split()]
    assert holders(made) == Holders(champion, previous, frozenset(withdrawn))


def test_a_decision_that_is_repeated_is_recorded_once(tmp_path: Path) -> None:
    with Retrainings.open(tmp_path) as record:
        record.record(ONE)
        record.record(replace(ONE, key="other"))
        record.decide("key", "promoted", {"errors": (0.5, 0.25)})
        record.decide("key", "promoted", {"errors": (0.5, 0.25)})
        record.decide("other", "refused", {"bound": 0.125})
        record.decide("other", "refused", {"bound": 0.25})
        record.decide("other", "refused", {"bound": 0.25})
    with Retrainings.read(tmp_path) as record:
        assert [one[:3] for one in record.promotions()] == [
            ("key", "promoted", {"errors": [0.5, 0.25]}),
            ("other", "refused", {"bound": 0.125}),
            ("other", "refused", {"bound": 0.25}),
        ]
        assert record.holders() == Holders("key", None, frozenset())


@pytest.mark.parametrize("locked", [True, False])
def test_a_record_that_was_made_before_there_were_promotions_is_taken_on(locked: bool, tmp_path: Path) -> None:
    with Retrainings.open(tmp_path) as record:
        record.record(ONE)
        record.choose("key")
    with closing(sqlite3.connect(tmp_path / FILE)) as db, db:
        db.executescript("DROP TABLE promotion; PRAGMA user_version = 1")
    with (Retrainings.open if locked else Retrainings.read)(tmp_path) as record:
        assert record.recorded() == {"key": ONE}
        assert record.chosen() == ONE
        assert record.promotions() == []
