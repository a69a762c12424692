"""Which search a night goes on with, and how much of its budget is this night's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.home import BadInput, Home
from flows.nights.record import Night, Nights, Tally, tally
from flows.nights.succession import Succession, finished, first, tonight, why
from search import Budget, Ledger, Spent
from tests.flows.conftest import config
from tests.flows.families import genome_of, recorded
from tests.flows.test_finalists import told


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def searched(home: Home, settings: Any, count: int) -> None:
    """Records a search of so many children."""
    from search import Candidate

    candidates = {n: Candidate(n, genome_of((3 + n,))) for n in range(count)}
    evaluations = {n: told(n, 0.5, 9.0) for n in range(count)}
    recorded(home.search(settings.name), candidates, evaluations, settings.model_dump(mode="json"))


def test_a_night_has_its_own_budget_on_top_of_what_was_spent() -> None:
    spent = Spent(candidates=10, elapsed_seconds=100.0)
    assert tonight(Budget(), spent, 60.0, None) == Budget(seconds=160.0)
    assert tonight(Budget(), spent, 60.0, 5) == Budget(seconds=160.0, candidates=15)


def test_a_night_ends_where_the_whole_search_does() -> None:
    spent = Spent(candidates=10, elapsed_seconds=100.0)
    whole = Budget(seconds=130.0, candidates=12, examples=7)
    assert tonight(whole, spent, 60.0, 5) == whole
    assert tonight(whole, spent, 20.0, 1) == replace(whole, seconds=120.0, candidates=11)
    assert tonight(whole, spent, 60.0, None) == whole


def test_a_search_is_finished_when_a_bound_of_its_whole_budget_is_reached(home: Home) -> None:
    searched(home, config(), 7)
    assert finished(config(), home, [])
    assert not finished(config(budget={"candidates": 8}), home, [])
    assert not finished(config(budget={}), home, [])


def test_a_search_is_finished_when_its_last_night_found_nothing_to_propose(home: Home) -> None:
    searched(home, config(), 7)
    night = Night(1, "tiny", 0.0, Tally(), 1.0, tally(home, "tiny"), "exhausted")
    endless = config(budget={})
    assert finished(endless, home, [night])
    assert not finished(endless, home, [night, replace(night, outcome="went on")])
    assert not finished(endless, home, [replace(night, search="other")])


def test_the_age_at_the_end_of_a_session_counts_and_not_only_that_of_the_last_event(home: Home) -> None:
    searched(home, config(), 3)  # the last event is at second 2
    settings = config(budget={"seconds": 5})
    assert not finished(settings, home, [])
    with Ledger.open(home.search("tiny")) as ledger:
        ledger.aged(5.01)
    assert finished(settings, home, [])
    assert why(settings, home, 1.0) == "spent"


def test_a_night_says_why_its_search_stopped(home: Home) -> None:
    searched(home, config(), 7)
    assert why(config(), home, 1.0) == "spent"
    assert why(config(budget={"candidates": 8}), home, 1.0) == "went on"
    assert why(config(budget={}), home, 0.4) == "exhausted"


def test_a_successor_has_wider_limits_no_founders_of_its_own_and_the_corrected_judgement() -> None:
    base = config(founders=["a.json"], budget={"seconds": 60})
    second, third = (Succession(3, 1.5).member(base, number) for number in (2, 3))
    assert (second.name, second.predecessor, second.founders) == ("tiny-2", "tiny", ())
    assert (third.name, third.predecessor) == ("tiny-3", "tiny-2")
    assert (second.space.parameters, third.space.parameters) == (45_000, 67_500)
    assert (second.space.macs, second.space.blocks) == (3_000_000, base.space.blocks)
    assert second.strategy.judgement == third.strategy.judgement == "corrected"
    assert second.budget == base.budget
    assert Succession().member(base, 1) is base


def test_a_night_goes_on_with_the_search_until_it_is_finished_then_with_its_successors(home: Home) -> None:
    three, settings = Succession(3), config(budget={"candidates": 4})

    def current(succession: Succession = three) -> str | None:
        chosen = succession.current(settings, home, [])
        return chosen and chosen.name

    assert current() == "tiny"
    searched(home, settings, 3)
    assert current() == "tiny"
    searched_more(home, settings)
    assert current() == "tiny-2"
    assert current(Succession(1)) is None
    for number, following in ((2, "tiny-3"), (3, None)):
        member = three.member(settings, number)
        searched(home, member, 2)
        assert current() == member.name
        searched_more(home, member)
        assert current() == following


def searched_more(home: Home, settings: Any) -> None:
    from search import Candidate, Ledger

    with Ledger.create(home.search(settings.name), settings.model_dump(mode="json")) as ledger:
        for number in range(ledger.spent().candidates, 4):
            ledger.asked(Candidate(number, genome_of((3 + number,))), str(number), 1.0)
            ledger.attempted(number)
            ledger.told(told(number, 0.5, 9.0), 1.0)


def test_a_larger_budget_takes_up_a_finished_search_again(home: Home) -> None:
    searched(home, config(budget={"candidates": 3}), 3)
    chosen = Succession(2).current(config(budget={"candidates": 9}), home, [])
    assert chosen is not None
    assert chosen.name == "tiny"


def test_a_search_that_has_a_successors_name_and_is_none_is_refused(home: Home) -> None:
    searched(home, config(), 7)
    searched(home, config(name="tiny-2"), 1)
    with pytest.raises(BadInput, match=r"tiny-2 must be the successor of tiny"):
        Succession(2).current(config(), home, [])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"origin": {"model": "a.py:b"}}, "searches must be 1 with an origin, got 2"),
        ({"strategy": {"kind": "random"}}, "predecessor must be left out with the random strategy"),
        ({"name": "a" * 62}, "predecessor|name"),
    ],
)
def test_a_search_that_can_have_no_successor_says_so(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Succession(2).member(config(**changes), 2)


def test_any_member_leads_to_the_first_search(home: Home) -> None:
    for number in (1, 2, 3):
        searched(home, Succession(3).member(config(), number), 1)
    assert {first(home, name) for name in ("tiny", "tiny-2", "tiny-3")} == {"tiny"}


def test_a_search_with_nights_of_its_own_is_the_first_whatever_it_comes_from(home: Home) -> None:
    for number in (1, 2, 3):
        searched(home, Succession(3).member(config(), number), 1)
    with Nights.open(home, "tiny-2"):
        assert [first(home, name) for name in ("tiny", "tiny-2", "tiny-3")] == ["tiny", "tiny-2", "tiny-2"]
