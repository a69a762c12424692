"""Individual: a candidate with a fitness, as DEAP wants it; never seen outside this package."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from deap import base

from search import Candidate, Evaluation


@dataclass(frozen=True, eq=False)
class Individual:
    """An evaluated candidate whose weights a child can inherit.

    Attributes:
        candidate: what was proposed.
        evaluation: what became of it.
        fitness: its objectives, in order, all minimised and finite; DEAP keeps its crowding distance there.
    """

    candidate: Candidate
    evaluation: Evaluation
    fitness: base.Fitness

    @property
    def number(self) -> int:
        """The candidate's number."""
        return self.candidate.number

    @property
    def origin(self) -> int:
        """The number of whom this is a twin of; its own if it is none."""
        return self.candidate.number if self.evaluation.twin is None else self.evaluation.twin


def individual(candidate: Candidate, evaluation: Evaluation, objectives: Sequence[str]) -> Individual | None:
    """Returns the individual; None for a failure, and for a repeated evaluation whose weights fit only its twin.

    One NaN upsets every selection of DEAP (measured: `selBest` then returns anything), so an objective that is not
    finite is a failure too.

    Raises:
        ValueError: the evaluator does not measure an objective.
    """
    if not evaluation.ok or evaluation.weights is None:
        return None
    if missing := [name for name in objectives if name not in evaluation.objectives]:
        raise ValueError(f"the objective {missing[0]} must be one of {', '.join(sorted(evaluation.objectives))}")
    values = tuple(evaluation.objectives[name] for name in objectives)
    if not all(map(math.isfinite, values)):
        return None
    return Individual(candidate, evaluation, minimised(len(objectives))(values))


def rejudged(member: Individual, objectives: Mapping[str, float], names: Sequence[str]) -> Individual:
    """Returns the individual with a fitness of other numbers than its evaluation's, as selection is to see it."""
    return replace(member, fitness=minimised(len(names))(tuple(objectives[name] for name in names)))


@lru_cache
def minimised(count: int) -> type[base.Fitness]:
    """Returns DEAP's fitness class for so many minimised objectives."""
    return type(f"Minimised{count}", (base.Fitness,), {"weights": (-1.0,) * count})
