"""Regularised (ageing) evolution: of a random sample the best becomes a parent; the oldest dies.

Source: Real et al. 2019, Regularized evolution for image classifier architecture search, algorithm 1.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from evo.individual import Individual
from evo.judgement import Judging
from evo.population import MOST_FOUNDERS, Population
from evo.variation import VariationSettings
from genomes import Genome, Limits
from search import Candidate, Evaluation, Fidelity


@dataclass(frozen=True)
class AgingSettings:
    """Settings of regularised evolution.

    Attributes:
        population: how many of the youngest live.
        tournament: how many are drawn, the best of which becomes a parent.
        founders: of the space's shapes, trained from scratch before the first child; founders that are given take
            their place.
        objective: what is minimised.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    population: int = 12
    tournament: int = 4
    founders: int = 12
    objective: str = "error"

    def __post_init__(self) -> None:
        """Refuses sizes that cannot work."""
        if min(self.population, self.tournament, self.founders) < 1 or self.founders > MOST_FOUNDERS:
            raise ValueError(
                "strategy.population, tournament and founders must be 1 or more, and founders at most "
                f"{MOST_FOUNDERS}, got {self}"
            )


class AgingEvolution(Population):
    """Regularised evolution; asynchronous, so it never waits."""

    def __init__(
        self,
        starters: Sequence[Genome],
        limits: Limits,
        seed: int,
        settings: AgingSettings | None = None,
        variation: VariationSettings | None = None,
        fidelity: Fidelity | None = None,
        *,
        mutants: bool = True,
        judgement: Judging = "corrected",
    ) -> None:
        """Takes the founders' genomes, the limits of all genomes, settings, and how children are judged.

        Without `mutants` there is no founder but the starters, and nothing is proposed until one of them is a parent.
        """
        self.settings = settings or AgingSettings()
        chosen = self.settings.founders, (self.settings.objective,)
        super().__init__(starters, limits, seed, *chosen, variation, fidelity, mutants, judgement)
        self.living: deque[Individual] = deque(maxlen=self.settings.population)

    def tell(self, candidate: Candidate, evaluation: Evaluation) -> None:
        """Takes note of a result: the youngest comes to life, the oldest dies; a failure is never a parent."""
        if member := self.member(candidate, evaluation):
            self.living.append(member)
            self.living = deque(self.judged(self.living), self.living.maxlen)

    def selected(self, rng: random.Random) -> Individual:
        """Returns the best of a few; DEAP's tournament draws from the one generator that all threads share."""
        drawn = [rng.choice(self.living) for _ in range(self.settings.tournament)]
        return max(drawn, key=lambda individual: individual.fitness)
