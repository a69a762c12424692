"""Morphism that gives one call its own copy of a module."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from genomes import Genome
from genomes.operations import Call
from morphism.edit import EXACT, Edit, Modes, Site
from morphism.errors import Inapplicable
from morphism.names import short_hash
from morphism.planning import loadable, node_of, nodes

LONGEST_STEM = 39  # characters of a module's name that its copy keeps


def inline(genome: Genome, module: str, call: str) -> Edit:
    """Returns the edit after which a call has a module to itself, so that later edits change no other call.

    Weights belong to calls, not to modules: no tensor changes, nor does its name.

    Preserves: bit for bit, in eval and in train mode.

    Args:
        genome: what to change.
        module: the name of the module that calls.
        call: the id of the call in it.

    Raises:
        Inapplicable: there is no such call, or nobody else calls its module.
    """
    site = {"module": module, "node": call}
    _, _, operation = node_of(genome, site)
    if not isinstance(operation, Call) or _calls(genome)[operation.module] < 2:
        raise Inapplicable(f"inline needs the call of a module that others call too, got {operation.kind} {call}")
    ordinal = 0
    while (copy := _name(operation.module, module, call, ordinal)) in genome:
        ordinal += 1
    caller = genome[module].changed({call: replace(operation, module=copy)})
    child = genome.changed({module: caller, copy: genome[operation.module]})
    loadable(child)
    return Edit("inline", {**site, "copy": copy}, child, {}, EXACT)


@dataclass(frozen=True)
class Inline:
    """Gives one call its own copy of a module that others call too: see `inline`.

    Preserves: bit for bit, in eval and in train mode.
    """

    name: str = "inline"
    modes: Modes = EXACT
    weight: float = 0.25

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the calls of modules that are called more than once."""
        calls = _calls(genome)
        return [
            {"module": module, "node": node}
            for module, node, operation in nodes(genome)
            if isinstance(operation, Call) and calls[operation.module] > 1
        ]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:  # noqa: ARG002 - nothing is drawn
        """Returns the edit.

        Raises:
            Inapplicable: there is no such call, or nobody else calls its module.
        """
        return inline(genome, str(site.get("module")), str(site.get("node")))


def _calls(genome: Genome) -> Counter[str]:
    return Counter(operation.module for _, _, operation in nodes(genome) if isinstance(operation, Call))


def _name(called: str, module: str, call: str, ordinal: int) -> str:
    return f"{called[:LONGEST_STEM].rstrip('_')}_{short_hash('inline', module, call, ordinal)}"
