"""Morphisms that change the window of a convolution."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from genomes import Genome
from genomes.operations import Conv, Operation
from genomes.operations.mixing import MOST_PADDING
from morphism.edit import EXACT, Edit, Modes, Site
from morphism.errors import Inapplicable
from morphism.planning import altered, expanded, node_of, nodes
from morphism.tensors import Pad, Source, Spread

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
        _, node, operation = node_of(genome, site)
        if not isinstance(operation, Conv) or not _may_grow(genome, str(site["module"]), node, operation):
            raise Inapplicable(f"{self.name} needs a convolution with an odd kernel that has room, got {operation}")
        padding = operation.padding + operation.dilation
        grown = replace(operation, kernel=operation.kernel + 2, padding=padding)
        said = {**site, "kernel": grown.kernel}
        return altered(self.name, said, genome, grown, rng, lambda name, _: Pad(Source(name), 1))


@dataclass(frozen=True)
class Undilate:
    """Fills the gaps of a dilated kernel with zeros that can learn: kernel k becomes d (k - 1) + 1, dilation 1.

    Preserves: exactly, in eval and in train mode.
    Source: Wei et al. 2016, Network Morphism, section 3.4 (a kernel is a larger one with zeros); dilation: ours.
    """

    name: str = "kernel.undilate"
    modes: Modes = EXACT
    weight: float = 0.5

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the dilated convolutions whose window is at most 7."""
        return [
            {"module": module, "node": node}
            for module, node, operation in nodes(genome)
            if isinstance(operation, Conv) and _has_gaps(operation)
        ]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the node is no dilated convolution, or its window would be larger than 7.
        """
        _, _, operation = node_of(genome, site)
        if not isinstance(operation, Conv) or not _has_gaps(operation):
            raise Inapplicable(
                f"{self.name} needs a dilated convolution with a window up to {LARGEST}, got {operation}"
            )
        step = operation.dilation
        filled = replace(operation, kernel=_window(operation), dilation=1)
        said = {**site, "kernel": filled.kernel}
        return altered(self.name, said, genome, filled, rng, lambda name, _: Spread(Source(name), step))


def _window(operation: Conv) -> int:
    return operation.dilation * (operation.kernel - 1) + 1


def _has_gaps(operation: Conv) -> bool:
    return operation.dilation > 1 and operation.kernel > 1 and _window(operation) <= LARGEST


def _may_grow(genome: Genome, module: str, node: str, operation: Operation) -> bool:
    if not isinstance(operation, Conv) or operation.kernel % 2 == 0 or operation.kernel + 2 > LARGEST:
        return False
    if operation.padding + operation.dilation > MOST_PADDING:
        return False
    reach = operation.dilation * (operation.kernel + 1) // 2
    expansion = expanded(genome)
    inputs = [expansion.primitives[path].in_shapes[0] for path in expansion.instances[module, node]]
    return all(min(shape[1:]) > reach for shape in inputs)
