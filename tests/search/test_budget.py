"""Budgets in what children and the machine cost; the others are tested with the loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from search import Budget, Candidate, Dispatch, Done, Evaluation, Ledger, Progress, Spent, Strategy, drive
from tests.doubles import ToyEvaluator, in_turn
from tests.search.toys import CONFIG, Climber


def go(place: Path, dispatch: Dispatch, budget: Budget) -> Progress:
    """Runs a search, or goes on with it; each child takes a processor second."""
    strategy: Strategy = Climber(3)
    with Ledger.create(place / "toy", CONFIG) as ledger:
        return drive(strategy, dispatch, ledger, budget)


def test_a_budget_of_processor_seconds_counts_the_children_and_not_the_clock(place: Path) -> None:
    progress = go(place, in_turn(ToyEvaluator()), Budget(cpu_seconds=5))
    assert progress.spent.train_seconds == 5
    assert progress.spent.elapsed_seconds < 5


def test_attempts_that_are_repeated_are_paid_for(place: Path) -> None:
    evaluator = ToyEvaluator(failures={0: "killed"}, recovers=2)
    progress = go(place, in_turn(evaluator), Budget(cpu_seconds=5))
    assert progress.spent.train_seconds == 5 == evaluator.calls.total()
    with Ledger.read(place / "toy") as ledger:
        assert ledger.attempts(0) == ["killed", "killed", "ok"]
        assert ledger.spent().train_seconds == 5


def test_a_budget_of_dollars_is_the_machine_s_price_for_the_time_of_all_sessions(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("search.loop.time.monotonic", lambda: clock[0])
    evaluator = ToyEvaluator()

    def slow(candidate: Candidate, parents: Mapping[int, Evaluation], done: Done) -> None:
        clock[0] += 900.0
        done(evaluator(candidate, parents))

    def spent(dollars: float) -> float:
        budget = Budget(dollars=dollars, dollars_per_hour=4.0)  # a dollar a child, unless it is a twin
        clock[0] += 50_000.0  # between two sessions
        return go(place, slow, budget).spent.train_seconds

    assert spent(3.0) == 3
    assert spent(5.0) == 5


def test_what_a_session_takes_after_its_last_event_counts(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("search.loop.time.monotonic", lambda: clock[0])

    def stopped(candidate: Candidate, parents: Mapping[int, Evaluation], done: Done) -> None:
        clock[0] += 900.0
        done(RuntimeError("as the test wants it"))

    for session in range(1, 4):
        with pytest.raises(RuntimeError, match="as the test"):
            go(place, stopped, Budget(dollars=3.0, dollars_per_hour=4.0))
        with Ledger.read(place / "toy") as ledger:
            assert ledger.spent().elapsed_seconds == 900.0 * session
    spent = go(place, in_turn(ToyEvaluator()), Budget(seconds=2700.0)).spent
    assert (spent.elapsed_seconds, spent.evaluations) == (2700.0, 1)  # what was in flight is ended, no more is begun


def test_the_age_is_noted_while_a_child_takes_long(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.loop.SECONDS_BETWEEN_NOTES", 0.01)
    evaluator = ToyEvaluator()

    def age() -> float:
        with Ledger.read(place / "toy") as ledger:
            return ledger.spent().elapsed_seconds

    def slow(candidate: Candidate, parents: Mapping[int, Evaluation], done: Done) -> None:
        before, deadline = age(), time.monotonic() + 20

        def wait() -> None:
            while age() <= before and time.monotonic() < deadline:
                time.sleep(0.01)
            noted = age() > before
            done(evaluator(candidate, parents) if noted else AssertionError("no age was noted"))

        threading.Thread(target=wait).start()

    assert go(place, slow, Budget(candidates=2)).spent.evaluations == 2


def test_the_bound_that_is_nearest_counts() -> None:
    budget = Budget(candidates=10, cpu_seconds=100, dollars=1, dollars_per_hour=3600)
    assert budget.share(Spent(candidates=5, train_seconds=20, elapsed_seconds=0.7)) == 0.7
    assert budget.share(Spent(candidates=5, train_seconds=90, elapsed_seconds=0.7)) == 0.9
    assert Budget().share(Spent(candidates=10**6, train_seconds=1e9, elapsed_seconds=1e9)) == 0


@pytest.mark.parametrize("half", ["dollars", "dollars_per_hour"])
def test_dollars_and_their_price_come_together(half: str) -> None:
    with pytest.raises(ValueError, match=rf"must be given with budget\.{half}, got none"):
        Budget(**{half: 2.0})  # type: ignore[arg-type]
