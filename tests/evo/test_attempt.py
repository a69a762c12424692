"""An attempt is the plan, unless its child is over the limits."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from itertools import islice

import pytest

from evo import DISRUPTIONS
from evo.attempt import attempt
from genomes import Genome, InvalidGenome, Limits, allowed, cost
from morphism import CATALOGUE, Edit, Inapplicable, Morphism
from morphism.edit import Site
from tests.drawing import seeded_genome

KINDS = (*CATALOGUE, *DISRUPTIONS)
APPLICATIONS = 12  # of each kind, else a test proves nothing


@cache
def planned(kind: Morphism) -> tuple[tuple[int, Genome, Site, Edit], ...]:
    """Returns seeds, genomes, sites, and the edits there."""
    return tuple(islice(_planned(kind), APPLICATIONS))


def _planned(kind: Morphism) -> Iterator[tuple[int, Genome, Site, Edit]]:
    for seed in range(600):
        genome = seeded_genome(seed)
        for site in kind.sites(genome)[:1]:
            try:
                yield seed, genome, site, kind.plan(genome, site, random.Random(seed))
            except (Inapplicable, InvalidGenome):
                continue


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_an_attempt_without_limits_is_the_plan(kind: Morphism) -> None:
    assert len(planned(kind)) >= APPLICATIONS // 2
    for seed, genome, site, edit in planned(kind):
        tried = attempt(kind, genome, site, random.Random(seed), Limits())
        assert tried
        assert tried.digest == edit.digest
        assert type(tried.genome) is Genome


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_an_attempt_keeps_limits(kind: Morphism) -> None:
    for _, genome, site, _ in planned(kind):
        spent = cost(genome)
        limits = Limits(spent.parameters, spent.macs, spent.activation_bytes)
        for seed in range(3):
            tried = attempt(kind, genome, site, random.Random(seed), limits)
            assert tried is None or allowed(tried.genome, limits)
