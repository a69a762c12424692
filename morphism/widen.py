"""Morphisms that add channels to a width class."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from genomes import Genome, expand
from genomes.operations import MAX_CHANNELS
from morphism.channels import ChannelMap, Symbol, channels, grouped
from morphism.edit import EXACT, Edit, Modes, Site
from morphism.errors import Inapplicable
from morphism.planning import finish, seed_of
from morphism.rewire import MINUS, NEW, OLD, PLUS, Copies, Marker, balanced, rewire
from morphism.tensors import Share

LEAST_FACTOR, LARGEST_FACTOR = 1.25, 2.0  # of the width
TRIPLED = 0.2  # of the edits that replicate every channel of a norm


@dataclass(frozen=True)
class _Widening:
    """What the ways to widen have in common; they differ in what a new channel is.

    Attributes:
        added: what stands behind an old channel.
        share: how consumers share the column of a replicated channel.
    """

    name: str
    weight: float
    modes: Modes = EXACT
    added: ClassVar[tuple[Marker, ...]]
    share: ClassVar[Share] = "split"

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns one site for each set of channels that must change together."""
        table = channels(genome)
        seen: set[frozenset[Symbol]] = set()
        found: list[Site] = []
        for module, node in sorted(table.made):
            chosen = self._free(table, module, node) or self._joint(genome, table, module, node)
            if chosen and chosen not in seen:
                seen.add(chosen)
                found.append({"module": module, "node": node})
        return found

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit that widens by a factor drawn from 1.25 to 2; under a norm over channels, by 2 or 3.

        Raises:
            Inapplicable: no channel of the node may change in this way, or the child would be too wide.
        """
        table, place = channels(genome), (str(site.get("module")), str(site.get("node")))
        made = table.made.get(place, ())
        if free := self._free(table, *place):
            copies = self._some(genome, len(made), sorted(free), rng)
        elif joint := self._joint(genome, table, *place):
            triple = rng.random() < TRIPLED and 3 * len(made) <= MAX_CHANNELS
            copies = dict.fromkeys(joint, (OLD,) * (3 if triple else 2))
        else:
            raise Inapplicable(self._refusal(table, place))
        child, tensors = rewire(genome, copies, seed_of(rng), self.share)
        width = sum(len(copies.get(symbol, (OLD,))) for symbol in made)
        return finish(self.name, {**site, "channels": width}, genome, child, tensors, rng)

    def _some(self, genome: Genome, width: int, free: Sequence[Symbol], rng: random.Random) -> Copies:
        """Returns what some of the free channels become."""
        wanted = width * (rng.uniform(LEAST_FACTOR, LARGEST_FACTOR) - 1) / len(self.added)
        chosen = rng.sample(free, min(len(free), max(1, round(wanted))))
        return balanced(genome, dict.fromkeys(chosen, (OLD, *self.added)), self.added)

    def _free(self, table: ChannelMap, module: str, node: str) -> frozenset[Symbol]:
        """Returns the node's channels that may change one by one."""
        return frozenset(table.made.get((module, node), ())) - table.frozen - table.joined

    def _joint(self, genome: Genome, table: ChannelMap, module: str, node: str) -> frozenset[Symbol]:
        """Returns the channels that must be replicated with the node's, all alike; none where one is frozen."""
        if self.added != (OLD,):
            return frozenset()
        chosen = _closed(genome, table, frozenset(table.made.get((module, node), ())) & table.joined)
        return frozenset() if chosen & table.frozen else chosen

    def _refusal(self, table: ChannelMap, place: tuple[str, str]) -> str:
        if table.joined.intersection(table.made.get(place, ())):
            return f"{self.name} cannot keep what a norm over the channels of {place[1]} makes of them"
        return f"{self.name} needs a node of a module whose channels are free, got {place[1]} of {place[0]}"


@dataclass(frozen=True)
class Split(_Widening):
    """Adds channels that replicate old ones; every consumer splits the replicated column element by element.

    The parts are unequal and differ for each element, so the replicas get different gradients and part ways at once.
    Where a norm over channels reads them, every channel of it gets equally many replicas.

    Preserves: exactly, in eval and in train mode.
    Source: Chen et al. 2016, Net2Net, section 2.3; LEMON (Wang et al. 2024) has a scalar split; element-wise: ours.
    """

    name: str = "widen.split"
    weight: float = 1.5
    added: ClassVar[tuple[Marker, ...]] = (OLD,)


@dataclass(frozen=True)
class EqualReplicas(_Widening):
    """Adds channels that replicate old ones; every consumer halves the replicated column.

    The replicas get identical gradients for ever, so this adds no capacity until something else tells them apart, such
    as noise on their rows (the disruption `widen.noise`): therefore evolution never draws it by itself.

    Preserves: exactly, in eval and in train mode.
    Source: Chen et al. 2016, Net2Net, section 2.3 (Net2WiderNet).
    """

    name: str = "widen.replicate"
    weight: float = 0.0
    added: ClassVar[tuple[Marker, ...]] = (OLD,)
    share: ClassVar[Share] = "equal"


@dataclass(frozen=True)
class Pair(_Widening):
    """Adds pairs of channels with the same random rows, whose columns in every consumer are opposite: (V, V), (Z, -Z).

    Rows and columns learn at once, in opposite directions, so that the two part ways by themselves.

    Preserves: exactly, in eval and in train mode, unless a norm over channels reads them.
    Source: Yuan et al. 2023, Accelerated training via incrementally growing neural networks, section 3.1.
    """

    name: str = "widen.pair"
    weight: float = 0.75
    added: ClassVar[tuple[Marker, ...]] = (PLUS, MINUS)


@dataclass(frozen=True)
class ZeroFanout(_Widening):
    """Adds channels with random rows that no consumer uses yet: their columns are zero.

    The columns learn at once, the rows as soon as the columns are not zero any more.

    Preserves: exactly, in eval and in train mode, unless a norm over channels reads them.
    Source: Wei et al. 2016, Network Morphism, section 3.
    """

    name: str = "widen.zero_fanout"
    weight: float = 1.0
    added: ClassVar[tuple[Marker, ...]] = (NEW,)


def _closed(genome: Genome, table: ChannelMap, chosen: frozenset[Symbol]) -> frozenset[Symbol]:
    """Returns the channels and all that a norm, or a constraint of equally wide groups, connects with them."""
    values = [{entry.symbol for entry in table.entries[path]} for path, _ in grouped(expand(genome))]
    together = [*map(frozenset, table.coupled), *map(frozenset, values)]
    while touched := [found for found in together if found & chosen and not found <= chosen]:
        chosen = chosen.union(*touched)
    return chosen
