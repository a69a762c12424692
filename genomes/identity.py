"""Identity: the canonical graph and the fingerprint, which tell what a genome computes whatever it is called."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import lru_cache

import networkx as nx

from genomes.expansion import Expansion, Primitive, expand
from genomes.genome import Genome
from genomes.operations import Add, Dropout, Identity, Input, Mean, Mul, Operation

ROUNDS = 8  # of Weisfeiler-Lehman refinement; what they leave undecided, `equivalent` decides
COMMUTATIVE = (Add, Mean, Mul)

Table = dict[str, Primitive]


@lru_cache(maxsize=4096)
def canonical(genome: Genome) -> Expansion:
    """Returns the expansion reduced to what it computes; the paths of nodes with tensors stay as they are.

    Dead nodes are dropped, identities contracted, nested sums flattened, the inputs of commutative operations sorted, and
    twins (parameter-free deterministic operations on the same inputs) merged.

    Raises:
        InvalidGenome: the genome does not expand.
    """
    expansion = expand(genome)
    table: Table = {}
    renamed: dict[str, str] = {}
    twins: dict[tuple[Operation, tuple[str, ...]], str] = {}
    for path, primitive in expansion.primitives.items():
        inputs = tuple(renamed[source] for source in primitive.inputs)
        if isinstance(primitive.operation, Identity):
            renamed[path] = inputs[0]
            continue
        primitive = _ordered(replace(primitive, inputs=inputs), table)
        if isinstance(primitive.operation, Dropout) or primitive.tensor_shapes():
            renamed[path] = path
        else:
            renamed[path] = twins.setdefault((primitive.operation, primitive.inputs), path)
        if renamed[path] == path:
            table[path] = primitive
    return _pruned(table, renamed[expansion.output], expansion)


def _ordered(primitive: Primitive, table: Table) -> Primitive:
    """Flattens sums of sums and sorts the inputs of commutative operations."""
    inputs: list[str] = []
    for source in primitive.inputs:
        inner = table[source]
        nested = (
            isinstance(primitive.operation, Add)
            and not isinstance(primitive.operation, Mean)
            and (inner.operation == primitive.operation)
        )
        inputs.extend(inner.inputs if nested else (source,))
    if isinstance(primitive.operation, COMMUTATIVE):
        inputs.sort()
    shapes = tuple(table[source].shape for source in inputs)
    return replace(primitive, inputs=tuple(inputs), in_shapes=shapes)


def _pruned(table: Table, output: str, expansion: Expansion) -> Expansion:
    live, queue = {output}, [output]
    while queue:
        for source in table[queue.pop()].inputs:
            if source not in live:
                live.add(source)
                queue.append(source)
    kept = {path: primitive for path, primitive in table.items() if path in live}
    return Expansion(kept, output, {path: path for path in kept}, expansion.instances)


@lru_cache(maxsize=16384)
def fingerprint(genome: Genome) -> str:
    """Returns a hash of what a genome computes, blind to names, modules and the order of sums.

    Directed Weisfeiler-Lehman on the canonical graph: equal for equal functions; where it is equal, `equivalent` decides.
    Source: Shervashidze et al. 2011, Weisfeiler-Lehman graph kernels, with ports on the edges.

    Raises:
        InvalidGenome: the genome does not expand.
    """
    graph = canonical(genome)
    colours = {path: _hash(_label(p, path == graph.output)) for path, p in graph.primitives.items()}
    readers: dict[str, list[tuple[str, int]]] = {path: [] for path in colours}
    for path, primitive in graph.primitives.items():
        for port, source in enumerate(primitive.inputs):
            readers[source].append((path, 0 if isinstance(primitive.operation, COMMUTATIVE) else port))
    for _ in range(min(ROUNDS, len(colours))):
        colours = {path: _refined(path, graph.primitives, readers, colours) for path in colours}
    return _hash(sorted(colours.values()))


def _refined(
    path: str,
    table: Mapping[str, Primitive],
    readers: Mapping[str, Sequence[tuple[str, int]]],
    colours: Mapping[str, str],
) -> str:
    primitive = table[path]
    above = [colours[source] for source in primitive.inputs]
    if isinstance(primitive.operation, COMMUTATIVE):
        above.sort()
    below = sorted((colours[reader], port) for reader, port in readers[path])
    return _hash([colours[path], above, below])


def equivalent(first: Genome, second: Genome) -> bool:
    """Says whether two genomes compute the same: their canonical graphs are isomorphic, ports respected.

    Raises:
        InvalidGenome: one of them does not expand.
    """
    if fingerprint(first) != fingerprint(second):
        return False
    graphs = [_graph(canonical(genome)) for genome in (first, second)]
    return bool(
        nx.is_isomorphic(
            *graphs,
            node_match=nx.algorithms.isomorphism.categorical_node_match("label", ""),
            edge_match=nx.algorithms.isomorphism.categorical_edge_match("ports", ()),
        )
    )


def _graph(expansion: Expansion) -> nx.DiGraph[str]:
    graph: nx.DiGraph[str] = nx.DiGraph()
    for path, primitive in expansion.primitives.items():
        graph.add_node(path, label=json.dumps(_label(primitive, path == expansion.output)))
        free = isinstance(primitive.operation, COMMUTATIVE)
        for source, times in Counter(primitive.inputs).items():
            ports = [port for port, path_in in enumerate(primitive.inputs) if path_in == source]
            graph.add_edge(source, path, ports=times if free else tuple(ports))
    return graph


def _label(primitive: Primitive, is_output: bool) -> list[object]:
    op = primitive.operation
    values = [list(op.shape)] if isinstance(op, Input) else [getattr(op, field.name) for field in fields(op)]
    return [op.kind, values, list(primitive.shape), is_output]


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]
