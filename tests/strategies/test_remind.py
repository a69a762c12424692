"""A strategy that is reminded of its past goes on as one that was never interrupted, and searches for little."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from evo import NSGA2, AgingEvolution, VariationSettings
from genomes import Genome
from search import Budget, Candidate, Evaluation, Ledger, Mindful, Past, ReplayDiverged, drive, records, remind
from strategies import ASHA, RandomSearch, RandomSettings, Screened
from tests.doubles import in_turn
from tests.strategies.contract import (
    CONTINUED,
    EVOLVING,
    FOUR,
    FULL,
    LIMITS,
    PLAIN,
    SPACE,
    STARTERS,
    STRATEGIES,
    Game,
    Make,
    evolving,
    flaky,
    identity,
    size,
)

each = pytest.mark.parametrize("make", STRATEGIES.values(), ids=STRATEGIES)
COUNT = 40
Events = list[tuple[Candidate, Evaluation | None]]


def stored(candidate: Candidate) -> Candidate:
    """Returns a candidate as a ledger gives it back."""
    return records.candidate(records.candidate_json(candidate))


def replayed(make: Make, seed: int, events: Events) -> Game:
    """Returns a fresh strategy that was reminded of the asks among events, and asked and told all of them."""
    past = Past([stored(candidate) for candidate, evaluation in events if evaluation is None])
    game = Game(make(seed), flaky)
    remind(game.strategy, past)
    for candidate, evaluation in events:
        if evaluation is None:
            (proposed,) = game.ask()
            assert identity(proposed) == identity(candidate)
        else:
            game.strategy.tell(candidate, evaluation)
            game.told[candidate.number] = evaluation
            game.flying = [flying for flying in game.flying if flying.number != candidate.number]
    return game


@each
@pytest.mark.parametrize(("slots", "cuts"), [(1, (22, 61)), (4, (45, 2 * COUNT))])
def test_interrupted_anywhere_and_reminded_it_goes_on_as_without(make: Make, slots: int, cuts: tuple[int, int]) -> None:
    whole = Game(make(3), flaky).play(COUNT, slots)
    for cut in cuts:
        game = replayed(make, 3, whole.events[:cut])
        for candidate, evaluation in whole.events[cut:]:
            if evaluation is None:
                assert [identity(proposed) for proposed in game.ask()] == [identity(candidate)], f"cut at {cut}"
            else:
                game.strategy.tell(candidate, evaluation)
                game.told[candidate.number] = evaluation


@each
def test_every_strategy_here_can_be_reminded(make: Make) -> None:
    assert isinstance(make(0), Mindful)


@pytest.mark.parametrize("name", [*EVOLVING, "random"])
def test_what_is_on_record_is_not_searched_for(name: str) -> None:
    """A past that has something else at one place is believed there, so nobody has looked for it."""
    game = Game(PLAIN[name](1), flaky).play(12, slots=1)
    other = game.asked[9].genome
    lying = [replace(c, genome=other, edits=()) if c.number == 7 else c for c in game.asked]
    fresh = PLAIN[name](1)
    remind(fresh, Past(lying))
    for number, candidate in enumerate(game.asked[:9]):
        (proposed,) = fresh.ask(1)
        assert (identity(proposed) == identity(candidate)) == (number != 7)
        fresh.tell(candidate, game.told[number])


def test_a_draw_that_is_on_record_is_not_scored_again() -> None:
    scored = list[float]()

    def score(genome: object) -> float:
        scored.append(size(genome))  # type: ignore[arg-type]
        return scored[-1]

    make: Make = lambda seed: Screened(RandomSearch(SPACE, LIMITS, seed), score, 3, founders=True)  # noqa: E731
    game = Game(make(0), flaky).play(16)
    assert len(scored) == 3 * 16
    scored.clear()
    replayed(make, 0, game.events)
    assert len(scored) == 3 * 6, "those of 0, 1, 2, 4, 8 and the last"


@dataclass
class Few:
    """A space of few members."""

    genomes: Sequence[Genome]

    def sample(self, rng: random.Random) -> Genome:
        return rng.choice(self.genomes)


def test_what_random_search_remembers_it_does_not_draw_again() -> None:
    members = SPACE.founders(0)
    make: Make = lambda seed: RandomSearch(Few(members), LIMITS, seed, RandomSettings(edits=0))  # noqa: E731
    game = Game(make(0), flaky).play(99)
    assert 8 < len(game.asked) <= len(members)
    assert replayed(make, 0, game.events).ask() == game.ask() == []


@pytest.mark.parametrize("strategy", [AgingEvolution, NSGA2])
def test_a_parent_that_is_not_among_the_living_is_not_believed(strategy: type[AgingEvolution | NSGA2]) -> None:
    game = Game(evolving(strategy, 1, VariationSettings()), flaky).play(16, slots=1)
    dead = next(c for c in game.asked if c.number == 15)
    assert dead.parents
    forged = [replace(c, parents=(0,)) if c.number == 14 else c for c in game.asked]  # the first one has failed
    fresh = evolving(strategy, 1, VariationSettings())
    remind(fresh, Past(forged))
    for candidate in game.asked:
        (proposed,) = fresh.ask(1)
        assert identity(proposed) == identity(candidate)
        fresh.tell(candidate, game.told[candidate.number])


def drove(directory: Path, make: Make, seed: int, candidates: int) -> None:
    with Ledger.create(directory, {}) as ledger:
        drive(make(seed), in_turn(flaky), ledger, Budget(candidates=candidates), slots=2)


@each
def test_a_ledger_of_another_seed_is_refused(make: Make, tmp_path: Path) -> None:
    drove(tmp_path / "a", make, 1, 12)
    with pytest.raises(ReplayDiverged, match="the strategy's code or settings changed"):
        drove(tmp_path / "a", make, 2, 13)


CHANGED: dict[str, tuple[Make, Make]] = {
    "variation": (
        lambda seed: NSGA2(STARTERS, LIMITS, seed, FOUR[1]),
        lambda seed: NSGA2(STARTERS, LIMITS, seed, FOUR[1], VariationSettings(disruptions=0.9, edits=3)),
    ),
    "fidelity": (
        lambda seed: NSGA2(STARTERS, LIMITS, seed, FOUR[1]),
        lambda seed: NSGA2(STARTERS, LIMITS, seed, FOUR[1], fidelity=FULL),
    ),
    "score": (
        lambda seed: Screened(NSGA2(STARTERS, LIMITS, seed, FOUR[1]), size, 4),
        lambda seed: Screened(NSGA2(STARTERS, LIMITS, seed, FOUR[1]), lambda genome: -size(genome), 4),
    ),
    "promotion": (
        lambda seed: ASHA(PLAIN["aging"](seed), CONTINUED, FULL),
        lambda seed: ASHA(PLAIN["aging"](seed), replace(CONTINUED, promotion="retrain"), FULL),
    ),
}


@pytest.mark.parametrize(("before", "after"), CHANGED.values(), ids=CHANGED)
def test_a_ledger_of_other_rules_is_refused(before: Make, after: Make, tmp_path: Path) -> None:
    drove(tmp_path / "a", before, 1, 24)
    with pytest.raises(ReplayDiverged, match="the strategy's code or settings changed"):
        drove(tmp_path / "a", after, 1, 25)
