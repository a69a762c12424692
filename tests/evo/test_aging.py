from __future__ import annotations

from statistics import mean

import pytest

from evo import AgingEvolution, AgingSettings, VariationSettings
from strategies import RandomSearch
from tests.strategies.contract import LIMITS, SPACE, STARTERS, VARIED, Game


def least(game: Game) -> float:
    return min(evaluation.objectives["error"] for evaluation in game.told.values())


def evolved(seed: int, settings: AgingSettings) -> float:
    return least(Game(AgingEvolution(STARTERS, LIMITS, seed, settings, VARIED)).play(80))


def test_it_finds_less_error_than_random_search_and_than_the_same_edits_without_selection() -> None:
    seeds = range(3)
    selecting = mean(evolved(seed, AgingSettings()) for seed in seeds)
    drifting = mean(evolved(seed, AgingSettings(population=80, tournament=1)) for seed in seeds)
    drawn = mean(least(Game(RandomSearch(SPACE, LIMITS, seed)).play(80)) for seed in seeds)
    assert selecting < 0.75 * drawn
    assert selecting < 0.75 * drifting


def test_only_the_youngest_are_parents() -> None:
    settings = AgingSettings(population=5, tournament=3)
    game = Game(AgingEvolution(STARTERS, LIMITS, 1, settings)).play(60, slots=1)
    for candidate in game.asked:
        assert all(candidate.number - parent <= 5 for parent in candidate.parents)


def test_the_tournament_favours_the_better() -> None:
    def lineal(tournament: int) -> float:
        settings = AgingSettings(population=20, tournament=tournament)
        game = Game(AgingEvolution(STARTERS, LIMITS, 2, settings)).play(60, slots=1)
        return mean(game.told[parent.number].objectives["error"] for _, parent in game.children())

    assert lineal(8) < lineal(1)


def test_the_oldest_dies_however_good_it_is() -> None:
    strategy = AgingEvolution(STARTERS, LIMITS, 3, AgingSettings(population=3))
    Game(strategy).play(30, slots=1)
    assert [member.number for member in strategy.living] == [27, 28, 29]


@pytest.mark.parametrize("wrong", [{"population": 0}, {"tournament": 0}, {"founders": 0}])
def test_sizes_that_cannot_work_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be 1 or more"):
        AgingSettings(**wrong)  # type: ignore[arg-type]


def test_no_starter_is_refused() -> None:
    with pytest.raises(ValueError, match="one starter genome or more"):
        AgingEvolution((), LIMITS, 0, variation=VariationSettings())
