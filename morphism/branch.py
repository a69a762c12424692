"""Morphism that turns a layer into two parallel ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from genomes import Expansion, Genome, Module
from genomes.operations import Add, BatchNorm, Conv, Linear
from morphism.edit import EXACT, Edit, Modes, Site
from morphism.errors import Inapplicable
from morphism.names import derived_seed, new_id
from morphism.planning import expanded, finish, node_of, nodes, numbered, readers, seed_of
from morphism.tensors import Part, Source, TensorExpr


@dataclass(frozen=True)
class Replicate:
    """Copies a convolution or linear map, with its norm, and adds the copies; each has a part of the last affine map.

    The parts, α and 1 - α of every number, are random, so that the copies get different gradients.

    Preserves: exactly, in eval and in train mode.
    Source: Cai et al. 2018, Path-Level EAS, section 3.1 (halves); unequal parts: ours.
    """

    name: str = "branch.replicate"
    modes: Modes = EXACT
    weight: float = 0.5

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the convolutions and linear maps."""
        return [{"module": m, "node": node} for m, node, op in nodes(genome) if isinstance(op, (Conv, Linear))]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the node is neither a convolution nor a linear map.
        """
        module, node, operation = node_of(genome, site)
        if not isinstance(operation, (Conv, Linear)):
            raise Inapplicable(f"{self.name} needs a convolution or linear map, got {operation.kind} {node}")
        name, chain = str(site["module"]), [node, *_norm(module, node)]
        copies = {old: new_id(module, self.name, [old], module.operations[old]) for old in chain}
        total = new_id(module, self.name, [node], Add())
        child = genome.changed({name: _doubled(module, chain, copies, total)})
        tensors = _shared(expanded(genome), name, chain, copies, seed_of(rng))
        return finish(self.name, site, genome, child, tensors, rng)


def _norm(module: Module, node: str) -> list[str]:
    """Returns the norm that is the only reader of a node, if so it is."""
    targets = [edge.target for edge in readers(module, node)]
    return targets if len(targets) == 1 and isinstance(module.operations[targets[0]], BatchNorm) else []


def _doubled(module: Module, chain: Sequence[str], copies: dict[str, str], total: str) -> Module:
    last, (read,) = chain[-1], module.sources[chain[0]]
    moved = [(total, edge.target, edge.port) for edge in readers(module, last)]
    steps = [(read, copies[chain[0]]), *((copies[a], copies[b]) for a, b in pairwise(chain))]
    added = {**{copies[old]: module.operations[old] for old in chain}, total: Add()}
    return module.changed(
        added, [*numbered([*steps, (last, total), (copies[last], total)]), *moved], readers(module, last)
    )


def _shared(
    expansion: Expansion, module: str, chain: Sequence[str], copies: dict[str, str], seed: int
) -> dict[str, TensorExpr]:
    tensors: dict[str, TensorExpr] = {}
    for node in chain:
        for path in expansion.instances[module, node]:
            for name in expansion.primitives[path].tensor_shapes():
                parameter = name.rpartition(".")[2]
                twin = f"{path.removesuffix(node)}{copies[node]}.{parameter}"
                if node == chain[-1] and not parameter.startswith("running"):
                    parts = (Part(Source(name), number, 2, derived_seed(seed, name)) for number in range(2))
                    tensors[name], tensors[twin] = parts
                else:
                    tensors[twin] = Source(name)
    return tensors
