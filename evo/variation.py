"""Variation: how a child comes from its parent: edits drawn by weight from the morphisms and the disruptions."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from deap import base

from evo.attempt import attempt, sound
from evo.crossover import mate
from evo.disruptions import DISRUPTIONS
from genomes import Genome, Limits
from morphism import CATALOGUE, Edit, Morphism

TRIES = 20  # of chains of edits, for one child
DRAWS = 6  # of a kind and a site, for one edit of a chain


@dataclass(frozen=True)
class VariationSettings:
    """How children differ from their parents.

    Attributes:
        disruptions: the chance that an edit is a disruption, which does not keep the function, instead of a morphism.
        edits: at most, in one child; each number from 1 is equally likely.
        crossover: the chance that a child has two parents; the edits above are not made then.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    disruptions: float = 0.15
    edits: int = 2
    crossover: float = 0.0

    def __post_init__(self) -> None:
        """Refuses numbers outside their ranges."""
        for name in ("disruptions", "crossover"):
            if not 0 <= (chance := getattr(self, name)) <= 1:
                raise ValueError(f"variation.{name} must be a chance in [0, 1], got {chance}")
        if not 1 <= self.edits <= 8:
            raise ValueError(f"variation.edits must be in [1, 8], got {self.edits}")


class Barren(RuntimeError):
    """No edit within the limits was found that leads to a genome not asked before."""


def toolbox(settings: VariationSettings, limits: Limits) -> base.Toolbox:
    """Returns DEAP's toolbox for a search.

    `mutate(genome, fresh, rng)` and `mate(receiver, giver, known, fresh, rng)` return the edits that make a child.
    """
    box = base.Toolbox()
    box.register("mate", mate, limits=limits)
    box.register("mutate", mutate, settings=settings, limits=limits)
    return box


def mutate(
    genome: Genome, fresh: Callable[[Genome], bool], rng: random.Random, settings: VariationSettings, limits: Limits
) -> tuple[Edit, ...]:
    """Returns edits that lead from a genome to a new one within the limits.

    Args:
        genome: the parent's.
        fresh: says whether a genome was not asked before.
        rng: of all draws.
        settings: how many edits, and of which kind.
        limits: of the child.

    Raises:
        Barren: twenty tries found none.
    """
    for _ in range(TRIES):
        edits = _chain(genome, rng.randint(1, settings.edits), rng, settings, limits)
        if edits and fresh(edits[-1].genome) and sound(edits):
            return edits
    raise Barren(f"{TRIES} tries found no new genome within {limits}")


def _chain(
    genome: Genome, count: int, rng: random.Random, settings: VariationSettings, limits: Limits
) -> tuple[Edit, ...]:
    """Returns `count` edits, fewer if none is found for a place in the chain."""
    edits: list[Edit] = []
    for _ in range(count):
        drawn = (_edit(genome, rng, settings, limits) for _ in range(DRAWS))
        if (edit := next(filter(None, drawn), None)) is None:
            break
        edits.append(edit)
        genome = edit.genome
    return tuple(edits)


def _edit(genome: Genome, rng: random.Random, settings: VariationSettings, limits: Limits) -> Edit | None:
    kinds: Sequence[Morphism] = DISRUPTIONS if rng.random() < settings.disruptions else CATALOGUE
    kind = rng.choices(kinds, [kind.weight for kind in kinds])[0]
    if not (sites := kind.sites(genome)):
        return None
    return attempt(kind, genome, rng.choice(sites), rng, limits)
