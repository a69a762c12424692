from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace
from itertools import pairwise

import pytest
from scipy.stats import spearmanr  # type: ignore[import-untyped]

from evo import NSGA2, AgingEvolution, judged
from evo.judgement import DIGITS, FLOOR, GROWTH, LEAST, SHARE, Judgement
from search import Evaluation
from tests.strategies.contract import LIMITS, STARTERS, VARIED, Game, toy


def result(number: int, error: float, age: float, **features: float) -> Evaluation:
    """Returns the result of an heir, whose own share of its lineage's examples is 100."""
    cost = {"examples": 100.0, "lineage_examples": age}
    return Evaluation(number, "ok", {"error": error, "parameters": 1e3}, cost, weights="ab" * 32, features=features)


def founder(number: int, error: float, **features: float) -> Evaluation:
    return result(number, error, 100.0, **features)


def drawn(count: int, seed: int = 0, noise: float = 0.0) -> tuple[list[Evaluation], list[float]]:
    """Returns evaluations whose error falls with age, and the merit that remains of each at equal age."""
    rng, told, merits = random.Random(seed), list[Evaluation](), list[float]()
    for number in range(count):
        age, merit = rng.randint(1, 9), rng.gauss(0.3, 0.01)
        error = merit * age**-0.3 + rng.gauss(0, noise)
        told.append(result(number, error, 1000.0 * age))
        merits.append(merit)
    return told, merits


def test_raw_is_the_measured_error() -> None:
    told, _ = drawn(20)
    assert judged("raw", told) == {e.number: e.objectives["error"] for e in told}


def test_of_equal_networks_the_older_lineage_is_no_better() -> None:
    told = [result(number, 0.3 - 0.02 * (number % 5), 1000.0 * 2 ** (number % 5)) for number in range(40)]
    found = judged("corrected", told)
    assert max(found.values()) - min(found.values()) < 0.01
    raw = judged("raw", told)
    assert max(raw.values()) - min(raw.values()) > 0.07


def test_the_correction_ranks_by_merit_where_the_measured_error_ranks_by_age() -> None:
    told, merits = drawn(60)
    rho = {kind: spearmanr(list(judged(kind, told).values()), merits).statistic for kind in ("raw", "corrected")}
    assert rho["corrected"] > 0.8
    assert rho["raw"] < 0.5


def test_what_is_unusual_about_an_error_is_merit_by_half() -> None:
    told = [result(number, random.Random(number).uniform(0.1, 0.2), 5000.0) for number in range(40)]
    measured, found = (
        [math.log(FLOOR + error) for error in judged(kind, told).values()] for kind in ("raw", "corrected")
    )
    level = sum(measured) / len(measured)
    assert [value - level for value in found] == pytest.approx(
        [SHARE * (value - level) for value in measured], abs=1e-6
    )


def test_what_features_say_is_judged_in_full() -> None:
    told = [result(n, 0.3 * 0.9 ** (n % 7), 5000.0, depth=float(n % 7)) for n in range(200)]
    assert judged("corrected", told) == pytest.approx(judged("raw", told), rel=0.02)


def test_what_size_is_worth_is_not_taken_for_the_worth_of_age() -> None:
    """The old are large, as in a search that grows its networks, and only size counts here."""
    rng = random.Random(0)
    ages = [rng.randint(1, 9) for _ in range(300)]
    sizes = [1000.0 * age * rng.uniform(0.5, 2) for age in ages]
    pairs = enumerate(zip(ages, sizes, strict=True))
    told = [result(n, 0.5 * size**-0.1, 1000.0 * age, parameters=math.log1p(size)) for n, (age, size) in pairs]
    found = judged("corrected", told)
    for one in told:
        assert found[one.number] == pytest.approx(one.objectives["error"], abs=0.005)


def test_what_age_is_worth_is_seen_where_nothing_else_differs() -> None:
    """Old lineages have many edits, which do nothing here; a control is its parent after more training."""
    rng, told = random.Random(0), list[Evaluation]()
    for number in range(60):
        budgets, size = rng.randint(1, 9), rng.uniform(7, 9)
        error = 0.3 * budgets**-0.3 * rng.uniform(0.95, 1.05)
        edits = {kind: math.log(budgets) for kind in ("add", "batch_norm", "conv", "depth", "macs", "pixels", "relu")}
        told.append(result(number, error, 100.0 * budgets, parameters=size, **edits))
    controls = [
        replace(
            parent,
            number=100 + parent.number,
            objectives={"error": parent.objectives["error"] * (1 + 100 / parent.cost["lineage_examples"]) ** -0.3},
            cost={"examples": 100.0, "lineage_examples": parent.cost["lineage_examples"] + 100},
        )
        for parent in told[::12]
    ]

    def young_minus_old(found: dict[int, float]) -> float:
        levels = [[found[e.number] for e in told if low <= e.cost["lineage_examples"] <= high] for low, high in ages]
        return statistics.mean(levels[0]) - statistics.mean(levels[1])

    ages = ((100, 300), (700, 900))
    raw = young_minus_old(judged("raw", told))
    assert young_minus_old(judged("corrected", told)) > 0.15 * raw
    assert abs(young_minus_old(judged("corrected", [*told, *controls]))) < 0.05 * raw


def test_before_there_are_enough_results_the_errors_are_as_measured() -> None:
    told, _ = drawn(LEAST - 1)
    assert judged("corrected", told) == judged("raw", told)
    more, _ = drawn(LEAST)
    assert judged("corrected", more) != judged("raw", more)


def test_a_regression_is_made_anew_when_a_tenth_more_is_known() -> None:
    judgement, made = Judgement("corrected"), [0]
    for one in drawn(100)[0]:
        judgement.note(one)
        made += [judgement.fitted] if judgement.fitted != made[-1] else []
    assert made[1] == LEAST
    assert all(later == math.ceil(GROWTH * before) for before, later in pairwise(made[1:]))
    assert made[-1] > 90


def test_the_order_of_telling_changes_no_judgement_beyond_rounding() -> None:
    told, _ = drawn(50, seed=3, noise=0.01)
    shuffled = random.Random(1).sample(told, len(told))
    assert judged("corrected", told) == pytest.approx(judged("corrected", shuffled), abs=2e-9)


def test_failures_and_numbers_that_say_nothing_leave_the_rest_as_it_is() -> None:
    told, _ = drawn(20)
    strange = [
        Evaluation(90, "timeout", cost={"lineage_examples": 9e9}),
        result(91, 0.5, float("nan")),
        result(92, 0.5, -1.0),
        replace(told[0], number=93, objectives={"parameters": 10.0}),
    ]
    found = judged("corrected", [*strange, *told])
    assert found.items() >= judged("corrected", told).items()
    assert set(found) == {e.number for e in told} | {91, 92}
    assert found[91] == found[92] == 0.5  # cannot be corrected


def test_a_founder_is_judged_as_if_it_had_been_trained_on_like_the_heirs() -> None:
    """The first budget is worth more than any later one: regressed on age alone, founders would look hopeless."""
    rng = random.Random(0)
    founders = [founder(100 + n, 0.4 * rng.uniform(0.9, 1.1)) for n in range(60)]
    heirs = [result(n, 0.2 * rng.uniform(0.9, 1.1), 100.0 * rng.randint(2, 9)) for n in range(60)]
    found = judged("corrected", [*founders, *heirs])
    means = [sum(found[e.number] for e in some) / 60 for some in (founders, heirs)]
    assert means[0] == pytest.approx(means[1], rel=0.05)


def test_who_learned_nothing_in_a_long_training_is_judged_to_have_no_more_errors_than_there_can_be() -> None:
    told = [*(result(n, 0.9 / (1 + n % 9), 1000.0 * (1 + n % 9)) for n in range(40)), result(40, 0.99, 50_000.0)]
    found = judged("corrected", told)
    assert found[40] == max(found.values()) == 1.0


def test_where_old_lineages_are_worse_nothing_is_taken_from_their_errors() -> None:
    told = [result(n, 0.1 * (n + 1) ** 0.2, 1000.0 * (n + 1)) for n in range(30)]  # structure fails, not age
    found = judged("corrected", told)
    assert sorted(found, key=found.__getitem__) == list(range(30))


def test_heirs_that_are_worse_than_founders_are_judged_so() -> None:
    founders = [founder(100 + n, 0.15 + 0.001 * (n % 7)) for n in range(60)]
    heirs = [result(n, 0.4 + 0.001 * (n % 7), 100.0 * (2 + n % 3)) for n in range(20)]
    found = judged("corrected", [*founders, *heirs])
    assert max(found[e.number] for e in founders) < 0.7 * min(found[e.number] for e in heirs)


def test_results_without_features_spoil_no_slope() -> None:
    """Those of an earlier version have none, which is not the same as zero parameters."""
    told, _ = drawn(40)
    known = [replace(e, number=100 + e.number, features={"parameters": 9.0}) for e in told]
    found = judged("corrected", [*told, *known])
    assert all(found[e.number] == found[100 + e.number] for e in told)


def test_a_repeated_evaluation_counts_once_and_is_judged_like_the_first() -> None:
    told = [*(founder(100 + n, 0.4) for n in range(20)), *drawn(30)[0]]
    for first in (told[0], told[-1]):  # as the loop tells it: the second time nothing is shown
        twins = [replace(first, number=200 + n, twin=first.number) for n in range(50)]
        twins = [replace(twin, cost={**twin.cost, "examples": 0.0}) for twin in twins]
        found = judged("corrected", [*told, *twins])
        assert found.items() >= judged("corrected", told).items()
        assert found[200] == found[first.number]


def test_a_twin_of_who_is_not_told_is_judged_by_its_own_result() -> None:
    """On a ladder, the one that it repeats may still be climbing."""
    told = drawn(40, noise=0.01)[0]
    twin = replace(told[7], number=99, twin=1_000, cost={**told[7].cost, "examples": 0.0})
    found = judged("corrected", [*told, twin])
    assert found[99] == found[7] != told[7].objectives["error"]


def test_only_the_error_is_judged() -> None:
    judgement, (told, _) = Judgement("corrected"), drawn(20)
    for evaluation in told:
        judgement.note(evaluation)
    found = judgement.objectives(told[0])
    assert found["parameters"] == 1000.0
    assert found["error"] != told[0].objectives["error"]
    assert found["error"] == round(found["error"], DIGITS)  # machines differ in the last bits


@pytest.mark.parametrize("strategy", [AgingEvolution, NSGA2])
def test_every_member_is_judged_anew_with_each_result(strategy: type[AgingEvolution | NSGA2]) -> None:
    searching = strategy(STARTERS, LIMITS, 1, variation=VARIED, judgement="corrected")
    game = Game(searching, lambda candidate, parents: aged(toy(candidate, parents))).play(40)
    members = searching.living
    assert len(members) > 4
    for member in members:
        error = searching.judgement.objectives(member.evaluation)["error"]
        assert member.fitness.values[0] == error != member.evaluation.objectives["error"]
        assert member.evaluation == game.told[member.number]  # the measured numbers stay


def test_selection_follows_the_judgement() -> None:
    """One of two founders is older by its cost alone; raw selection prefers its offspring, corrected does not."""

    def age(judgement: str, seed: int) -> float:
        strategy = AgingEvolution(STARTERS, LIMITS, seed, variation=VARIED, judgement=judgement)  # type: ignore[arg-type]
        game = Game(strategy, lambda candidate, parents: aged(toy(candidate, parents))).play(80, slots=1)
        ages = [game.told[parent.number].cost["lineage_examples"] for _, parent in game.children()]
        return sum(ages) / len(ages)

    assert sum(age("corrected", seed) for seed in range(4)) < 0.9 * sum(age("raw", seed) for seed in range(4))


def aged(evaluation: Evaluation) -> Evaluation:
    """Returns an evaluation whose error is worth nothing but its lineage age, as of an inherited child."""
    age = evaluation.cost["lineage_examples"]
    chance = random.Random(evaluation.number).gauss(0, 0.002)
    return replace(evaluation, objectives={**evaluation.objectives, "error": 0.5 * (age / 100) ** -0.2 + chance})
