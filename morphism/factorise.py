"""Morphism that cuts one layer into two."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from genomes import Expansion, Genome
from genomes.operations import Conv, Linear, Operation
from morphism.edit import EXACT, Edit, Modes, Site
from morphism.errors import Inapplicable
from morphism.names import new_id
from morphism.planning import expanded, finish, in_front, node_of, nodes, parameter_shapes
from morphism.tensors import Factored, Source, TensorExpr


@dataclass(frozen=True)
class Factorise:
    """Turns a dense convolution into one without bias and a 1 x 1 convolution, whose product it was; or a linear map.

    Between them stand R = min(O, I k²) channels, the full rank, so that the new weights are at most as many as the old.
    Window, stride, padding and dilation stay with the first, the bias with the second.

    Preserves: exactly, in eval and in train mode; worst conditioned of all, by a singular value decomposition.
    Source: Wei et al. 2016, Network Morphism, section 3.2 (decomposition); singular vectors instead of iteration: ours.
    """

    name: str = "deepen.factorise"
    modes: Modes = EXACT
    weight: float = 0.25

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the dense convolutions and the linear maps that have one full rank in every call."""
        expansion = expanded(genome)
        return [
            {"module": module, "node": node}
            for module, node, operation in nodes(genome)
            if _rank(expansion, module, node, operation)
        ]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit; the second layer keeps the node's id.

        Raises:
            Inapplicable: the node is neither a dense convolution nor a linear map, or its rank differs between calls.
        """
        module, node, operation = node_of(genome, site)
        expansion, name = expanded(genome), str(site["module"])
        rank = _rank(expansion, name, node, operation)
        if not rank:
            raise Inapplicable(
                f"{self.name} needs a dense layer of one rank in every call, got {operation.kind} {node}"
            )
        first, second = _factors(operation, rank)
        added = new_id(module, self.name, [node], first)
        child = genome.changed({name: in_front(module, node, added, first, second)})
        tensors: dict[str, TensorExpr] = {}
        for path in expansion.instances[name, node]:
            whole = Source(f"{path}.weight")
            tensors[f"{path.removesuffix(node)}{added}.weight"] = Factored(whole, "first")
            tensors[whole.name] = Factored(whole, "second")
        return finish(self.name, {**site, "channels": rank}, genome, child, tensors, rng)


def _factors(operation: Operation, rank: int) -> tuple[Operation, Operation]:
    if isinstance(operation, Conv):
        return replace(operation, out_channels=rank, bias=False), Conv(operation.out_channels, 1, bias=operation.bias)
    return Linear(rank, bias=False), operation


def _rank(expansion: Expansion, module: str, node: str, operation: Operation) -> int:
    """Returns the full rank of a layer's weights; 0 if it is not dense or the rank differs between calls."""
    if not isinstance(operation, (Conv, Linear)) or (isinstance(operation, Conv) and operation.groups > 1):
        return 0
    weights = parameter_shapes(expansion, module, node, "weight").values()
    ranks = {min(shape[0], math.prod(shape[1:])) for shape in weights}
    return ranks.pop() if len(ranks) == 1 else 0
