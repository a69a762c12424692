"""Morphisms that write an operation as a more general one: grouped as dense, pool as convolution, stride as pool."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from genomes import Genome
from genomes.operations import AvgPool, Conv, MaxPool, Operation
from morphism.edit import EXACT, Edit, Modes, Site
from morphism.errors import Inapplicable
from morphism.names import new_id
from morphism.planning import altered, behind, channel_count, expanded, finish, node_of, nodes, parameter_shapes
from morphism.tensors import Constant, Dense, Source

LARGEST_DENSE = 2**20  # numbers of one weight: a dense layer has as many times more as there were groups


@dataclass(frozen=True)
class Densify:
    """Turns a grouped or depthwise convolution into a dense one, whose weight is zero across the groups.

    Preserves: exactly, in eval and in train mode.
    Source: block-diagonal form of a grouped convolution (Xie et al. 2017, ResNeXt, section 3.3, read backwards).
    """

    name: str = "conv.dense"
    modes: Modes = EXACT
    weight: float = 0.5

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the convolutions with groups whose dense weight has at most 2²⁰ numbers."""
        return [
            {"module": module, "node": node}
            for module, node, operation in nodes(genome)
            if _may_be_dense(genome, module, node, operation)
        ]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the node is no convolution with groups, or the dense weight would be too large.
        """
        _, node, operation = node_of(genome, site)
        if not isinstance(operation, Conv) or not _may_be_dense(genome, str(site["module"]), node, operation):
            raise Inapplicable(f"{self.name} needs groups and at most {LARGEST_DENSE:,} numbers, got {operation}")
        dense, groups = replace(operation, groups=1), operation.groups
        return altered(self.name, site, genome, dense, rng, lambda name, _: Dense(Source(name), groups))


@dataclass(frozen=True)
class PoolToDepthwise:
    """Turns an average pool into a depthwise convolution whose weights are all 1 / k².

    Preserves: exactly, in eval and in train mode; padding counts as zeros in both, a partial last window does not.
    Source: ours.
    """

    name: str = "pool.depthwise"
    modes: Modes = EXACT
    weight: float = 0.5

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the average pools without a partial last window that have one width in every call."""
        expansion = expanded(genome)
        return [
            {"module": module, "node": node}
            for module, node, operation in nodes(genome)
            if _is_mean(operation) and channel_count(expansion, module, node)
        ]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the node is no average pool of whole windows, or its width differs between calls.
        """
        _, node, pool = node_of(genome, site)
        width = channel_count(expanded(genome), str(site["module"]), node)
        if not isinstance(pool, AvgPool) or not _is_mean(pool) or not width:
            raise Inapplicable(f"{self.name} needs an average pool of whole windows and one width, got {pool}")
        conv = Conv(width, pool.kernel, pool.stride, pool.padding, groups=width)
        share = 1 / pool.kernel**2
        return altered(self.name, site, genome, conv, rng, lambda _, shape: Constant(shape, share))


@dataclass(frozen=True)
class Subsample:
    """Turns a convolution of stride s into one of stride 1 and a pool that keeps every s-th position.

    No number is new, but the resolution has become an operation of its own, which other edits may change.

    Preserves: exactly, in eval and in train mode.
    Source: ours.
    """

    name: str = "stride.subsample"
    modes: Modes = EXACT
    weight: float = 0.25

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the convolutions with a stride."""
        return [
            {"module": module, "node": node}
            for module, node, operation in nodes(genome)
            if isinstance(operation, Conv) and operation.stride > 1
        ]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the node is no convolution with a stride.
        """
        module, node, conv = node_of(genome, site)
        if not isinstance(conv, Conv) or conv.stride == 1:
            raise Inapplicable(f"{self.name} needs a convolution with a stride, got {conv}")
        name, pool = str(site["module"]), MaxPool(1, conv.stride)
        added = new_id(module, self.name, [node], pool)
        # ⌊(L - 1) / s⌋ + 1 positions either way, with L those of stride 1
        grown = behind(module.changed({node: replace(conv, stride=1)}), node, {added: pool}, [(node, added)])
        return finish(self.name, site, genome, genome.changed({name: grown}), {}, rng)


def _may_be_dense(genome: Genome, module: str, node: str, operation: Operation) -> bool:
    if not isinstance(operation, Conv) or operation.groups == 1:
        return False
    shapes = parameter_shapes(expanded(genome), module, node, "weight").values()
    return max(map(math.prod, shapes)) * operation.groups <= LARGEST_DENSE


def _is_mean(operation: Operation) -> bool:
    return isinstance(operation, AvgPool) and not operation.ceil
