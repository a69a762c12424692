"""Disruptions that remove a quarter of the channels of a layer, and what reads them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

from genomes import Genome
from morphism import INEXACT, Edit, Inapplicable
from morphism.channels import Symbol, channels
from morphism.edit import Modes, Site
from morphism.planning import finish, node_of, seed_of
from morphism.ranking import rankable, ranked
from morphism.rewire import balanced, rewire


@dataclass(frozen=True)
class Prune:
    """Removes a quarter of the channels that a convolution or linear map makes, drawn at random."""

    name: str = "prune.channels"
    modes: Modes = INEXACT
    weight: float = 0.5

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns one node for each set of channels that change together and are free to go."""
        sites = {tuple(_free(genome, *key)): key for key in sorted(channels(genome).made, reverse=True)}
        return [{"module": m, "node": n} for free, (m, n) in sorted(sites.items(), key=itemgetter(1)) if len(free) > 1]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the channels are frozen, or only one would be left.
        """
        _, node, _ = node_of(genome, site)
        free = _free(genome, str(site["module"]), node)
        if len(free) < 2:
            raise Inapplicable(f"{self.name} needs two free channels or more at {node}, got {len(free)}")
        gone = rng.sample(free, max(1, len(free) // 4))
        child, tensors = rewire(genome, balanced(genome, dict.fromkeys(gone, ()), None), seed_of(rng))
        return finish(self.name, {**site, "channels": -len(gone)}, genome, child, tensors, rng, INEXACT)


@dataclass(frozen=True)
class PruneGamma:
    """Removes the quarter of a layer's channels whose batch norm has the smallest weights γ, as they turn out to be.

    Source: Liu et al. 2017, Learning Efficient Convolutional Networks through Network Slimming, section 3.
    """

    name: str = "prune.gamma"
    modes: Modes = INEXACT
    weight: float = 1.0

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns one node for each set of channels that a batch norm reads and that are free to go."""
        made = channels(genome).made
        nodes = {made[key]: key for key in sorted(made, reverse=True)}
        found = sorted(nodes[symbols] for symbols in rankable(genome) if symbols in nodes and len(symbols) > 1)
        return [{"module": module, "node": node} for module, node in found]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: no batch norm reads exactly the channels that the node makes, some of them are fixed, or there
                is only one.
        """
        _, node, _ = node_of(genome, site)
        made = channels(genome).made.get((str(site["module"]), node), ())
        count = max(1, len(made) // 4)
        child, tensors = ranked(genome, made, len(made) - count)
        return finish(self.name, {**site, "channels": -count}, genome, child, tensors, rng, INEXACT)


def _free(genome: Genome, module: str, node: str) -> list[Symbol]:
    """Returns the classes of the channels that a node makes, without those that are frozen."""
    table = channels(genome)
    return sorted(set(table.made.get((module, node), ())) - table.frozen - set().union(*table.coupled))
