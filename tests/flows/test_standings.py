"""Standings: who comes first, and what is shown of it."""

from __future__ import annotations

import io
import random
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from flows.standings import JUDGED, leader, ranked, spread, table, verdict
from search import Evaluation, Retraining, Retrainings


def searched(number: int, parameters: float = 100.0) -> Evaluation:
    return Evaluation(number, "ok", {"error": 0.5, "parameters": parameters, "macs": 2000.0})


def trained(number: int, seed: int, error: float | None) -> Retraining:
    """Returns a training with this second validation error; None for one that failed."""
    good = Evaluation(number, "ok", {"error": 0.25, JUDGED: error or 0.0}, {"seconds": 3.0}, weights=f"{number}-{seed}")
    failure = Evaluation(number, "non_finite", reason="the loss must be finite")
    return Retraining(f"{number}-{seed}", number, seed, {}, failure if error is None else good)


ERRORS = st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=4)


@given(st.lists(ERRORS, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_the_order_depends_on_results_only_and_the_leader_is_of_the_first(
    results: list[list[float | None]], rng: random.Random
) -> None:
    finalists = [searched(number) for number in range(len(results))]
    every = [trained(number, seed, error) for number, errors in enumerate(results) for seed, error in enumerate(errors)]
    standings = ranked(finalists, every)
    rng.shuffle(finalists)
    rng.shuffle(every)
    assert ranked(finalists, every) == standings
    winner = leader(standings)
    good = [one for one in every if one.evaluation.ok]
    assert (winner is None) == (not good)
    if winner:
        mine = [one.evaluation.objectives[JUDGED] for one in standings[0].good]
        assert winner.number == standings[0].searched.number
        assert winner.evaluation.objectives[JUDGED] == min(mine)


def test_the_mean_over_seeds_counts_and_not_the_best_seed() -> None:
    lucky = [trained(0, 0, 0.01), trained(0, 1, 0.4)]
    steady = [trained(1, 0, 0.1), trained(1, 1, 0.12)]
    standings = ranked([searched(0), searched(1)], lucky + steady)
    assert [standing.searched.number for standing in standings] == [1, 0]
    assert leader(standings) == steady[0]


def test_whoever_failed_with_some_seed_comes_behind_all_who_did_not() -> None:
    results = [trained(0, 0, 0.01), trained(0, 1, None), trained(1, 0, 0.4), trained(1, 1, 0.4), trained(2, 0, None)]
    standings = ranked([searched(n) for n in range(3)], results)
    assert [standing.searched.number for standing in standings] == [1, 0, 2]


def test_ties_go_to_the_smaller_network() -> None:
    results = [trained(0, 0, 0.1), trained(1, 0, 0.1)]
    standings = ranked([searched(0, 200.0), searched(1, 100.0)], results)
    assert [standing.searched.number for standing in standings] == [1, 0]


def test_no_finalist_and_no_success_have_no_leader() -> None:
    assert leader([]) is None
    assert leader(ranked([searched(0)], [trained(0, 0, None)])) is None


def shown(tests: dict[str, float]) -> list[str]:
    results = [trained(0, 0, 0.1), trained(0, 1, 0.3), trained(1, 0, 0.5), trained(1, 1, None)]
    page = io.StringIO()
    Console(file=page, width=140).print(table(ranked([searched(0), searched(1)], results), tests))
    return [line for line in page.getvalue().splitlines() if line.startswith("│")]


def test_the_table_shows_the_search_beside_the_retrained_and_the_test_of_the_chosen_only() -> None:
    first, second = shown({"0-0": 0.125, "1-0": 0.375})
    for words in ("0.5000", "0.2500 ± 0.0000", "0.2000 ± 0.1414", "2,000", "3.0 ± 0.0", "0.1250"):
        assert words in first
    assert "1, 1 failed" in second
    assert "0.375" not in second
    assert "0.125" not in shown({})[0]


def test_a_spread_needs_two_values() -> None:
    assert spread([]) == "none"
    assert spread([0.5]) == "0.5000"
    assert spread([1.0, 3.0], 1) == "2.0 ± 1.4"


def test_the_verdict_counts_every_network_that_the_test_part_was_read_for(tmp_path: Path) -> None:
    with Retrainings.open(tmp_path) as record:
        assert verdict(record) is None
        for number in (0, 1):
            record.record(trained(number, 2, 0.25))
        record.choose("0-2")
        assert str(verdict(record)).endswith("seed 2: second validation error 0.2500, test part not read yet")
        record.reading_begins("0-2")  # cut off
        record.reading_begins("0-2")
        record.reading_ended("0-2", 0.125)
        assert str(verdict(record)).endswith("test error 0.1250 (read once)")
        record.choose("1-2")
        record.reading_begins("1-2")
        record.reading_ended("1-2", 0.5)
        told = str(verdict(record))
        assert told.startswith("Chosen: child 1, trained from scratch with seed 2")
        assert "test error 0.5000 (read for 2 networks so far" in told
