"""Morphism that gives the head a sense of place."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from genomes import Expansion, Genome, Module
from genomes.operations import AvgPool, Concat, Flatten, GlobalPool, Linear, MaxPool, Operation
from morphism.edit import EXACT, Edit, Modes, Site
from morphism.errors import Inapplicable
from morphism.names import new_id
from morphism.planning import expanded, finish, node_of, nodes, shapes
from morphism.tensors import Gather, Source, TensorExpr

LARGEST = 31  # kernel of a pool
GRIDS = ((MaxPool, 1), (AvgPool, 2), (MaxPool, 2), (AvgPool, 3), (MaxPool, 3))  # with so many cells each way


@dataclass(frozen=True)
class Pyramid:
    """Lets a linear map behind a global pool also read the image on a coarse grid, through columns that are zero.

    Preserves: exactly, in eval and in train mode.
    Source: He et al. 2014, Spatial pyramid pooling in deep convolutional networks, section 2.2; zero columns: ours.
    """

    name: str = "head.pyramid"
    modes: Modes = EXACT
    weight: float = 1.0

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the linear maps that read the flattened value of a global pool over images of one extent."""
        expansion = expanded(genome)
        return [
            {"module": name, "node": node}
            for name, node, _ in nodes(genome)
            if (pooled := _pooled(genome[name], node)) and _grids(_extent(expansion, name, pooled[0]))
        ]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit; the grid has at most 3 x 3 cells, of means or of maxima.

        Raises:
            Inapplicable: the node is no linear map behind a global pool over images of one extent.
        """
        module, node, _ = node_of(genome, site)
        name, expansion = str(site["module"]), expanded(genome)
        pooled = _pooled(module, node)
        if not pooled or not (grids := _grids(_extent(expansion, name, pooled[0]))):
            raise Inapplicable(f"{self.name} needs a linear map behind a global pool over images of one extent")
        image, flat = pooled
        operations: list[Operation] = [rng.choice(grids), Flatten(), Concat()]
        coarse, row, both = (new_id(module, self.name, [image, node], operation) for operation in operations)
        edges = [(image, coarse, 0), (coarse, row, 0), (flat, both, 0), (row, both, 1), (both, node, 0)]
        added = dict(zip((coarse, row, both), operations, strict=True))
        child = genome.changed({name: module.changed(added, edges, [(flat, node, 0)])})
        tensors: dict[str, TensorExpr] = {}
        for path, grown in zip(expansion.instances[name, node], shapes(expanded(child), name, both), strict=True):
            read, weight = expansion.primitives[path].in_shapes[0][0], f"{path}.weight"
            tensors[weight] = Gather(Source(weight), 1, (*range(read), *[-1] * (grown[0] - read)))
        return finish(self.name, site, genome, child, tensors, rng)


def _pooled(module: Module, node: str) -> tuple[str, str] | None:
    """Returns what is pooled and flattened for a linear map, and the flattened node; None where it reads no such."""
    if not isinstance(module.operations[node], Linear):
        return None
    (flat,) = module.sources[node]
    if not isinstance(module.operations[flat], Flatten):
        return None
    (pool,) = module.sources[flat]
    return (module.sources[pool][0], flat) if isinstance(module.operations[pool], GlobalPool) else None


def _grids(extent: int) -> Sequence[AvgPool | MaxPool]:
    """Returns the pools that leave just so many cells of an extent, more than one position each."""
    found = []
    for kind, grid in GRIDS:
        cell = -(-extent // grid)
        if 1 < cell <= LARGEST and -(-extent // cell) == grid:
            found.append(kind(cell, cell, ceil=True))
    return found


def _extent(expansion: Expansion, name: str, image: str) -> int:
    """Returns the larger extent of a node's value; 0 where that differs between calls."""
    extents = {max(shape[1:]) for shape in shapes(expansion, name, image)}
    return extents.pop() if len(extents) == 1 else 0
