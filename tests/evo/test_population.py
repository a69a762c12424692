"""Founders, controls and exhaustion, in every strategy that evolves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import pytest

from evo import NSGA2, AgingEvolution, AgingSettings, VariationSettings
from genomes import Genome, Limits, Module, cost, equivalent
from genomes.operations import Flatten, Input, Linear, Output
from morphism import CATALOGUE, ZERO_INITIALISED, place
from search import Candidate, Evaluation
from tests.strategies.contract import EVOLVING, LIMITS, STARTERS, STRATEGIES, Game, Make, evolving, failed, flaky, toy

each = pytest.mark.parametrize("make", [STRATEGIES[name] for name in EVOLVING], ids=EVOLVING)


def smallest() -> Genome:
    """Returns a linear classifier: no morphism applies but those that add to it."""
    nodes = {"x": Input(0, (1, 4, 4)), "flat": Flatten(), "head": Linear(2), "out": Output()}
    return Genome.of({"net": Module.of(nodes, [("x", "flat"), ("flat", "head"), ("head", "out")])})


@each
def test_the_second_child_of_a_parent_is_its_no_op_control(make: Make) -> None:
    game, children = Game(make(1), flaky).play(70), Counter[int]()
    for candidate in game.asked:
        for parent in candidate.parents[:1]:
            children[parent] += 1
            assert candidate.control == (children[parent] == 2 and not game.asked[parent].control)
    assert max(children.values()) > 2


@each
def test_controls_enter_the_population_as_ordinary_members(make: Make) -> None:
    game = Game(make(2)).play(70)
    controls = {candidate.number for candidate in game.asked if candidate.control}
    assert any(set(candidate.parents) & controls for candidate in game.asked)


@pytest.mark.parametrize("strategy", [AgingEvolution, NSGA2])
def test_founders_are_the_starters_once_each_and_then_new_mutants_of_them(
    strategy: type[AgingEvolution | NSGA2],
) -> None:
    game = Game(strategy(STARTERS, LIMITS, 3), lambda candidate, _: failed(candidate)).play(12)
    genomes = [candidate.genome for candidate in game.asked]
    assert tuple(genomes[: len(STARTERS)]) == STARTERS
    for number, genome in enumerate(genomes):
        assert not any(equivalent(genome, other) for other in genomes[:number])


@pytest.mark.parametrize("strategy", [AgingEvolution, NSGA2])
def test_an_exhausted_space_ends_the_search_instead_of_repeating_itself(
    strategy: type[AgingEvolution | NSGA2],
) -> None:
    genome = smallest()
    limits = Limits(parameters=cost(genome).parameters)
    searching = strategy([genome], limits, 4, variation=VariationSettings(disruptions=0.0))
    game = Game(searching).play(50)
    assert [candidate.number for candidate in game.asked] == list(range(len(game.asked)))
    assert 1 <= len(game.asked) < 50
    assert game.ask(3) == game.ask(3) == []


def test_a_first_child_computes_something_new_so_inlining_alone_makes_none() -> None:
    settings, variation = AgingSettings(founders=1), VariationSettings(disruptions=0.0, edits=1)
    for seed in range(80):
        game = Game(AgingEvolution(STARTERS[-1:], LIMITS, seed, settings, variation)).play(2, slots=1)
        ((child, parent),) = game.children()
        assert not equivalent(child.genome, parent.genome)


def test_one_parent_s_children_all_compute_different_things() -> None:
    """One founder succeeds and all its children fail: with one parent, each small edit comes up again and again."""
    settings, variation = AgingSettings(founders=1), VariationSettings(disruptions=1.0, edits=1)
    game = Game(
        AgingEvolution(STARTERS, LIMITS, 5, settings, variation),
        lambda candidate, parents: toy(candidate, parents) if candidate.number == 0 else failed(candidate),
    ).play(20, slots=1)
    genomes = [candidate.genome for candidate in game.asked if candidate.edits]
    assert len(genomes) == 18
    for number, genome in enumerate(genomes):
        assert not any(equivalent(genome, other) for other in genomes[:number])


def test_survivors_are_always_seen_as_the_last_regression_judges_them() -> None:
    searching, regressions = NSGA2(STARTERS, LIMITS, 6), set[int]()
    game = Game(searching)
    for count in range(1, 91):
        game.play(count)
        judgement = searching.judgement
        regressions.add(judgement.fitted)
        for survivor in searching.living:
            seen = judgement.objectives(survivor.evaluation)
            assert survivor.fitness.values == tuple(seen[name] for name in searching.settings.objectives)
    assert len(regressions) > 10


@pytest.mark.parametrize("strategy", [AgingEvolution, NSGA2])
def test_what_a_parents_loss_wants_chooses_its_childrens_edits(strategy: type[AgingEvolution | NSGA2]) -> None:
    (kind,) = (kind for kind in CATALOGUE if kind.name == "skip.add")

    def wanting(candidate: Candidate, parents: Mapping[int, Evaluation]) -> Evaluation:
        wanted = {place(kind.name, site): 1.0 for site in kind.sites(candidate.genome)}
        return replace(toy(candidate, parents), gradients={"none": 0.0, **wanted})

    variation = VariationSettings(disruptions=0.0, edits=1, choice="gradient")
    game = Game(evolving(strategy, 8, variation), wanting).play(60)
    rules = {edit.rule for candidate in game.asked for edit in candidate.edits}
    assert rules & ZERO_INITIALISED == {"skip.add"}
