"""Regularised (ageing) evolution: of a random sample the best becomes a parent; the oldest dies.

Source: Real et al. 2019, Regularized evolution for image classifier architecture search, algorithm 1.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from deap import tools

from evo.individual import Individual
from evo.population import Population
from evo.randomness import seeded
from evo.variation import VariationSettings
from genomes import Genome, Limits
from search import Candidate, Evaluation, Fidelity


@dataclass(frozen=True)
class AgingSettings:
    """Settings of regularised evolution.

    Attributes:
        population: how many of the youngest live.
        tournament: how many are drawn, the best of which becomes a parent.
        founders: trained from scratch before the first child.
        objective: what is minimised.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    population: int = 12
    tournament: int = 4
    founders: int = 4
    objective: str = "error"

    def __post_init__(self) -> None:
        """Refuses sizes that cannot work."""
        if min(self.population, self.tournament, self.founders) < 1:
            raise ValueError(f"strategy.population, tournament and founders must be 1 or more, got {self}")


class AgingEvolution:
    """Regularised evolution; asynchronous, so it never waits."""

    def __init__(
        self,
        starters: Sequence[Genome],
        limits: Limits,
        seed: int,
        settings: AgingSettings | None = None,
        variation: VariationSettings | None = None,
        fidelity: Fidelity | None = None,
    ) -> None:
        """Takes the founders' genomes, the limits of all genomes, and settings."""
        self.settings = settings or AgingSettings()
        self.population = Population(
            starters, limits, variation or VariationSettings(), (self.settings.objective,), fidelity or Fidelity(), seed
        )

    def ask(self, n: int) -> list[Candidate]:
        """Returns `n` candidates: founders first, then children of tournament winners."""
        return [self._one() for _ in range(n)]

    def tell(self, candidate: Candidate, evaluation: Evaluation) -> None:
        """Takes note of a result; a failure never becomes a member."""
        self.population.tell(candidate, evaluation)

    def _one(self) -> Candidate:
        if self.population.asked < self.settings.founders or not self._fertile():
            return self.population.founder()
        return self.population.child(self._selected)

    def _fertile(self) -> list[Individual]:
        youngest = self.population.members[-self.settings.population :]
        return [member for member in youngest if member.fertile]

    def _selected(self, rng: random.Random) -> Individual:
        with seeded(rng):
            winner: Individual = tools.selTournament(self._fertile(), 1, self.settings.tournament)[0]
        return winner
