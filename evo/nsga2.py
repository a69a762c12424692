"""NSGA-II over any objectives, steady state: parents by tournament, survivors by non-dominated sorting.

Source: Deb et al. 2002, A fast and elitist multiobjective genetic algorithm, sections III.A to III.C; steady state:
Durillo et al. 2009, On the effect of the steady-state selection scheme.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from deap import tools

from evo.individual import Individual
from evo.judgement import Judging
from evo.population import MOST_FOUNDERS, Population
from evo.variation import VariationSettings
from genomes import Genome, Limits
from search import Candidate, Evaluation, Fidelity


@dataclass(frozen=True)
class NSGA2Settings:
    """Settings of NSGA-II.

    Attributes:
        population: how many survive; more makes a short search aimless, since selection is by tournaments of two.
        founders: of the space's shapes, trained from scratch before the first child; breadth is what a search lacks
            first. Founders that are given take their place.
        objectives: what is minimised.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    population: int = 8
    founders: int = 60
    objectives: tuple[str, ...] = ("error", "parameters")

    def __post_init__(self) -> None:
        """Refuses sizes that cannot work."""
        if self.population < 2 or not 1 <= self.founders <= MOST_FOUNDERS or not self.objectives:
            raise ValueError(
                f"strategy needs a population of 2 or more, 1 to {MOST_FOUNDERS} founders and an objective, got {self}"
            )


class NSGA2(Population):
    """NSGA-II without a barrier: each result joins, and the worst of the lot leaves."""

    def __init__(
        self,
        starters: Sequence[Genome],
        limits: Limits,
        seed: int,
        settings: NSGA2Settings | None = None,
        variation: VariationSettings | None = None,
        fidelity: Fidelity | None = None,
        *,
        mutants: bool = True,
        judgement: Judging = "corrected",
    ) -> None:
        """Takes the founders' genomes, the limits of all genomes, settings, and how children are judged.

        Without `mutants` there is no founder but the starters, and nothing is proposed until one of them is a parent.
        """
        self.settings = settings or NSGA2Settings()
        chosen = self.settings.founders, self.settings.objectives
        super().__init__(starters, limits, seed, *chosen, variation, fidelity, mutants, judgement)
        self.living: list[Individual] = []

    def tell(self, candidate: Candidate, evaluation: Evaluation) -> None:
        """Takes note of a result and lets the best survive; the twin of a survivor, equal in all, takes no place."""
        member = self.member(candidate, evaluation)
        if member and member.origin not in {survivor.origin for survivor in self.living}:
            everyone = sorted([*self.living, member], key=lambda individual: individual.number)
            self.living = tools.selNSGA2(self.judged(everyone), self.settings.population)

    def selected(self, rng: random.Random) -> Individual:
        """Returns the winner of two."""
        return winner(rng.choice(self.living), rng.choice(self.living))


def winner(one: Individual, other: Individual) -> Individual:
    """Returns the one that dominates, else the less crowded, else the earlier; `selTournamentDCD` would flip a coin."""
    if one.fitness.dominates(other.fitness):
        return one
    if other.fitness.dominates(one.fitness):
        return other
    return min(one, other, key=lambda individual: (-individual.fitness.crowding_dist, individual.number))
