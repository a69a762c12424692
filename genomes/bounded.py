"""Bounded: a genome that is changed within limits or not at all, for whoever tries many changes."""

from __future__ import annotations

from collections.abc import Mapping

from genomes.errors import InvalidGenome
from genomes.expansion import derived
from genomes.genome import Genome, Module
from genomes.rules import Limits, exceeded


class Bounded(Genome):
    """A genome that refuses changes which lead over limits, before anything more is made of them.

    It is asked of the expansion, most of which is the genome's own: `cost` counts as many parameters and MACs there as
    in the canonical graph, which has every tensor. Activations are not looked at; `check` has the last word.
    """

    def __init__(self, genome: Genome, limits: Limits) -> None:
        """Takes a genome, which may be over the limits itself, and the limits of what it is changed into."""
        super().__init__(genome.modules, genome.root)
        vars(self).update(digest=genome.digest, _limits=limits)

    def changed(self, modules: Mapping[str, Module | None]) -> Genome:
        """Returns a new genome, as `Genome.changed` does; it has no limits of its own.

        Raises:
            InvalidGenome: it does not expand, or is over the limits.
        """
        child = super().changed(modules)
        counts = [primitive.counts for primitive in derived(child, self).primitives.values()]
        parameters, macs, _ = map(sum, zip(*counts, strict=True))
        if over := exceeded(vars(self)["_limits"], {"parameters": parameters, "macs": macs}):
            raise InvalidGenome(*over)
        return child
