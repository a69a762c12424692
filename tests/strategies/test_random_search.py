from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from genomes import Genome, InvalidGenome, Limits
from genomes.spaces.residual import ResidualLimits, ResidualSpace
from strategies import RandomSearch, RandomSettings
from tests.strategies.contract import LIMITS, SPACE, STARTERS, Game


@dataclass
class Few:
    """A space of few members, which fails every so often."""

    genomes: tuple[Genome, ...]
    failures: float = 0.0

    def sample(self, rng: random.Random) -> Genome:
        if rng.random() < self.failures:
            raise InvalidGenome("no member was found")
        return rng.choice(self.genomes)


def test_nothing_is_inherited() -> None:
    game = Game(RandomSearch(SPACE, LIMITS, 0)).play(30)
    assert not any(candidate.parents or candidate.edits for candidate in game.asked)


def test_what_it_is_told_changes_nothing() -> None:
    told, untold = Game(RandomSearch(SPACE, LIMITS, 1)).play(20), Game(RandomSearch(SPACE, LIMITS, 1))
    assert [c.genome for c in told.asked] == [c.genome for c in untold.ask(20)]


def test_edits_take_members_beyond_the_space() -> None:
    members = [SPACE.sample(random.Random(f"2:{number}:random")) for number in range(20)]
    plain, edited = (RandomSearch(SPACE, LIMITS, 2, RandomSettings(edits=edits)).ask(20) for edits in (0, 6))
    assert sum(c.genome == member for c, member in zip(plain, members, strict=True)) >= 15  # none is drawn twice
    assert sum(c.genome != member for c, member in zip(edited, members, strict=True)) > 10


def test_an_exhausted_space_ends_the_search_instead_of_repeating_itself() -> None:
    strategy = RandomSearch(Few(STARTERS), LIMITS, 3, RandomSettings(edits=0))
    found = strategy.ask(50)
    assert sorted(c.genome.digest for c in found) == sorted(genome.digest for genome in STARTERS)
    assert strategy.ask(1) == []


def test_draws_that_fail_are_drawn_again() -> None:
    first = next(seed for seed in range(100) if len(RandomSearch(Few(STARTERS, 0.0), LIMITS, seed).ask(1)) == 1)
    strategy = RandomSearch(Few(STARTERS, 0.0), LIMITS, first)
    strategy.ask(1)
    strategy.space = Few(STARTERS, 0.8)
    assert len(strategy.ask(20)) == 20


def test_a_space_without_any_member_within_the_limits_is_an_error_with_its_remedy() -> None:
    space = ResidualSpace((1, 16, 16), 4, ResidualLimits(parameters=10))
    with pytest.raises(InvalidGenome, match="raise a limit"):
        RandomSearch(space, Limits(parameters=10), 0).ask(1)


@pytest.mark.parametrize("edits", [-1, 33])
def test_settings_out_of_range_are_refused(edits: int) -> None:
    with pytest.raises(ValueError, match="edits must be in"):
        RandomSettings(edits=edits)
