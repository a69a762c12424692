"""Disruptions of which value is read where."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from genomes import Genome, Module, expand
from genomes.operations import (
    GELU,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dropout,
    Gate,
    Identity,
    MaxPool,
    Mul,
    ReLU,
    Scale,
    Sigmoid,
    SiLU,
)
from morphism import INEXACT, Edit, Inapplicable
from morphism.edit import Modes, Site
from morphism.planning import finish, node_of, nodes, readers, shapes

REMOVABLE = (Conv, BatchNorm, Scale, ReLU, GELU, SiLU, Sigmoid, Dropout, Identity, MaxPool, AvgPool)
JOINING = (Add, Mul, Gate)  # what loses nothing of its shape with an input


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
        return _finished(self.name, site, genome, _bypassed(module, node, module.sources[node][0]), rng)


@dataclass(frozen=True)
class DropBranch:
    """Takes one input out of a sum, a mean, a product or a gate, with all that nothing else reads."""

    name: str = "branch.drop"
    modes: Modes = INEXACT
    weight: float = 0.5

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the inputs of sums, means, products and gates that can be spared."""
        return [
            {"module": m, "node": n, "port": port}
            for m, n, op in nodes(genome)
            if isinstance(op, JOINING)
            for port in range(len(genome[m].sources[n]))
            if _spared(genome, m, n, port)
        ]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the node joins nothing, it would lose its shape, or its module an input.
        """
        module, node, op = node_of(genome, site)
        name, port = str(site["module"]), site.get("port", -1)
        if not isinstance(op, JOINING) or not _spared(genome, name, node, port):
            raise Inapplicable(f"{self.name} needs an input of {op.kind} {node} that can be spared, got {dict(site)}")
        child = genome.changed({name: _dropped(module, node, port)}).reachable()
        return finish(self.name, site, genome, child, {}, rng, INEXACT)


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


def _bypassed(module: Module, node: str, source: str) -> Module:
    """Returns the module without a node; what read it reads `source`."""
    moved = [(source, edge.target, edge.port) for edge in readers(module, node)]
    return module.changed({node: None}, moved, [edge for edge in module.edges if node in edge[:2]])


def _spared(genome: Genome, name: str, node: str, port: int) -> bool:
    """Says whether a node can do without one input: it keeps its shape, and its module all inputs."""
    module, expansion, sources = genome[name], expand(genome), [*genome[name].sources[node]]
    if port not in range(len(sources)):
        return False
    del sources[port]
    if shapes(expansion, name, node) not in [shapes(expansion, name, source) for source in sources]:
        return False
    return _above(module, {**module.sources, node: tuple(sources)}).issuperset(module.inputs)


def _dropped(module: Module, node: str, port: int) -> Module:
    """Returns the module without one input of a node."""
    sources = [*module.sources[node]]
    del sources[port]
    if len(sources) == 1:
        return _live(_bypassed(module, node, sources[0]))
    edges = [(source, node, place) for place, source in enumerate(sources)]
    return _live(module.changed({}, edges, [edge for edge in module.edges if edge.target == node]))


def _live(module: Module) -> Module:
    """Returns the module without what does not lead to its output."""
    useful = _above(module, module.sources)
    gone = {node: None for node in module.operations if node not in useful}
    return module.changed(gone, remove=[edge for edge in module.edges if edge.target in gone])


def _above(module: Module, sources: Mapping[str, Sequence[str]]) -> set[str]:
    """Returns the nodes that the output of a module needs, itself among them, if so the nodes are fed."""
    needed, queue = {module.output}, [module.output]
    while queue:
        new = {*sources[queue.pop()]} - needed
        needed |= new
        queue.extend(new)
    return needed


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
