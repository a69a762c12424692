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
from search import Candidate, Evaluation, Fidelity, Past, proposals


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


class NSGA2:
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
        self.population = Population(
            starters,
            limits,
            variation or VariationSettings(),
            self.settings.objectives,
            fidelity or Fidelity(),
            seed,
            mutants,
            judgement,
        )
        self.survivors: list[Individual] = []

    def ask(self, n: int) -> list[Candidate]:
        """Returns `n` candidates: founders, then children of tournament winners; fewer if nothing new is found."""
        return proposals(self._one, n)

    def tell(self, candidate: Candidate, evaluation: Evaluation) -> None:
        """Takes note of a result and lets the best survive; the twin of a survivor, equal in all, takes no place."""
        member = self.population.member(candidate, evaluation)
        if member and member.origin not in {survivor.origin for survivor in self.survivors}:
            everyone = sorted([*self.survivors, member], key=lambda individual: individual.number)
            self.survivors = tools.selNSGA2(self.population.judged(everyone), self.settings.population)

    def remind(self, past: Past) -> None:
        """Takes what it proposed before: children on record are not searched for again."""
        self.population.past = past

    def _one(self) -> Candidate | None:
        return self.population.proposal(self.settings.founders, self.survivors, self._selected)

    def _selected(self, rng: random.Random) -> Individual:
        return winner(rng.choice(self.survivors), rng.choice(self.survivors))


def winner(one: Individual, other: Individual) -> Individual:
    """Returns the one that dominates, else the less crowded, else the earlier; `selTournamentDCD` would flip a coin."""
    if one.fitness.dominates(other.fitness):
        return one
    if other.fitness.dominates(one.fitness):
        return other
    return min(one, other, key=lambda individual: (-individual.fitness.crowding_dist, individual.number))
