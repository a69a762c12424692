"""Turns a flat graph back into a genome of one module, to run and compare it; and changes genomes at random."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from genomes import Edge, Expansion, Genome, Module
from genomes.operations import Add, Call, Conv, Flatten, GlobalPool, Input, Mean, Mul, Operation, Output, ReLU


def flattened(expansion: Expansion) -> tuple[Genome, dict[str, str]]:
    """Returns the genome, and its tensors' names by those of the expansion."""
    ids = {path: f"n{number}" for number, path in enumerate(expansion.primitives)}
    nodes: dict[str, Operation] = {ids[p.path]: p.operation for p in expansion.primitives.values()}
    edges = [
        (ids[source], ids[p.path], port) for p in expansion.primitives.values() for port, source in enumerate(p.inputs)
    ]
    module = Module.of({**nodes, "y": Output()}, [*edges, (ids[expansion.output], "y", 0)])
    names = {
        name: f"{ids[p.path]}.{name.rpartition('.')[2]}"
        for p in expansion.primitives.values()
        for name in p.tensor_shapes()
    }
    return Genome.of({"net": module}), names


def renamed(genome: Genome, rng: random.Random) -> Genome:
    """Returns the genome with other names everywhere, and the inputs of sums, means and products in another order."""
    modules = {
        name: f"m{number}"
        for number, name in enumerate(rng.sample([n for n, _ in genome.modules], k=len(genome.modules)))
    }
    made = {modules[name]: _renamed(module, modules, rng) for name, module in genome.modules}
    return Genome.of(made, modules[genome.root])


def _renamed(module: Module, modules: dict[str, str], rng: random.Random) -> Module:
    ids = dict(
        zip(module.operations, rng.sample([f"v{n}" for n in range(len(module.nodes))], len(module.nodes)), strict=True)
    )
    nodes = {
        ids[node]: Call(modules[op.module]) if isinstance(op, Call) else op for node, op in module.operations.items()
    }
    edges = []
    for node, sources in module.sources.items():
        ports = list(range(len(sources)))
        if isinstance(module.operations[node], (Add, Mean, Mul)):
            rng.shuffle(ports)
        edges += [(ids[source], ids[node], port) for source, port in zip(sources, ports, strict=True)]
    return Module.of(nodes, edges)


def chain(*operations: Operation, shape: tuple[int, ...] = (2, 4, 4)) -> Genome:
    """Returns a genome of operations one behind the other."""
    names = ["x", *(f"n{number}" for number in range(len(operations))), "y"]
    nodes = dict(zip(names, [Input(0, shape), *operations, Output()], strict=True))
    return Genome.of({"net": Module.of(nodes, list(pairwise(names)))})


def changes(genome: Genome, rng: random.Random) -> Iterator[Genome]:
    """Yields genomes that differ from one in a node; not all of them are valid."""
    for name, module in genome.modules:
        node, operation = rng.choice(module.nodes)
        wider = {"out_channels": 5} if isinstance(operation, Conv) else {}
        behind = [Edge("new", edge.target, edge.port) for edge in module.edges if edge.source == node]
        old = [edge for edge in module.edges if edge.source == node]
        moved = rng.choice(module.edges)
        for changed in (
            module.changed({node: replace(operation, **wider)}),
            module.changed({node: Flatten()}),
            module.changed({"new": GlobalPool()}, [(node, "new"), *behind], old),
            module.changed({}, [moved._replace(source=rng.choice(module.nodes)[0])], [moved]),
            module.changed({node: None}, remove=[edge for edge in module.edges if node in edge[:2]]),
        ):
            yield genome.changed({name: changed})
    calls = [(name, n, op) for name, module in genome.modules for n, op in module.nodes if isinstance(op, Call)]
    for name, node, call in calls[:1]:
        own = {name: genome[name].changed({node: Call("own")}), "own": genome[call.module]}
        yield genome.changed(own).reachable()
        yield genome.changed({call.module: genome[call.module].changed({node: ReLU()})})


def afresh(genome: Genome) -> Genome:
    """Returns an equal genome of which nothing is known yet."""
    return Genome.of({name: Module(module.nodes, module.edges) for name, module in genome.modules}, genome.root)
