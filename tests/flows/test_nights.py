"""The record of nights: whole files, one writer, and nights that were killed are closed with what the ledger says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.home import BadInput, Home
from flows.nights.record import NIGHTS, Nights, path, recorded, tally
from search import Candidate, Evaluation, Ledger, SearchLocked, Spent
from tests.flows.families import genome_of, kin
from tests.flows.families import recorded as grown


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def more(home: Home, name: str, number: int) -> None:
    """Adds one success to a search."""
    with Ledger.create(home.search(name), {}) as ledger:
        ledger.asked(Candidate(number, genome_of((3 + number,))), str(number), 10.0 * number)
        ledger.attempted(number)
        objectives = {"error": 0.5 / (number + 1), "parameters": 10.0 + number}
        ledger.told(Evaluation(number, "ok", objectives, {"examples": 5.0, "seconds": 1.0}), 10.0 * number + 1)


def test_a_night_is_recorded_when_it_begins_and_when_it_ends(home: Home) -> None:
    more(home, "tiny", 0)
    with Nights.open(home, "tiny") as nights:
        night = nights.begin("tiny")
        assert [one.outcome for one in recorded(home, "tiny")] == ["running"]
        more(home, "tiny", 1)
        done = nights.end(night, "went on")
    (read,) = recorded(home, "tiny")
    assert read == done
    assert (read.before.spent.evaluations, read.last.spent.evaluations) == (1, 2)
    assert (read.before.front, read.last.front) == ((0,), (0, 1))
    assert read.last.spent.elapsed_seconds == 11.0
    assert read.ended is not None
    assert read.ended >= read.begun


def test_a_tally_is_one_look_at_a_search_that_goes_on(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    more(home, "tiny", 0)
    right = Ledger.spent

    def meanwhile(ledger: Ledger) -> Spent:
        spent = right(ledger)
        monkeypatch.undo()
        more(home, "tiny", 1)
        return spent

    monkeypatch.setattr(Ledger, "spent", meanwhile)
    seen = tally(home, "tiny")
    assert (seen.spent.evaluations, seen.front) == (1, (0,))
    assert tally(home, "tiny").front == (0, 1)


def test_nights_are_counted_over_the_searches_of_a_succession(home: Home) -> None:
    with Nights.open(home, "tiny") as nights:
        for search in ("tiny", "tiny", "tiny-2"):
            nights.end(nights.begin(search), "went on")
    assert [(night.number, night.search) for night in recorded(home, "tiny")] == [
        (1, "tiny"),
        (2, "tiny"),
        (3, "tiny-2"),
    ]


def test_a_record_that_is_lost_does_not_cost_another_one(home: Home) -> None:
    with Nights.open(home, "tiny") as nights:
        for _ in range(3):
            nights.end(nights.begin("tiny"), "went on")
        path(home.search("tiny") / NIGHTS, 2).unlink()
        nights.end(nights.begin("tiny"), "went on")
    assert [night.number for night in recorded(home, "tiny")] == [1, 3, 4]


def test_a_night_that_was_killed_is_closed_by_the_next_with_what_the_ledger_says(home: Home) -> None:
    code = (
        "import os, sys; from pathlib import Path; from flows.home import Home\n"
        "from flows.nights.record import Nights\n"
        "with Nights.open(Home(Path(sys.argv[1])), 'tiny') as nights:\n"
        "    nights.begin('tiny'); os.kill(os.getpid(), 9)\n"
    )
    more(home, "tiny", 0)
    killed = subprocess.run([sys.executable, "-c", code, str(home.root)], env=dict(os.environ), check=False)
    assert killed.returncode == -9
    more(home, "tiny", 1)
    assert [night.outcome for night in recorded(home, "tiny")] == ["running"]
    with Nights.open(home, "tiny"):
        pass
    (night,) = recorded(home, "tiny")
    assert night.outcome == "crashed"
    assert night.after == tally(home, "tiny")
    assert night.ended == night.begun + 10  # as long as the ledger knows: from second 1 to 11


def test_one_process_at_a_time_has_a_night(home: Home) -> None:
    with (
        Nights.open(home, "tiny"),
        pytest.raises(SearchLocked, match=r"night of search tiny .* one process"),
        Nights.open(home, "tiny"),
    ):
        pass


def test_a_search_that_has_not_begun_stands_at_zero(home: Home) -> None:
    assert tally(home, "tiny").spent.evaluations == 0
    assert tally(home, "tiny").front == ()


def test_a_search_that_nobody_scheduled_has_no_nights(home: Home) -> None:
    more(home, "tiny", 0)
    assert recorded(home, "tiny") == []


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", '{"number": 1}', "unknown outcome"],
)
def test_a_damaged_record_is_named(damage: str, home: Home) -> None:
    with Nights.open(home, "tiny") as nights:
        nights.end(nights.begin("tiny"), "went on")
    file = path(home.search("tiny") / NIGHTS, 1)
    text = file.read_text().replace("went on", "danced") if damage == "unknown outcome" else damage
    file.write_text(text)
    with pytest.raises(BadInput, match=r"night-001.json"), Nights.open(home, "tiny"):
        pass
    assert file.read_text() == text


def test_the_record_is_plain_json_that_survives_a_large_family(home: Home) -> None:
    grown(home.search("tiny"), *kin(60))
    with Nights.open(home, "tiny") as nights:
        nights.end(nights.begin("tiny"), "stopped", note="by hand")
    document = json.loads(path(home.search("tiny") / NIGHTS, 1).read_text())
    assert document["note"] == "by hand"
    assert document["after"]["spent"]["evaluations"] == 60
