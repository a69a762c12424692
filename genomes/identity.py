"""What a genome computes, whatever its nodes are called: canonical graph, fingerprint, exact comparison."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

import networkx as nx
from networkx.algorithms.isomorphism import DiGraphMatcher, categorical_edge_match, categorical_node_match

from genomes.expansion import Expansion, Primitive, expand
from genomes.genome import Genome
from genomes.operations import (
    Add,
    AvgPool,
    Dropout,
    Flatten,
    GlobalPool,
    Identity,
    MaxPool,
    Mean,
    Mul,
    Select,
    Slice,
)
from genomes.stored import Stored

MAX_TERMS = 64  # of a flattened sum; sums that read shared sums twice would double with each level
MAX_STEPS = 20_000  # of the exact comparison
COMMUTATIVE = frozenset({Add, Mean, Mul})
PERHAPS_IDENTITIES = frozenset({Identity, Dropout, MaxPool, AvgPool, Flatten, GlobalPool, Select, Slice, Mean})

Table = dict[str, Primitive]


@lru_cache(maxsize=1024)
def canonical(genome: Genome) -> Expansion:
    """Returns the expansion reduced to what it computes; the paths of nodes with tensors stay as they are.

    Dead nodes are dropped, identities contracted (by kind, or by their settings and shape), nested sums flattened up to
    64 terms, the inputs of commutative operations sorted, and twins (parameter-free deterministic operations on the
    same inputs) merged. The function is the same up to the rounding of sums taken in another order.

    Raises:
        InvalidGenome: the genome does not expand.
    """
    expansion = expand(genome)
    table: Table = {}
    renamed: dict[str, str] = {}  # what another path stands for
    twins: dict[tuple[tuple[str, str], tuple[str, ...]], str] = {}
    for path, written in expansion.primitives.items():
        inputs = tuple([renamed.get(source, source) for source in written.inputs]) if renamed else written.inputs
        if type(written.operation) in PERHAPS_IDENTITIES and _is_identity(written, inputs):
            renamed[path] = inputs[0]
            continue
        commutes = type(written.operation) in COMMUTATIVE
        primitive = written if inputs is written.inputs and not commutes else _ordered(written, inputs, table)
        if not primitive.tensor_shapes() and not isinstance(primitive.operation, Dropout):
            first = twins.setdefault((primitive.operation.text, primitive.inputs), path)
            if first != path:
                renamed[path] = first
                continue
        table[path] = primitive
    return _pruned(table, renamed, expansion)


def _is_identity(primitive: Primitive, inputs: tuple[str, ...]) -> bool:
    match primitive.operation:
        case Identity() | Dropout(rate=0.0) | MaxPool(kernel=1, stride=1):
            return True
        case Flatten() | GlobalPool() | Select() | Slice():
            return primitive.shape == primitive.in_shapes[0]
        case Mean():
            return len(set(inputs)) == 1
        case _:
            return False


def _ordered(primitive: Primitive, inputs: tuple[str, ...], table: Table) -> Primitive:
    """Returns a primitive with these inputs: sums of sums flattened, and sorted where the operation is commutative."""
    if type(primitive.operation) is Add:  # a mean is a kind of sum
        nested = [type(table[source].operation) is Add for source in inputs]
        flat = tuple(t for s, n in zip(inputs, nested, strict=True) for t in (table[s].inputs if n else (s,)))
        inputs = flat if len(flat) <= MAX_TERMS else inputs
    if _commutes(primitive):
        inputs = tuple(sorted(inputs))
    if inputs == primitive.inputs:
        return primitive  # as most are: the same object, with what is known of its tensors
    return primitive.reading(inputs, tuple(table[source].shape for source in inputs))


def _pruned(table: Table, renamed: Mapping[str, str], expansion: Expansion) -> Expansion:
    output = renamed.get(expansion.output, expansion.output)
    live = {output}
    for path in reversed(table):
        if path in live:
            live.update(table[path].inputs)
    if len(live) < len(table):
        table = {path: primitive for path, primitive in table.items() if path in live}
    values = expansion.values
    if len(table) < len(expansion.primitives):
        read = {node: renamed.get(path, path) for node, path in values.items()}
        values = {node: path for node, path in read.items() if path in live}
    return Expansion(table, output, values, expansion.instances, expansion.calls)


@lru_cache(maxsize=2048)
def fingerprint(genome: Genome) -> str:
    """Returns a hash of what a genome computes, blind to names, modules and the order of sums.

    Directed Weisfeiler-Lehman on the canonical graph, with ports on the edges: one sweep down the graph colours each
    node by the whole computation above it. Where two nodes compute the same, such as two layers that look alike, one
    sweep up colours each by all that reads it too. Equal graphs have equal fingerprints; where fingerprints are equal,
    `equivalent` decides. That of a stored genome may have been kept with it, and then it is not looked into.
    Source: Shervashidze et al. 2011, Weisfeiler-Lehman graph kernels, section 2; two sweeps in place of rounds: ours.

    Raises:
        InvalidGenome: the genome does not expand.
    """
    kept = genome.fingerprint if isinstance(genome, Stored) else ""
    return kept or _hash(*sorted(_colours(canonical(genome)).values())).hex()


def _colours(graph: Expansion) -> dict[str, bytes]:
    """Returns for each path a hash of its surroundings."""
    above: dict[str, bytes] = {}
    for path, primitive in graph.primitives.items():
        read = [above[source] for source in primitive.inputs]
        above[path] = _hash(primitive.label, *(sorted(read) if _commutes(primitive) else read))
    return above if len({*above.values()}) == len(above) else _told_apart(graph, above)


def _told_apart(graph: Expansion, above: Mapping[str, bytes]) -> dict[str, bytes]:
    """Returns for each path a hash of what is above it and of all that reads it."""
    readers: dict[str, list[bytes]] = {path: [] for path in graph.primitives}
    colours: dict[str, bytes] = {}
    for path, primitive in reversed([*graph.primitives.items()]):
        colours[path] = _hash(above[path], *sorted(readers[path]))
        for port, source in enumerate(primitive.inputs):
            readers[source].append(colours[path] + (0 if _commutes(primitive) else port).to_bytes(2, "big"))
    return colours


def _commutes(primitive: Primitive) -> bool:
    return type(primitive.operation) in COMMUTATIVE


def equivalent(first: Genome, second: Genome) -> bool:
    """Says whether two genomes compute the same: their canonical graphs are isomorphic, ports respected.

    A comparison of more than 20,000 steps, which only large and very symmetric graphs need, counts as different: that
    costs one training too many at most, whereas a false merge would lose an architecture.

    Raises:
        InvalidGenome: one of them does not expand.
    """
    if first == second:
        return True
    if fingerprint(first) != fingerprint(second):
        return False
    try:
        return _Comparison(*(_graph(canonical(genome)) for genome in (first, second))).is_isomorphic()
    except TimeoutError:
        return False


class _Comparison(DiGraphMatcher):
    """A comparison that respects colours and ports, and gives up after so many steps."""

    def __init__(self, first: nx.DiGraph[str], second: nx.DiGraph[str]) -> None:
        colours, ports = categorical_node_match("colour", ""), categorical_edge_match("ports", ())
        super().__init__(first, second, colours, ports)
        self.steps = 0

    def syntactic_feasibility(self, first: str, second: str) -> bool:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise TimeoutError
        return bool(super().syntactic_feasibility(first, second))  # type: ignore[no-untyped-call]  # so are the stubs


def _graph(expansion: Expansion) -> nx.DiGraph[str]:
    """Returns the graph with a colour at each node, and at each edge its ports (how many, where they commute)."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    for path, colour in _colours(expansion).items():
        graph.add_node(path, colour=colour)
    for path, primitive in expansion.primitives.items():
        for source, times in Counter(primitive.inputs).items():
            ports = tuple(port for port, read in enumerate(primitive.inputs) if read == source)
            graph.add_edge(source, path, ports=times if _commutes(primitive) else ports)
    return graph


def _hash(*parts: bytes) -> bytes:
    """Returns 16 bytes for any number of parts, which are of one length in each use."""
    return hashlib.blake2b(b"".join(parts), digest_size=16).digest()
