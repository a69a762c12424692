"""Morphism that lets an activation turn into another one while it learns."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from genomes import Genome
from genomes.operations import GELU, Blend, ReLU, SiLU
from morphism.edit import EXACT, Edit, Modes, Site
from morphism.errors import Inapplicable
from morphism.planning import constant, finish, node_of, nodes

BLENDABLE = (ReLU, GELU, SiLU)


@dataclass(frozen=True)
class BlendActivation:
    """Turns an activation f into a f + (1 - a) g, with another activation g and a trained a that starts at 1.

    Preserves: bit for bit, in eval and in train mode. The gradient of a is that of f - g, from the first step.
    Source: Wei et al. 2016, Network Morphism, section 3.3 (parametric activations).
    """

    name: str = "act.blend"
    modes: Modes = EXACT
    weight: float = 0.5

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the activations that have not been blended yet."""
        return [{"module": m, "node": n} for m, n, op in nodes(genome) if isinstance(op, BLENDABLE)]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit; the other activation is drawn.

        Raises:
            Inapplicable: the node is no activation, or no plain one.
        """
        module, node, operation = node_of(genome, site)
        if not isinstance(operation, BLENDABLE):
            raise Inapplicable(f"{self.name} needs one of relu, gelu and silu, got {operation.kind} {node}")
        name, others = str(site["module"]), [kind.kind for kind in BLENDABLE if not isinstance(operation, kind)]
        blended = module.changed({node: Blend(operation.kind, rng.choice(others))})
        child = genome.changed({name: blended})
        return finish(self.name, site, genome, child, constant(child, name, node, "weight", 1.0), rng)
