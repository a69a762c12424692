"""Disruption that puts another operation in an operation's place."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from genomes import Genome
from genomes.operations import AvgPool, Conv, MaxPool, Operation
from morphism import INEXACT, Edit, Inapplicable
from morphism.activation import BLENDABLE
from morphism.edit import Modes, Site
from morphism.normalise import ACTIVATIONS
from morphism.planning import finish, node_of, nodes


@dataclass(frozen=True)
class Change:
    """Puts one of several other operations in an operation's place; its tensors, if it has any, stay as they are.

    Attributes:
        others: returns what may stand in an operation's place; nothing if the rule does not concern it.
    """

    name: str
    others: Callable[[Operation], Sequence[Operation]]
    weight: float
    modes: Modes = INEXACT

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the nodes whose operation may be another one."""
        return [{"module": m, "node": n} for m, n, op in nodes(genome) if self.others(op)]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the rule does not concern the operation, or other branches need the extent as it is.
        """
        module, node, op = node_of(genome, site)
        if not (others := self.others(op)):
            raise Inapplicable(f"{self.name} needs an operation that may be another one, got {op.kind} {node}")
        child = genome.changed({str(site["module"]): module.changed({node: rng.choice(others)})})
        return finish(self.name, site, genome, child, {}, rng, INEXACT)


def other_activations(op: Operation) -> list[Operation]:
    """Returns the other activations."""
    return [kind() for kind in BLENDABLE if isinstance(op, ACTIVATIONS) and not isinstance(op, kind)]


def other_pools(op: Operation) -> list[Operation]:
    """Returns the mean for a maximum, and the maximum for a mean."""
    if not isinstance(op, MaxPool):
        return []
    return [(MaxPool if isinstance(op, AvgPool) else AvgPool)(op.kernel, op.stride, op.padding, op.ceil)]


def other_strides(op: Operation) -> list[Operation]:
    """Returns the convolution or pool with its stride doubled, or halved back to 1."""
    return [replace(op, stride=3 - op.stride)] if isinstance(op, (Conv, MaxPool)) and op.stride in (1, 2) else []
