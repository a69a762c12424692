"""Disruptions: edits that do not keep the function, and say so; what still fits is inherited, the rest starts fresh.

They have the form of a morphism (`morphism.Morphism`), with no mode in which the function is preserved.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

from genomes import Genome, Module, expand
from genomes.operations import (
    GELU,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dropout,
    Identity,
    MaxPool,
    Mul,
    Operation,
    ReLU,
    Scale,
    Sigmoid,
    SiLU,
)
from morphism import INEXACT, Edit, Inapplicable, Morphism
from morphism.channels import Symbol, channels
from morphism.edit import Modes, Site
from morphism.planning import finish, node_of, nodes, readers, seed_of, shapes
from morphism.rewire import balanced, rewire
from morphism.tensors import Gather, Source

ACTIVATIONS: tuple[type[Operation], ...] = (ReLU, GELU, SiLU)
REMOVABLE = (Conv, BatchNorm, Scale, ReLU, GELU, SiLU, Sigmoid, Dropout, Identity, MaxPool, AvgPool)


@dataclass(frozen=True)
class Remove:
    """Takes out a node whose value has the shape of its input; what read it reads the input."""

    name: str = "remove"
    modes: Modes = INEXACT
    weight: float = 1.0

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the nodes that keep the shape in every call."""
        return [
            {"module": m, "node": n}
            for m, n, op in nodes(genome)
            if isinstance(op, REMOVABLE) and _keeps_shape(genome, m, n)
        ]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the node does not keep the shape.
        """
        module, node, op = node_of(genome, site)
        if not isinstance(op, REMOVABLE) or not _keeps_shape(genome, str(site["module"]), node):
            raise Inapplicable(f"{self.name} needs a node that keeps the shape of its one input, got {op.kind} {node}")
        source, old = module.sources[node][0], readers(module, node)
        moved = [(source, edge.target, edge.port) for edge in old]
        changed = module.changed({node: None}, moved, [*old, (source, node, 0)])
        return _finished(self.name, site, genome, changed, rng)


@dataclass(frozen=True)
class ChangeActivation:
    """Puts another activation in an activation's place."""

    name: str = "change.activation"
    modes: Modes = INEXACT
    weight: float = 1.0

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the activations."""
        return [{"module": m, "node": n} for m, n, op in nodes(genome) if isinstance(op, ACTIVATIONS)]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the node is no activation.
        """
        module, node, op = node_of(genome, site)
        others = [kind for kind in ACTIVATIONS if not isinstance(op, kind)]
        if len(others) == len(ACTIVATIONS):
            raise Inapplicable(f"{self.name} needs an activation, got {op.kind} {node}")
        return _finished(self.name, site, genome, module.changed({node: rng.choice(others)()}), rng)


@dataclass(frozen=True)
class ChangePool:
    """Swaps maximum and mean in a pool."""

    name: str = "change.pool"
    modes: Modes = INEXACT
    weight: float = 0.5

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the pools."""
        return [{"module": m, "node": n} for m, n, op in nodes(genome) if isinstance(op, MaxPool)]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the node is no pool.
        """
        module, node, op = node_of(genome, site)
        if not isinstance(op, MaxPool):
            raise Inapplicable(f"{self.name} needs a pool, got {op.kind} {node}")
        other = MaxPool if isinstance(op, AvgPool) else AvgPool
        return _finished(self.name, site, genome, module.changed({node: other(op.kernel, op.stride, op.padding)}), rng)


@dataclass(frozen=True)
class ChangeStride:
    """Doubles the stride of a convolution or pool, or halves it back to 1."""

    name: str = "change.stride"
    modes: Modes = INEXACT
    weight: float = 0.5

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the convolutions and pools of stride 1 or 2."""
        return [
            {"module": m, "node": n}
            for m, n, op in nodes(genome)
            if isinstance(op, (Conv, MaxPool)) and op.stride in (1, 2)
        ]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the node has no stride of 1 or 2, or other branches need the extent as it is.
        """
        module, node, op = node_of(genome, site)
        if not isinstance(op, (Conv, MaxPool)) or op.stride not in (1, 2):
            raise Inapplicable(f"{self.name} needs a convolution or pool of stride 1 or 2, got {op.kind} {node}")
        return _finished(self.name, site, genome, module.changed({node: replace(op, stride=3 - op.stride)}), rng)


@dataclass(frozen=True)
class ShrinkKernel:
    """Takes the outer ring off a convolution's kernel; the inner taps are inherited."""

    name: str = "shrink.kernel"
    modes: Modes = INEXACT
    weight: float = 0.5

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the convolutions whose padding allows it."""
        return [{"module": m, "node": n} for m, n, op in nodes(genome) if isinstance(op, Conv) and _shrinkable(op)]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the node is no convolution of 3 or more with padding to match.
        """
        module, node, op = node_of(genome, site)
        if not isinstance(op, Conv) or not _shrinkable(op):
            raise Inapplicable(f"{self.name} needs a padded convolution of 3 or more, got {op.kind} {node}")
        smaller = replace(op, kernel=op.kernel - 2, padding=op.padding - op.dilation)
        name, inner = str(site["module"]), tuple(range(1, op.kernel - 1))
        weights = [f"{path}.weight" for path in expand(genome).instances[name, node]]
        tensors = {weight: Gather(Gather(Source(weight), 2, inner), 3, inner) for weight in weights}
        child = genome.changed({name: module.changed({node: smaller})})
        return finish(self.name, {**site, "kernel": smaller.kernel}, genome, child, tensors, rng, INEXACT)


@dataclass(frozen=True)
class Prune:
    """Removes a quarter of the channels that a convolution or linear map makes, and what reads them."""

    name: str = "prune.channels"
    modes: Modes = INEXACT
    weight: float = 1.0

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns one node for each set of channels that change together and are free to go."""
        sites = {tuple(_free(genome, *key)): key for key in sorted(channels(genome).made, reverse=True)}
        return [{"module": m, "node": n} for free, (m, n) in sorted(sites.items(), key=itemgetter(1)) if len(free) > 1]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the channels are frozen, or only one would be left.
        """
        _, node, _ = node_of(genome, site)
        free = _free(genome, str(site["module"]), node)
        if len(free) < 2:
            raise Inapplicable(f"{self.name} needs two free channels or more at {node}, got {len(free)}")
        gone = rng.sample(free, max(1, len(free) // 4))
        child, tensors = rewire(genome, balanced(genome, dict.fromkeys(gone, ()), None), seed_of(rng))
        return finish(self.name, {**site, "channels": -len(gone)}, genome, child, tensors, rng, INEXACT)


@dataclass(frozen=True)
class Rewire:
    """Lets one input of a sum, a product or a concat come from another value of the same shape."""

    name: str = "rewire"
    modes: Modes = INEXACT
    weight: float = 1.0

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the inputs of sums, products and concats that have an alternative."""
        return [
            {"module": m, "node": n, "port": port}
            for m, n, op in nodes(genome)
            if isinstance(op, (Add, Mul, Concat))
            for port in range(len(genome[m].sources[n]))
            if _alternatives(genome, m, n, port)
        ]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: no other value has the shape, or the old one would be read by nobody.
        """
        module, node, op = node_of(genome, site)
        name, port = str(site["module"]), int(site.get("port", -1))
        if not isinstance(op, (Add, Mul, Concat)) or port not in range(len(module.sources[node])):
            raise Inapplicable(f"{self.name} needs a port of a sum, a product or a concat, got {dict(site)}")
        if not (others := _alternatives(genome, name, node, port)):
            raise Inapplicable(f"{self.name} needs another value of the shape that port {port} of {node} reads")
        old = module.sources[node][port]
        changed = module.changed({}, [(rng.choice(others), node, port)], [(old, node, port)])
        return _finished(self.name, site, genome, changed, rng)


def _finished(rule: str, site: Site, genome: Genome, module: Module, rng: random.Random) -> Edit:
    return finish(rule, site, genome, genome.changed({str(site["module"]): module}), {}, rng, INEXACT)


def _keeps_shape(genome: Genome, module: str, node: str) -> bool:
    expansion = expand(genome)
    source = genome[module].sources[node][0]
    return shapes(expansion, module, node) == shapes(expansion, module, source)


def _free(genome: Genome, module: str, node: str) -> list[Symbol]:
    """Returns the classes of the channels that a node makes, without those that are frozen."""
    table = channels(genome)
    return sorted(set(table.made.get((module, node), ())) - table.frozen - set().union(*table.coupled))


def _shrinkable(op: Conv) -> bool:
    return op.kernel >= 3 and op.padding >= op.dilation


def _alternatives(genome: Genome, module: str, node: str, port: int) -> list[str]:
    """Returns the nodes that could feed this port instead, without a cycle and without a node left unread."""
    content, expansion = genome[module], expand(genome)
    old = content.sources[node][port]
    if len(readers(content, old)) < 2:
        return []
    wanted, later = shapes(expansion, module, old), content.order[content.order.index(node) :]
    return [
        other
        for other, _ in content.nodes
        if other not in (*later, old) and other != content.output and shapes(expansion, module, other) == wanted
    ]


DISRUPTIONS: tuple[Morphism, ...] = (
    Remove(),
    ChangeActivation(),
    ChangePool(),
    ChangeStride(),
    ShrinkKernel(),
    Prune(),
    Rewire(),
)
