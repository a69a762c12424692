"""Individual: a candidate with a fitness, as DEAP wants it; never seen outside this package."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from deap import base

from search import Candidate, Evaluation


class Individual:
    """An evaluated candidate.

    Attributes:
        candidate: what was proposed.
        evaluation: what became of it; `ok`, so that its fitness is finite.
        fitness: its objectives, in order, all minimised.
    """

    def __init__(self, candidate: Candidate, evaluation: Evaluation, objectives: Sequence[str]) -> None:
        """Takes an `ok` evaluation that has all the objectives."""
        self.candidate, self.evaluation = candidate, evaluation
        self.fitness = minimised(len(objectives))(tuple(evaluation.objectives[name] for name in objectives))

    @property
    def number(self) -> int:
        """The candidate's number."""
        return self.candidate.number

    @property
    def fertile(self) -> bool:
        """Whether a child can inherit its weights."""
        return self.evaluation.weights is not None


@lru_cache
def minimised(count: int) -> type[base.Fitness]:
    """Returns DEAP's fitness class for so many minimised objectives."""
    return type(f"Minimised{count}", (base.Fitness,), {"weights": (-1.0,) * count})
