"""Variation: how a child comes from its parent: edits drawn by weight from the morphisms and the disruptions."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from deap import base

from evo.attempt import attempt, sound
from evo.crossover import mate
from evo.disruptions import DISRUPTIONS
from genomes import Genome, Limits
from morphism import CATALOGUE, ZERO_INITIALISED, Edit, Morphism, place
from morphism.edit import Site

TRIES = 20  # of chains of edits, for one child
DRAWS = 6  # of a kind and a site, for one edit of a chain
RIVALS = 4  # zero-initialised edits of which the one with the largest gradient is chosen
Draw = Callable[[Genome, random.Random], tuple[Morphism, Site] | None]
SCORED = tuple(kind for kind in CATALOGUE if kind.name in ZERO_INITIALISED)


@dataclass(frozen=True)
class VariationSettings:
    """How children differ from their parents.

    Attributes:
        disruptions: the chance that an edit is a disruption, which does not keep the function, instead of a morphism.
        edits: at most, in one child; each number from 1 is equally likely.
        crossover: the chance that a child has two parents; the edits above are not made then.
        choice: how a zero-initialised edit is chosen: by chance, or the one of several that the parent's loss wants
            most, per new parameter.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    disruptions: float = 0.15
    edits: int = 2
    crossover: float = 0.0
    choice: Literal["uniform", "gradient"] = "uniform"

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

    `mutate(genome, fresh, gradients, rng)` and `mate(receiver, giver, known, fresh, rng)` return the edits of a child.
    """
    box = base.Toolbox()
    box.register("mate", mate, limits=limits)
    box.register("mutate", mutate, settings=settings, limits=limits)
    return box


def mutate(
    genome: Genome,
    fresh: Callable[[Genome], bool],
    gradients: Mapping[str, float],
    rng: random.Random,
    settings: VariationSettings,
    limits: Limits,
) -> tuple[Edit, ...]:
    """Returns edits that lead from a genome to a new one within the limits.

    Args:
        genome: the parent's.
        fresh: says whether a genome was not asked before.
        gradients: what the parent's evaluation says of edits that could be made of it.
        rng: of all draws.
        settings: how many edits, and of which kind.
        limits: of the child.

    Raises:
        Barren: twenty tries found none.
    """
    draw = partial(_drawn, settings=settings, gradients=gradients if settings.choice == "gradient" else {})
    for _ in range(TRIES):
        edits = _chain(genome, rng.randint(1, settings.edits), rng, draw, limits)
        if edits and fresh(edits[-1].genome) and sound(edits):
            return edits
    raise Barren(f"{TRIES} tries found no new genome within {limits}")


def _chain(genome: Genome, count: int, rng: random.Random, draw: Draw, limits: Limits) -> tuple[Edit, ...]:
    """Returns `count` edits, fewer if none is found for a place in the chain."""
    edits: list[Edit] = []
    for _ in range(count):
        drawn = (draw(genome, rng) for _ in range(DRAWS))
        tried = (attempt(kind, genome, site, rng, limits) for kind, site in filter(None, drawn))
        if (edit := next(filter(None, tried), None)) is None:
            break
        edits.append(edit)
        genome = edit.genome
    return tuple(edits)


def _drawn(
    genome: Genome, rng: random.Random, settings: VariationSettings, gradients: Mapping[str, float]
) -> tuple[Morphism, Site] | None:
    """Returns a kind of edit and a site; None if the kind has no site."""
    kinds: Sequence[Morphism] = DISRUPTIONS if rng.random() < settings.disruptions else CATALOGUE
    kind = rng.choices(kinds, [kind.weight for kind in kinds])[0]
    if kind.name in ZERO_INITIALISED and gradients:
        return _wanted(genome, rng, gradients)
    sites = kind.sites(genome)
    return (kind, rng.choice(sites)) if sites else None


def _wanted(genome: Genome, rng: random.Random, gradients: Mapping[str, float]) -> tuple[Morphism, Site] | None:
    """Returns, of several zero-initialised edits drawn by weight, the one with the largest gradient."""
    sites = {kind.name: [site for site in kind.sites(genome) if place(kind.name, site) in gradients] for kind in SCORED}
    kinds = [kind for kind in SCORED if sites[kind.name]]
    if not kinds:
        return None
    drawn = rng.choices(kinds, [kind.weight for kind in kinds], k=RIVALS)
    rivals = [(kind, rng.choice(sites[kind.name])) for kind in drawn]
    return max(rivals, key=lambda rival: gradients[place(rival[0].name, rival[1])])
