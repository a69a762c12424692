"""Every strategy, killed at each event and resumed, proposes and ends identically."""

from __future__ import annotations

from pathlib import Path

import pytest

from search import Budget, Evaluation, Ledger, Progress, Strategy, drive
from tests.doubles import in_turn
from tests.strategies.contract import STRATEGIES, Make, flaky

BUDGET = Budget(candidates=10)
Ending = list[tuple[str, Evaluation | None]]


class Killed(BaseException):
    """The process is gone."""


def run(directory: Path, strategy: Strategy, kill_at: int = 10**9) -> int:
    """Drives a search and returns its number of events; dies at event `kill_at`, counted from 1."""
    events = 0

    def watch(_: Progress) -> None:
        nonlocal events
        events += 1
        if events == kill_at:
            raise Killed

    with Ledger.create(directory, {"name": directory.name}) as ledger:
        drive(strategy, in_turn(flaky), ledger, BUDGET, slots=2, watch=watch)
    return events


def ending(directory: Path) -> Ending:
    with Ledger.read(directory) as ledger:
        evaluations = ledger.evaluations()
        return [(one, evaluations[number] if kind == "tell" else None) for kind, number, one in ledger.steps()]


@pytest.mark.parametrize("make", STRATEGIES.values(), ids=STRATEGIES)
def test_killed_at_each_event_and_resumed_it_ends_identically(make: Make, place: Path) -> None:
    events = run(place / "undisturbed", make(1))
    expected = ending(place / "undisturbed")
    assert len(expected) == 20
    for kill_at in range(1, events + 1):
        directory = place / f"killed-{kill_at}"
        with pytest.raises(Killed):
            run(directory, make(1), kill_at)
        run(directory, make(1))
        assert ending(directory) == expected, f"killed at event {kill_at}"


@pytest.mark.parametrize("make", STRATEGIES.values(), ids=STRATEGIES)
def test_killed_again_and_again_it_ends_identically(make: Make, place: Path) -> None:
    run(place / "undisturbed", make(2))
    for _ in range(100):
        try:
            run(place / "killed", make(2), kill_at=4)
            break
        except Killed:
            continue
    assert ending(place / "killed") == ending(place / "undisturbed")
