"""What every strategy promises; a newcomer joins by one line in `contract.STRATEGIES`."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import pytest

from genomes import check, equivalent, expand, fingerprint
from search import Candidate, Evaluation, Fidelity
from tests.strategies.contract import LIMITS, STRATEGIES, Game, Make, failed, flaky, identity, toy

each = pytest.mark.parametrize("make", STRATEGIES.values(), ids=STRATEGIES)
COUNT = 36


@each
def test_asking_for_n_equals_asking_n_times_for_one(make: Make) -> None:
    together, apart = Game(make(5), flaky), Game(make(5), flaky)
    for n in (1, 6, 2, 9):
        together.ask(n)
        for _ in range(n):
            apart.ask()
        assert [identity(c) for c in together.asked] == [identity(c) for c in apart.asked]
        for game in (together, apart):
            while game.flying:
                game.land()
    assert len(together.asked) == 18


@each
def test_the_same_seed_proposes_the_same_and_another_seed_something_else(make: Make) -> None:
    first, second, other = (Game(make(seed)).play(COUNT) for seed in (7, 7, 8))
    assert [identity(c) for c in first.asked] == [identity(c) for c in second.asked]
    assert [identity(c) for c in first.asked] != [identity(c) for c in other.asked]


@each
def test_a_replay_of_the_recorded_events_proposes_the_same(make: Make) -> None:
    game, fresh = Game(make(3), flaky).play(COUNT), make(3)
    for candidate, evaluation in game.events:
        if evaluation is None:
            (proposed,) = fresh.ask(1)
            assert identity(proposed) == identity(candidate)
        else:
            fresh.tell(candidate, evaluation)
    assert [identity(c) for c in fresh.ask(3)] == [identity(c) for c in game.strategy.ask(3)]


@each
def test_proposals_are_valid_numbered_in_order_and_lead_from_parent_to_child(make: Make) -> None:
    game = Game(make(1), flaky).play(COUNT)
    assert [c.number for c in game.asked] == list(range(COUNT))
    for candidate in game.asked:
        check(candidate.genome, LIMITS)
        if candidate.promotes is None:
            assert candidate.fidelity == Fidelity()
        else:
            promoted = game.asked[candidate.promotes]
            assert candidate.genome == promoted.genome
            assert candidate.fidelity.examples > promoted.fidelity.examples
        assert candidate.parents or not candidate.edits
        assert all(parent < candidate.number for parent in candidate.parents)
    for child, parent in game.children():
        if child.edits:
            assert child.edits[-1].genome == child.genome
            assert not equivalent(child.genome, parent.genome)
        else:
            assert child.control or child.promotes == parent.number
            assert child.genome == parent.genome


@each
def test_every_tensor_of_a_child_is_inherited_or_described(make: Make) -> None:
    for child, parent in Game(make(2)).play(COUNT).children():
        for before, edit in pairwise([None, *child.edits]):
            assert edit is not None
            old = expand(before.genome if before else parent.genome).tensor_shapes()
            for name, shape in expand(edit.genome).tensor_shapes().items():
                assert name in edit.tensors or old.get(name) == shape


@each
def test_results_may_come_in_any_order_and_fail(make: Make) -> None:
    for seed in range(3):
        game = Game(make(seed), flaky, random.Random(seed)).play(COUNT, slots=1 + 4 * seed)
        assert len(game.asked) == len(game.told) == COUNT


@each
def test_a_search_in_which_everything_fails_goes_on_from_scratch(make: Make) -> None:
    game = Game(make(4), lambda candidate, _: failed(candidate)).play(COUNT)
    assert len(game.told) == COUNT
    assert not any(candidate.parents for candidate in game.asked)


@each
def test_a_hundred_may_be_asked_before_anything_is_told(make: Make) -> None:
    game = Game(make(6))
    assert len(game.ask(100)) == 100
    assert not any(candidate.parents for candidate in game.asked)


@each
def test_nothing_is_asked_twice_at_the_same_age_of_training_and_fidelity(make: Make) -> None:
    game = Game(make(9)).play(COUNT)
    seen: dict[tuple[str, float, Fidelity], list[Candidate]] = {}
    for candidate in game.asked:
        age = game.told[candidate.parents[0]].cost["lineage_examples"] if candidate.parents else 0.0
        same = seen.setdefault((fingerprint(candidate.genome), age, candidate.fidelity), [])
        # controls of two parents that compute the same at the same age would be the one exception
        assert candidate.control or not any(equivalent(candidate.genome, other.genome) for other in same)
        same.append(candidate)


@each
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_objective_that_is_not_finite_makes_no_parent(make: Make, value: float) -> None:
    def broken(candidate: Candidate, parents: Mapping[int, Evaluation]) -> Evaluation:
        evaluation = toy(candidate, parents)
        if candidate.number % 2:
            return evaluation
        return replace(evaluation, objectives=dict.fromkeys(evaluation.objectives, value))

    game = Game(make(10), broken).play(COUNT)
    assert len(game.told) == COUNT
    assert all(parent % 2 for candidate in game.asked for parent in candidate.parents)


@each
def test_a_twin_without_weights_is_no_parent(make: Make) -> None:
    def repeated(candidate: Candidate, parents: Mapping[int, Evaluation]) -> Evaluation:
        evaluation = toy(candidate, parents)
        if candidate.number % 2:
            return evaluation
        best = {**evaluation.objectives, "error": 0.0}
        return replace(evaluation, objectives=best, weights=None, twin=0)

    game = Game(make(11), repeated).play(COUNT)  # a game asserts that parents have weights
    assert len(game.told) == COUNT
    assert all(parent % 2 for candidate in game.asked for parent in candidate.parents)


@each
def test_the_global_random_state_is_neither_used_nor_changed(make: Make) -> None:
    before = random.getstate()
    first = Game(make(12)).play(20)
    assert random.getstate() == before
    try:
        random.seed(99)
        second = Game(make(12)).play(20)
    finally:
        random.setstate(before)
    assert [identity(c) for c in first.asked] == [identity(c) for c in second.asked]
