"""Morphism that adds a norm."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from genomes import Expansion, Genome, Module
from genomes.operations import (
    GELU,
    BatchNorm,
    Blend,
    Conv,
    Hardswish,
    Linear,
    Operation,
    PReLU,
    ReLU,
    ReLU6,
    SiLU,
)
from morphism.edit import Edit, Modes, Site
from morphism.errors import Inapplicable
from morphism.names import new_id
from morphism.planning import behind, channel_count, expanded, finish, node_of, nodes, readers, shapes
from morphism.tensors import Measured, Statistic, TensorExpr

ACTIVATIONS = (ReLU, ReLU6, GELU, SiLU, Hardswish, PReLU, Blend)
STATISTICS: dict[str, Statistic] = {
    "weight": "deviation",
    "bias": "mean",
    "running_mean": "mean",
    "running_var": "variance",
}


@dataclass(frozen=True)
class IdentityNorm:
    """Adds a batch norm that gives back what it takes away: γ = √(σ² + ε), β = μ.

    μ and σ² are measured on a batch when the edit is realised; without one they are 0 and 1.

    Preserves: exactly, in eval mode only. In train mode the statistics are those of each batch; as they are close to
        the measured ones, the loss hardly moves.
    Source: Chen et al. 2016, Net2Net, section 2.4; Cai et al. 2018, Path-Level EAS (their code).
    """

    name: str = "deepen.norm"
    modes: Modes = frozenset({"eval"})
    weight: float = 0.25

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the convolutions and linear maps that only activations read, of one width in every call.

        What joins a sum or a gate is left out: it may be zero, and a norm would blow up its gradients.
        """
        expansion = expanded(genome)
        return [
            {"module": module, "node": node}
            for module, node, operation in nodes(genome)
            if isinstance(operation, (Conv, Linear))
            and _bare(genome[module], node)
            and channel_count(expansion, module, node)
        ]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the node is no layer, its width differs between calls, or others than activations read it.
        """
        module, node, operation = node_of(genome, site)
        expansion, name = expanded(genome), str(site["module"])
        if not isinstance(operation, (Conv, Linear)) or not _bare(module, node):
            raise Inapplicable(f"{self.name} needs a layer that only activations read, got {operation.kind} {node}")
        if not channel_count(expansion, name, node):
            raise Inapplicable(f"{self.name} needs a value of one width, got {shapes(expansion, name, node)}")
        norm = new_id(module, self.name, [node], BatchNorm())
        child = genome.changed({name: behind(module, node, {norm: BatchNorm()}, [(node, norm)])})
        return finish(self.name, site, genome, child, _measured(expanded(child), name, norm), rng, self.modes)


def _bare(module: Module, node: str) -> bool:
    kinds: set[type[Operation]] = {type(module.operations[edge.target]) for edge in readers(module, node)}
    return bool(kinds) and kinds <= set(ACTIVATIONS)


def _measured(expansion: Expansion, module: str, norm: str) -> dict[str, TensorExpr]:
    return {
        f"{path}.{parameter}": Measured(path, statistic, expansion.shape(path)[0])
        for path in expansion.instances[module, norm]
        for parameter, statistic in STATISTICS.items()
    }
