"""Morphisms that add channels to a width class."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from genomes import Genome
from morphism.channels import channels
from morphism.edit import EXACT, Edit, Modes, Site
from morphism.errors import Inapplicable
from morphism.planning import finish, seed_of
from morphism.rewire import NEW, OLD, Marker, balanced, rewire

LEAST_FACTOR, LARGEST_FACTOR = 1.25, 2.0  # of the width


@dataclass(frozen=True)
class Split:
    """Adds channels that replicate old ones; every consumer splits the replicated column element by element.

    The parts are unequal and differ for each element, so the replicas get different gradients and part ways at once.

    Preserves: exactly, in eval and in train mode.
    Source: Chen et al. 2016, Net2Net, section 2.3; LEMON (Wang et al. 2024) has a scalar split; element-wise: ours.
    """

    name: str = "widen.split"
    modes: Modes = EXACT
    weight: float = 1.5

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns one site for each set of channels that must change together."""
        return _sites(genome)

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit that widens by a factor drawn from 1.25 to 2.

        Raises:
            Inapplicable: no channel of the node is free, or the child would be too wide.
        """
        return _widened(self.name, genome, site, rng, OLD)


@dataclass(frozen=True)
class ZeroFanout:
    """Adds channels with random rows that no consumer uses yet: their columns are zero.

    The columns learn at once, the rows as soon as the columns are not zero any more.

    Preserves: exactly, in eval and in train mode.
    Source: Wei et al. 2016, Network Morphism, section 3.
    """

    name: str = "widen.zero_fanout"
    modes: Modes = EXACT
    weight: float = 1.0

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns one site for each set of channels that must change together."""
        return _sites(genome)

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit that widens by a factor drawn from 1.25 to 2.

        Raises:
            Inapplicable: no channel of the node is free, or the child would be too wide.
        """
        return _widened(self.name, genome, site, rng, NEW)


def _sites(genome: Genome) -> list[Site]:
    table = channels(genome)
    seen: set[frozenset[object]] = set()
    found: list[Site] = []
    for (module, node), made in sorted(table.made.items()):
        free = frozenset(made) - table.frozen - set().union(*table.coupled)
        if free and free not in seen:
            seen.add(free)
            found.append({"module": module, "node": node})
    return found


def _widened(rule: str, genome: Genome, site: Site, rng: random.Random, marker: Marker) -> Edit:
    table = channels(genome)
    made = table.made.get((str(site.get("module")), str(site.get("node"))), ())
    free = sorted(set(made) - table.frozen - set().union(*table.coupled))
    if not free:
        raise Inapplicable(f"{rule} needs a node whose channels are free, got {dict(site)}")
    factor = rng.uniform(LEAST_FACTOR, LARGEST_FACTOR)
    count = min(len(free), max(1, round(len(made) * (factor - 1))))
    copies = balanced(genome, dict.fromkeys(rng.sample(free, count), (OLD, marker)), (marker,))
    child, tensors = rewire(genome, copies, seed_of(rng))
    width = sum(len(copies.get(symbol, (OLD,))) for symbol in made)
    return finish(rule, {**site, "channels": width}, genome, child, tensors, rng)
