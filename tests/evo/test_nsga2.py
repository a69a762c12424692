from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace
from statistics import mean

import pytest

from evo import NSGA2, AgingEvolution, AgingSettings, NSGA2Settings
from evo.individual import Individual, minimised
from evo.nsga2 import winner
from genomes import Genome
from search import Candidate, Evaluation
from strategies import RandomSearch
from tests.strategies.contract import LIMITS, STARTERS, VARIED, Game

AXES = ("error", "parameters")


def volume(game: Game) -> float:
    """Returns the dominated area below error 1 and the limit of parameters."""
    assert LIMITS.parameters
    area, height = 0.0, 1.0
    for error, parameters in sorted(tuple(e.objectives[axis] for axis in AXES) for e in game.told.values()):
        width = parameters / LIMITS.parameters
        if width < height:  # by rising error, each smaller network adds the strip that the last one left free
            area += (1 - error) * (height - width)
            height = width
    return area


@dataclass(frozen=True)
class Starters:
    """A space of the starters alone, so that random search begins where evolution does."""

    def sample(self, rng: random.Random) -> Genome:
        return rng.choice(STARTERS)


def test_it_covers_more_volume_than_random_search_and_than_the_same_edits_without_selection() -> None:
    seeds, drift = range(3), AgingSettings(population=100, tournament=1)
    selecting = mean(volume(Game(NSGA2(STARTERS, LIMITS, seed, variation=VARIED)).play(100)) for seed in seeds)
    drifting = mean(volume(Game(AgingEvolution(STARTERS, LIMITS, seed, drift, VARIED)).play(100)) for seed in seeds)
    drawn = mean(volume(Game(RandomSearch(Starters(), LIMITS, seed)).play(100)) for seed in seeds)
    assert selecting > 1.05 * drawn
    assert selecting > 1.1 * drifting


def test_the_front_survives() -> None:
    strategy = NSGA2(STARTERS, LIMITS, 1, NSGA2Settings(population=40), VARIED)
    game = Game(strategy).play(60)
    values = {number: tuple(e.objectives[axis] for axis in AXES) for number, e in game.told.items()}
    front = {v for v in values.values() if not any(w != v and w[0] <= v[0] and w[1] <= v[1] for w in values.values())}
    assert len(front) > 1
    assert front <= {values[member.number] for member in strategy.living}
    assert len(strategy.living) == 40


def test_parents_are_survivors() -> None:
    strategy = NSGA2(STARTERS, LIMITS, 2, NSGA2Settings(population=4), VARIED)
    game = Game(strategy)
    for _ in range(40):
        before = {member.number for member in strategy.living}
        (candidate,) = game.ask()
        assert set(candidate.parents) <= before
        game.land()


def test_the_twin_of_a_survivor_takes_nobody_s_place() -> None:
    strategy = NSGA2(STARTERS, LIMITS, 2, NSGA2Settings(population=2, founders=8), judgement="raw")
    game = Game(strategy)
    first, second, third = game.ask(3)
    for candidate, error, parameters in ((first, 0.1, 100.0), (second, 0.2, 50.0), (third, 0.1, 100.0)):
        told = replace(game.evaluate(candidate, {}), objectives={"error": error, "parameters": parameters})
        strategy.tell(candidate, replace(told, twin=0) if candidate is third else told)
    assert [survivor.number for survivor in strategy.living] == [0, 1]


def test_of_two_twins_of_one_that_does_not_survive_one_takes_a_place() -> None:
    strategy = NSGA2(STARTERS, LIMITS, 2, NSGA2Settings(population=2, founders=8), judgement="raw")
    game = Game(strategy)
    first, *others = game.ask(4)
    for candidate, error in ((others[0], 0.1), (others[1], 0.1), (first, 0.3), (others[2], 0.2)):
        told = replace(game.evaluate(candidate, {}), objectives={"error": error, "parameters": 100.0})
        strategy.tell(candidate, replace(told, twin=0) if candidate in others[:2] else told)
    assert [survivor.number for survivor in strategy.living] == [1, 3]


def test_the_order_of_telling_equals_does_not_change_who_survives() -> None:
    def survivors(order: list[int]) -> list[int]:
        strategy = NSGA2(STARTERS, LIMITS, 3, NSGA2Settings(population=3, founders=8))
        game = Game(strategy)
        game.ask(8)
        for number in order:
            evaluation = game.evaluate(game.asked[number], {})
            flat = type(evaluation)(number, "ok", {"error": 0.5, "parameters": 10.0}, weights=evaluation.weights)
            strategy.tell(game.asked[number], flat)
        return sorted(member.number for member in strategy.living)

    assert survivors(list(range(8))) == survivors([5, 2, 7, 0, 1, 6, 4, 3])


def test_the_winner_dominates_or_is_less_crowded_or_came_first() -> None:
    def member(number: int, values: tuple[float, float], crowding: float) -> Individual:
        fitness = minimised(2)(values)
        fitness.crowding_dist = crowding
        return Individual(Candidate(number, STARTERS[0]), Evaluation(number, "ok"), fitness)

    good, bad = member(4, (0.1, 5.0), 0.0), member(1, (0.1, 6.0), 9.0)
    crowded, alone, later = member(1, (0.3, 1.0), 0.5), member(2, (0.2, 2.0), 0.7), member(3, (0.1, 3.0), 0.7)
    for one, other in ((good, bad), (alone, crowded), (alone, later)):
        assert winner(one, other) is one
        assert winner(other, one) is one
    assert winner(bad, bad) is bad


@pytest.mark.parametrize("wrong", [{"population": 1}, {"founders": 0}, {"objectives": ()}])
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="population of 2 or more"):
        NSGA2Settings(**wrong)  # type: ignore[arg-type]


def test_parents_win_a_tournament_of_two() -> None:
    strategy = NSGA2(STARTERS, LIMITS, 2, NSGA2Settings(population=4, founders=4), judgement="raw")
    game = Game(strategy)
    for candidate, error in zip(game.ask(4), (0.1, 0.2, 0.3, 0.4), strict=True):
        told = replace(game.evaluate(candidate, {}), objectives={"error": error, "parameters": 1e3 * error})
        strategy.tell(candidate, told)
    drawn = Counter(strategy.selected(random.Random(seed)).number for seed in range(1000))
    assert drawn[0] > 4 * drawn[3] > 0
