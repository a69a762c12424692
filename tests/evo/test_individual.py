from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace

import pytest
from deap import base

from evo.individual import Individual, individual, minimised
from search import Candidate, Evaluation
from tests.strategies.contract import STARTERS, failed

CANDIDATE = Candidate(3, STARTERS[0])
GOOD = Evaluation(3, "ok", {"error": 0.25, "parameters": 1000.0}, weights="ab" * 32)


def made(evaluation: Evaluation, *objectives: str) -> Individual | None:
    return individual(CANDIDATE, evaluation, objectives or ("error", "parameters"))


def test_an_individual_pairs_a_candidate_with_a_minimised_fitness() -> None:
    one, other = made(GOOD), made(replace(GOOD, objectives={"error": 0.2, "parameters": 900.0}))
    assert one
    assert other
    assert isinstance(one.fitness, base.Fitness)
    assert one.fitness.values == (0.25, 1000.0)
    assert other.fitness.dominates(one.fitness)
    assert other.fitness > one.fitness  # DEAP: better
    assert one.number == 3
    with pytest.raises(FrozenInstanceError):
        one.candidate = CANDIDATE  # type: ignore[misc]


def test_objectives_stand_in_the_order_asked_for() -> None:
    found = made(GOOD, "parameters", "error")
    assert found
    assert found.fitness.values == (1000.0, 0.25)


def test_failures_and_results_without_weights_make_none() -> None:
    assert made(failed(CANDIDATE)) is None
    assert made(replace(GOOD, weights=None, twin=1)) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_makes_none(value: float) -> None:
    assert made(replace(GOOD, objectives={"error": value, "parameters": 1.0})) is None
    assert made(replace(GOOD, objectives={"error": value, "parameters": 1.0}), "parameters")


def test_an_objective_that_nobody_measures_is_named() -> None:
    with pytest.raises(ValueError, match="objective latency must be one of error, parameters"):
        made(GOOD, "error", "latency")


def test_a_fitness_class_is_made_once_for_each_number_of_objectives() -> None:
    assert minimised(2) is minimised(2)
    assert minimised(3).weights == (-1.0, -1.0, -1.0)
