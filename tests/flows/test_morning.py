"""The report of a night, from records alone: what changed, what it cost, what failed, and how the best came to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.assembly import RETRAIN
from flows.home import BadInput, Home
from flows.nights.heirs import FOUNDERS, Bequest
from flows.nights.morning import family, latest
from flows.nights.record import Nights, Outcome, recorded
from flows.nights.succession import Succession
from search import Candidate, Evaluation, Ledger, Retraining, Retrainings, SearchMissing
from tests.flows.conftest import config
from tests.flows.families import genome_of


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def success(number: int, error: float, parameters: float) -> Evaluation:
    objectives = {"error": error, "parameters": parameters, "macs": 10 * parameters}
    return Evaluation(number, "ok", objectives, {"examples": 100.0, "seconds": 2.0, "lineage_examples": 100.0})


def failure(number: int, kind: Any = "non_finite") -> Evaluation:
    return Evaluation(number, kind, reason=f"{kind}, and why", cost={"seconds": 1.0})


def night(
    home: Home,
    told: list[Evaluation],
    outcome: Outcome = "went on",
    search: str = "tiny",
    note: str = "",
    parents: dict[int, int] | None = None,
    budget: dict[str, Any] | None = None,
) -> None:
    """Adds a night in which these evaluations were told."""
    settings = config(budget=budget or {})
    settings = settings if search == "tiny" else Succession(2).member(settings, 2)
    with Nights.open(home, "tiny") as nights:
        begun = nights.begin(search)
        with Ledger.create(home.search(search), settings.model_dump(mode="json"), ("budget",)) as ledger:
            for one in told:
                number = one.number
                line = (parents[number],) if number in (parents or {}) else ()
                ledger.asked(Candidate(number, genome_of((3 + number,)), line), str(number), 60.0 * number)
                ledger.attempted(number)
                ledger.told(one, 60.0 * number + 30)
        nights.end(begun, outcome, note=note)


def rows(text: str, section: str) -> list[list[str]]:
    """Returns the cells of the table in a section."""
    part = text.split(f"## {section}")[1].split("## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line[:1] == "|"]


def test_the_first_report_says_that_it_is_the_first(home: Home) -> None:
    night(home, [success(0, 0.5, 100), success(1, 0.4, 200)])
    made = latest(home, "tiny")
    assert made.headline == "Night 1 of tiny: 2 children, best error 0.4000; the night's budget was spent"
    assert "This is the first report" in made.text
    assert ["best error", "none", "0.4000"] in rows(made.text, "What changed")
    assert made.file.read_text() == made.text
    assert made.picture.read_bytes().startswith(b"\x89PNG")
    assert f"]({made.picture.name})" in made.text


def test_the_next_one_names_what_is_new_on_the_front_and_what_left_it(home: Home) -> None:
    night(home, [success(0, 0.5, 100), success(1, 0.4, 200)])
    night(home, [success(2, 0.3, 150), success(3, 0.6, 300)])
    text = latest(home, "tiny").text
    assert "first report" not in text
    assert "New on the front: 2. No longer on it: 1." in text
    changes = rows(text, "What changed")
    assert ["best error", "0.4000", "0.3000"] in changes
    assert ["members of the front", "2", "2, 1 of them new"] in changes
    assert [(row[0], row[-1]) for row in rows(text, "Front")[2:]] == [("0", ""), ("2", "new")]


def test_hypervolume_grows_with_a_better_front_in_the_same_box(home: Home) -> None:
    night(home, [success(0, 0.5, 100), success(1, 0.4, 10_000)])
    night(home, [success(2, 0.3, 1000)])
    (volumes,) = [row for row in rows(latest(home, "tiny").text, "What changed") if row[0].startswith("hypervolume")]
    assert volumes[1:] == ["50.00%", "60.00%"]


def test_costs_are_of_the_night_of_the_search_and_of_all_nights(home: Home) -> None:
    night(home, [success(0, 0.5, 100), failure(1)])
    night(home, [success(2, 0.3, 150)], budget={"dollars": 9.0, "dollars_per_hour": 12.0})
    night(home, [success(0, 0.2, 150)], search="tiny-2")
    night(home, [success(1, 0.2, 150)], search="tiny-2", budget={"dollars": 9.0, "dollars_per_hour": 12.0})
    costs = rows(latest(home, "tiny").text, "Cost")
    assert costs[0] == ["", "this night", "search tiny-2 in sum", "all nights"]
    assert ["children", "1", "2", "5"] in costs
    assert ["failures", "0", "0", "1"] in costs
    assert ["training examples", "100", "200", "400"] in costs
    assert ["CPU seconds of training", "2.0", "4.0", "9.0"] in costs
    assert ["seconds of wall clock", "60.0", "90.0", "240.0"] in costs
    assert ["dollars", "0.20", "0.30", "0.80"] in costs


def test_failures_are_counted_by_kind_with_an_example(home: Home) -> None:
    night(home, [success(0, 0.5, 100), failure(1, "timeout")])
    night(home, [failure(2), failure(3, "killed"), failure(4)])
    text = latest(home, "tiny").text
    assert "- non_finite: 2, such as child 2: non_finite, and why" in text
    assert "- killed: 1, such as child 3" in text
    assert "timeout" not in text
    assert "3 children, 3 of them failed, best error 0.5000" in text


def test_a_night_without_failures_says_so(home: Home) -> None:
    night(home, [success(0, 0.5, 100)])
    assert "None this night." in latest(home, "tiny").text


def test_the_best_lineage_goes_from_the_founder_to_the_best_with_the_error_at_each_step(home: Home) -> None:
    told = [success(n, error, 100 + n) for n, error in enumerate((0.5, 0.6, 0.4, 0.3))]
    night(home, told, parents={2: 0, 3: 2})
    chain = [(row[0], row[2]) for row in rows(latest(home, "tiny").text, "Best lineage")[2:]]
    assert chain == [("0", "0.5"), ("2", "0.4"), ("3", "0.3")]


@pytest.mark.parametrize("outcome", ["crashed", "failed", "stopped"])
def test_nights_that_did_not_end_well_are_named_by_the_next_report_only(outcome: Outcome, home: Home) -> None:
    night(home, [success(0, 0.5, 100)])
    night(home, [success(1, 0.4, 100)], outcome, note="no room")
    night(home, [success(2, 0.3, 100)])
    said = latest(home, "tiny").text
    assert "**Night 2 before it" in said
    assert "(no room)**; its 1 children are in the ledger" in said
    night(home, [success(3, 0.2, 100)])
    assert "before it" not in latest(home, "tiny").text


def test_the_first_night_of_a_successor_is_compared_with_its_predecessor(home: Home) -> None:
    night(home, [success(0, 0.5, 100), success(1, 0.4, 200)], "spent")
    night(home, [], "failed", search="tiny-2", note="no data")
    night(home, [success(0, 0.3, 100), success(1, 0.45, 50)], search="tiny-2")
    text = latest(home, "tiny").text
    assert "The first night of tiny-2, which succeeds tiny" in text
    assert ["best error", "0.4000", "0.3000"] in rows(text, "What changed")
    assert ["members of the front", "2", "2, 2 of them new"] in rows(text, "What changed")
    assert latest(home, "tiny-2").text == text


def test_a_founder_with_inherited_weights_is_told_as_such(home: Home) -> None:
    night(home, [success(0, 0.5, 100)], "spent")
    night(home, [success(0, 0.3, 100)], search="tiny-2")
    Bequest((genome_of((3,)),), {genome_of((3,)).digest: success(7, 0.5, 9)}).write(home.search("tiny-2") / FOUNDERS)
    (row,) = rows(latest(home, "tiny").text, "Best lineage")[2:]
    assert row[1] == "founder with the weights of the predecessor's 7"


def test_what_happened_after_the_night_changes_nothing_but_the_champion(home: Home) -> None:
    night(home, [success(0, 0.5, 100)])
    before = latest(home, "tiny").text
    with Ledger.open(home.search("tiny")) as ledger:
        ledger.asked(Candidate(1, genome_of((9,))), "1", 99.0)
        ledger.attempted(1)
        ledger.told(success(1, 0.01, 1), 99.0)
    assert latest(home, "tiny").text == before
    assert set(family(home, recorded(home, "tiny")[0]).evaluations) == {0}
    with Retrainings.open(home.search("tiny") / RETRAIN) as record:
        objectives = {"error": 0.2, "second_validation_error": 0.21}
        record.record(Retraining("key", 0, 0, {}, Evaluation(0, "ok", objectives, weights="1" * 64)))
        record.choose("key")
    assert "Chosen: child 0" in latest(home, "tiny").text


def test_a_night_without_a_success_has_a_report_too(home: Home) -> None:
    night(home, [failure(0)])
    text = latest(home, "tiny").text
    assert "no success yet" in text
    assert "No candidate was trained with success yet." in text


def test_a_search_without_nights_is_refused_with_what_to_do(home: Home) -> None:
    with pytest.raises(SearchMissing, match="no search tiny"):
        latest(home, "tiny")
    with Ledger.create(home.search("tiny"), {}):
        pass
    with pytest.raises(BadInput, match="must have had a night that ended"):
        latest(home, "tiny")


def test_a_night_that_failed_before_its_search_began_leaves_the_report_before(home: Home) -> None:
    night(home, [success(0, 0.5, 100)], "spent")
    before = latest(home, "tiny").text
    with Nights.open(home, "tiny") as nights:
        nights.end(nights.begin("tiny-2"), "failed", note="no data")
    assert latest(home, "tiny").text == before
