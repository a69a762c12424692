"""Successive halving, step by step: the errors are given, so that who climbs when can be said in advance."""

from __future__ import annotations

from collections.abc import Sequence

from search import Candidate, Evaluation, Fidelity
from strategies import LadderSettings, RandomSearch, SuccessiveHalving
from tests.strategies.contract import LIMITS, SPACE, failed

FULL = Fidelity(900)


def halving(**changes: object) -> SuccessiveHalving:
    settings = LadderSettings(**{"kind": "halving", "rungs": (100, 300), "promotion": "retrain", **changes})  # type: ignore[arg-type]
    return SuccessiveHalving(RandomSearch(SPACE, LIMITS, 0), settings, FULL)


def told(strategy: SuccessiveHalving, candidates: Sequence[Candidate], errors: Sequence[float]) -> None:
    for candidate, error in zip(candidates, errors, strict=True):
        evaluation = Evaluation(candidate.number, "ok", {"error": error}, weights="0" * 64)
        strategy.tell(candidate, evaluation if error < 1 else failed(candidate))


def facts(candidates: Sequence[Candidate]) -> list[tuple[int | None, int]]:
    return [(candidate.promotes, candidate.fidelity.examples) for candidate in candidates]


def test_of_nine_three_climb_and_of_these_one() -> None:
    strategy = halving()
    first = strategy.ask(9)
    assert facts(first) == [(None, 100)] * 9
    told(strategy, first, [0.9, 0.2, 0.8, 0.5, 0.1, 0.7, 0.6, 0.3, 0.4])
    second = strategy.ask(3)
    assert facts(second) == [(4, 300), (1, 300), (7, 300)]
    told(strategy, second, [0.3, 0.2, 0.1])
    third = strategy.ask(2)
    assert facts(third) == [(11, 900), (None, 100)]  # the best of the second rung, and the next bracket


def test_nobody_climbs_before_the_last_is_told_and_meanwhile_the_next_bracket_begins() -> None:
    strategy = halving()
    first = strategy.ask(9)
    told(strategy, first[1:], [0.5] * 8)
    meanwhile = strategy.ask(4)
    assert facts(meanwhile) == [(None, 100)] * 4
    told(strategy, first[:1], [0.1])
    assert facts(strategy.ask(4)) == [(0, 300), (1, 300), (2, 300), (None, 100)]


def test_brackets_are_judged_apart() -> None:
    strategy = halving(bracket=3)
    good, bad = strategy.ask(3), strategy.ask(3)
    told(strategy, [*good, *bad], [0.1, 0.2, 0.3, 0.7, 0.8, 0.6])
    assert facts(strategy.ask(2)) == [(0, 300), (5, 300)]


def test_a_failure_is_a_loser_and_takes_nobody_s_place() -> None:
    strategy = halving(bracket=6)
    first = strategy.ask(6)
    told(strategy, first, [1, 1, 1, 1, 0.5, 0.4])
    assert facts(strategy.ask(2)) == [(5, 300), (4, 300)]  # a third of six, not of two
    strategy = halving(bracket=6)
    told(strategy, strategy.ask(6), [1] * 6)
    assert facts(strategy.ask(1)) == [(None, 100)]


def test_a_bracket_too_small_to_be_divided_still_promotes_its_best() -> None:
    strategy = halving(bracket=2)
    told(strategy, strategy.ask(2), [0.5, 0.4])
    assert facts(strategy.ask(1)) == [(1, 300)]
