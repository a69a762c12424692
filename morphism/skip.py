"""Morphisms that let a later value read an earlier one as well."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import eq
from typing import Any

from genomes import Expansion, Genome, Module
from genomes.operations import (
    Add,
    AvgPool,
    BatchNorm,
    Call,
    Concat,
    Conv,
    Gate,
    Input,
    Linear,
    MaxPool,
    Mean,
    Mul,
    Operation,
    Shape,
)
from morphism.edit import EXACT, Edit, Modes, Site
from morphism.errors import Inapplicable
from morphism.names import new_id
from morphism.normalise import ACTIVATIONS
from morphism.planning import behind, channel_count, constant, expanded, finish, node_of, shapes
from morphism.tensors import Gather, Source, TensorExpr

VALUES = (Input, *ACTIVATIONS, MaxPool, AvgPool, Add, Mean, Mul, Concat, Gate, Call)  # worth reading again
Values = tuple[Shape, ...]  # the shapes of one value, one for each call of its module
TARGETS = (BatchNorm, *ACTIVATIONS, Add, Mean, Gate, Call)  # what an addend may join


@dataclass(frozen=True)
class SkipAdd:
    """Adds a zero 1 x 1 convolution of an earlier value to a later one; averages first where extents differ.

    Preserves: bit for bit, in eval and in train mode. No norm follows the zero convolution before the sum.
    Source: Jin et al. 2019, Auto-Keras, section 3.2; zero convolution instead of noise: ours.
    """

    name: str = "skip.add"
    modes: Modes = EXACT
    weight: float = 0.75

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns pairs `source`, `node` of a module: images whose extents agree or have a whole ratio."""
        expansion = expanded(genome)
        return [
            {"module": name, "source": source, "node": target}
            for name in _modules(expansion)
            for source, target in _pairs(genome[name], expansion, name, _targets(genome[name], expansion, name), _ratio)
            if channel_count(expansion, name, target)
        ]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the source depends on the target, or extents or widths do not fit in every call.
        """
        module, node, _ = node_of(genome, site)
        _, source, _ = node_of(genome, site, "source")
        name, expansion = str(site["module"]), expanded(genome)
        width = channel_count(expansion, name, node)
        ratio = _ratio(shapes(expansion, name, source), shapes(expansion, name, node))
        if not width or not ratio or _depends(module, source, node):
            raise Inapplicable(f"{self.name} needs an earlier image of a fitting extent, got {dict(site)}")
        operations: list[Operation] = [AvgPool(ratio, ratio), Conv(width, 1), Add()][ratio == 1 :]
        chain = [new_id(module, self.name, [source, node], operation) for operation in operations]
        steps = list(zip([source, *chain[:-2]], chain[:-1], strict=True))
        last = [(node, chain[-1]), (chain[-2], chain[-1])]
        child = genome.changed({name: behind(module, node, dict(zip(chain, operations, strict=True)), [*steps, *last])})
        return finish(self.name, site, genome, child, constant(child, name, chain[-2], "weight"), rng)


@dataclass(frozen=True)
class SkipConcat:
    """Lets a dense convolution or linear map read an earlier value as well, through columns that are zero.

    Preserves: exactly, in eval and in train mode.
    Source: Elsken et al. 2017, NASH, section 3 (morphism type III).
    """

    name: str = "skip.concat"
    modes: Modes = EXACT
    weight: float = 0.75

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns pairs `source`, `node` (the consumer) of a module whose extents agree."""
        expansion = expanded(genome)
        return [
            {"module": name, "source": source, "node": consumer}
            for name in _modules(expansion)
            for source, consumer in _pairs(
                genome[name], expansion, name, _layers(genome[name], expansion, name), _joins
            )
            if genome[name].sources[consumer] != (source,)
        ]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the consumer is not dense, the source depends on it or is what it reads, or extents differ.
        """
        module, node, _ = node_of(genome, site)
        _, source, _ = node_of(genome, site, "source")
        name, expansion = str(site["module"]), expanded(genome)
        reads = _layers(module, expansion, name).get(node)
        fits = reads is not None and _joins(shapes(expansion, name, source), reads)
        if not fits or module.sources[node] == (source,) or _depends(module, source, node):
            raise Inapplicable(f"{self.name} needs a dense consumer and an earlier value that fits, got {dict(site)}")
        (read,) = module.sources[node]
        join = new_id(module, self.name, [source, node], Concat())
        grown = module.changed(
            {join: Concat()}, [(read, join, 0), (source, join, 1), (join, node, 0)], [(read, node, 0)]
        )
        tensors: dict[str, TensorExpr] = {}
        for path, added in zip(expansion.instances[name, node], shapes(expansion, name, source), strict=True):
            weight = f"{path}.weight"
            index = (*range(expansion.primitives[path].in_shapes[0][0]), *[-1] * added[0])
            tensors[weight] = Gather(Source(weight), 1, index)
        return finish(self.name, site, genome, genome.changed({name: grown}), tensors, rng)


@dataclass(frozen=True)
class SkipGate:
    """Puts a x + (1 - a) y in the place of a value x, with an earlier value y of its shape and a trained a, at first 1.

    Preserves: bit for bit, in eval and in train mode. The gradient of a is that of x - y, from the first step.
    Source: Elsken et al. 2017, NASH, section 3 (morphism type IV).
    """

    name: str = "skip.gate"
    modes: Modes = EXACT
    weight: float = 0.5

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns pairs `source` (y), `node` (x) of a module that have one shape in every call."""
        expansion = expanded(genome)
        return [
            {"module": name, "source": source, "node": target}
            for name in _modules(expansion)
            for source, target in _pairs(genome[name], expansion, name, _targets(genome[name], expansion, name), eq)
        ]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the source depends on the node, or they differ in shape in some call.
        """
        module, node, _ = node_of(genome, site)
        _, source, _ = node_of(genome, site, "source")
        name, expansion = str(site["module"]), expanded(genome)
        given, wanted = shapes(expansion, name, source), shapes(expansion, name, node)
        if given != wanted or _depends(module, source, node):
            raise Inapplicable(f"{self.name} needs an earlier value of the shape of {node}, {wanted}, got {given}")
        gate = new_id(module, self.name, [source, node], Gate())
        child = genome.changed({name: behind(module, node, {gate: Gate()}, [(node, gate), (source, gate)])})
        return finish(self.name, site, genome, child, constant(child, name, gate, "weight", 1.0), rng)


def _modules(expansion: Expansion) -> list[str]:
    return sorted({module for module, _ in expansion.instances})


def _targets(module: Module, expansion: Expansion, name: str) -> dict[str, Values]:
    """Returns the nodes that an addend may join, with the shapes of their values."""
    return {node: shapes(expansion, name, node) for node, op in module.nodes if isinstance(op, TARGETS)}


def _layers(module: Module, expansion: Expansion, name: str) -> dict[str, Values]:
    """Returns the dense layers, with the shapes of what they read."""
    dense = [n for n, op in module.nodes if isinstance(op, Linear) or (isinstance(op, Conv) and op.groups == 1)]
    return {node: shapes(expansion, name, module.sources[node][0]) for node in dense}


def _pairs(
    module: Module,
    expansion: Expansion,
    name: str,
    targets: Mapping[str, Values],
    fits: Callable[[Values, Values], Any],
) -> Iterator[tuple[str, str]]:
    """Yields pairs of an earlier value worth reading and a target that it fits and does not depend on."""
    below, order = _below(module), module.order
    worth = [(1 << number, node) for number, node in enumerate(order) if isinstance(module.operations[node], VALUES)]
    sources = [(bit, node, shapes(expansion, name, node)) for bit, node in worth]
    different = {given for _, _, given in sources}
    for number, target in enumerate(order):
        if target in targets:
            fitting = {given for given in different if fits(given, targets[target])}
            beyond = below[target] | 1 << number
            yield from [(source, target) for bit, source, given in sources if given in fitting and not beyond & bit]


def _below(module: Module) -> Mapping[str, int]:
    """Returns for each node the set of the nodes that depend on it, as bits at their places in the module's order."""
    found = dict.fromkeys(module.order, 0)
    for number, node in reversed(list(enumerate(module.order))):
        for source in module.sources[node]:
            found[source] |= found[node] | 1 << number
    return found


def _depends(module: Module, source: str, node: str) -> bool:
    """Says whether `source` is `node` or needs it."""
    return source == node or bool(_below(module)[node] >> module.order.index(source) & 1)


def _joins(source: Values, read: Values) -> bool:
    """Says whether a layer can read a value beside what it reads."""
    return all(a[1:] == b[1:] for a, b in zip(source, read, strict=True))


@lru_cache(maxsize=1024)
def _ratio(source: Values, target: Values) -> int:
    """Returns how many times larger the source's extents are, the same in every call; 0 if they do not fit."""
    ratios = {_whole_ratio(one, other) for one, other in zip(source, target, strict=True)}
    return ratios.pop() if len(ratios) == 1 else 0


def _whole_ratio(source: Shape, target: Shape) -> int:
    if len(source) != 3 or len(target) != 3:
        return 0
    ratio = source[1] // target[1]
    return ratio if source[1:] == tuple(ratio * extent for extent in target[1:]) and ratio <= 31 else 0
