"""Morphism that enlarges the window of a convolution."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from genomes import Genome
from genomes.operations import Conv, Operation
from morphism.edit import EXACT, Edit, Modes, Site
from morphism.errors import Inapplicable
from morphism.planning import expanded, finish, node_of, nodes
from morphism.tensors import Pad, Source, TensorExpr

LARGEST = 7


@dataclass(frozen=True)
class Grow:
    """Enlarges an odd kernel by one ring of zeros, and the padding by the dilation, so that windows keep their centres.

    Preserves: exactly, in eval and in train mode.
    Source: Wei et al. 2016, Network Morphism, section 3.4 (kernel size morphing).
    """

    name: str = "kernel.grow"
    modes: Modes = EXACT
    weight: float = 0.75

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the convolutions that may grow: up to kernel 7, and where the new ring would see the image."""
        return [
            {"module": module, "node": node}
            for module, node, operation in nodes(genome)
            if _may_grow(genome, module, node, operation)
        ]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the node is no convolution with an odd kernel below 7, or the ring would see only padding.
        """
        module, node, operation = node_of(genome, site)
        name = str(site["module"])
        if not isinstance(operation, Conv) or not _may_grow(genome, name, node, operation):
            raise Inapplicable(f"{self.name} needs a convolution with an odd kernel that has room, got {operation}")
        padding = operation.padding + operation.dilation
        grown = replace(operation, kernel=operation.kernel + 2, padding=padding)
        child = genome.changed({name: module.changed({node: grown})})
        weights = [f"{path}.weight" for path in expanded(genome).instances[name, node]]
        tensors: dict[str, TensorExpr] = {weight: Pad(Source(weight), 1) for weight in weights}
        return finish(self.name, {**site, "kernel": grown.kernel}, genome, child, tensors, rng)


def _may_grow(genome: Genome, module: str, node: str, operation: Operation) -> bool:
    if not isinstance(operation, Conv) or operation.kernel % 2 == 0 or operation.kernel + 2 > LARGEST:
        return False
    reach = operation.dilation * (operation.kernel + 1) // 2
    expansion = expanded(genome)
    inputs = [expansion.primitives[path].in_shapes[0] for path in expansion.instances[module, node]]
    return all(min(shape[1:]) > reach for shape in inputs)
