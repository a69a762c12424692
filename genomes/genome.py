"""Genome and Module: immutable values, with canonical JSON both ways.

A genome is a set of named modules; a module is a directed graph of operations and of calls to other modules.
Equal genomes are equal bytes. A value of this file may still break rules that concern the graph as a whole: see
`rules`.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import networkx as nx

from genomes import parsing
from genomes.errors import InvalidGenome
from genomes.operations import Call, Input, Operation, Output

SCHEMA = 1


class Edge(NamedTuple):
    """A value that flows from a node into port number `port` of another node of the same module."""

    source: str
    target: str
    port: int = 0


@dataclass(frozen=True)
class Module:
    """A named graph's content; nodes and edges are sorted.

    Attributes:
        nodes: `(id, operation)` pairs.
        edges: where each node's inputs come from.
    """

    nodes: tuple[tuple[str, Operation], ...]
    edges: tuple[Edge, ...]

    @classmethod
    def of(cls, nodes: Mapping[str, Operation], edges: Iterable[tuple[str, str] | tuple[str, str, int]]) -> Module:
        """Returns the module with these nodes and edges; an edge without a port goes to port 0."""
        return cls(tuple(sorted(nodes.items(), key=lambda node: node[0])), tuple(sorted(Edge(*edge) for edge in edges)))

    @cached_property
    def operations(self) -> Mapping[str, Operation]:
        """The operations by node id."""
        return dict(self.nodes)

    @cached_property
    def graph(self) -> nx.DiGraph[str]:
        """The graph; each edge holds its `ports`. Read only: edits make new modules."""
        graph: nx.DiGraph[str] = nx.DiGraph()
        graph.add_nodes_from(self.operations)
        for source, target, port in self.edges:
            if graph.has_edge(source, target):
                graph.edges[source, target]["ports"] += (port,)
            else:
                graph.add_edge(source, target, ports=(port,))
        return graph

    @cached_property
    def sources(self) -> Mapping[str, tuple[str, ...]]:
        """For each node, the nodes that feed it, in the order of its ports."""
        ordered = sorted(self.edges, key=lambda edge: (edge.target, edge.port))
        table: dict[str, tuple[str, ...]] = dict.fromkeys(self.operations, ())
        for edge in ordered:
            table[edge.target] = (*table.get(edge.target, ()), edge.source)
        return table

    @cached_property
    def order(self) -> tuple[str, ...]:
        """The ids, inputs first; ties by id.

        Raises:
            InvalidGenome: the graph has a cycle.
        """
        readers: dict[str, list[str]] = {node: [] for node in self.operations}
        missing = dict.fromkeys(self.operations, 0)
        for source, target, _ in self.edges:
            readers.setdefault(source, []).append(target)
            missing[target] = missing.get(target, 0) + 1
        ready, found = [node for node in readers if not missing.get(node)], list[str]()
        heapq.heapify(ready)
        while ready:
            found.append(node := heapq.heappop(ready))
            for reader in readers.get(node, ()):
                missing[reader] -= 1
                if not missing[reader]:
                    heapq.heappush(ready, reader)
        if any(missing.values()):
            raise InvalidGenome(f"a module must have no cycle, got {nx.find_cycle(self.graph)}")
        return tuple(found)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The ids of the input nodes, by port."""
        ports = [(op.port, node) for node, op in self.nodes if isinstance(op, Input)]
        return tuple(node for _, node in sorted(ports))

    @cached_property
    def output(self) -> str:
        """The id of the output node.

        Raises:
            InvalidGenome: there is not exactly one.
        """
        found = [node for node, op in self.nodes if isinstance(op, Output)]
        if len(found) != 1:
            raise InvalidGenome(f"a module must have one output, got {len(found)}")
        return found[0]

    @cached_property
    def text(self) -> str:
        """The canonical JSON.

        Raises:
            TypeError: something is nothing that JSON knows.
            ValueError: a number is not finite.
        """
        entries = ((node, operation.text) for node, operation in self.nodes)
        nodes = ",".join(f"{before}{json.dumps(node)}{behind}" for node, (before, behind) in entries)
        return f'{{"edges":{json.dumps(self.edges, separators=(",", ":"), allow_nan=False)},"nodes":[{nodes}]}}'

    def changed(
        self,
        nodes: Mapping[str, Operation | None] | None = None,
        add: Iterable[tuple[str, str] | tuple[str, str, int]] = (),
        remove: Iterable[tuple[str, str] | tuple[str, str, int]] = (),
    ) -> Module:
        """Returns a new module: nodes added or replaced (`None` removes one), edges removed, then added."""
        kept = {**self.operations, **(nodes or {})}
        gone = {Edge(*edge) for edge in remove}
        edges = [edge for edge in self.edges if edge not in gone]
        return Module.of({i: op for i, op in kept.items() if op is not None}, [*edges, *(Edge(*edge) for edge in add)])


@dataclass(frozen=True, eq=False)
class Genome:
    """An architecture, without weights; equal and hashed by its bytes.

    Attributes:
        modules: `(name, module)` pairs, sorted.
        root: the name of the module that is the network.
    """

    modules: tuple[tuple[str, Module], ...]
    root: str = "net"

    @classmethod
    def of(cls, modules: Mapping[str, Module], root: str = "net") -> Genome:
        """Returns the genome of these modules."""
        return cls(tuple(sorted(modules.items(), key=lambda item: item[0])), root)

    def __getitem__(self, name: str) -> Module:
        """Returns the module called `name`."""
        return self._table[name]

    def __contains__(self, name: str) -> bool:
        """Says whether there is a module called `name`."""
        return name in self._table

    def __eq__(self, other: object) -> bool:
        """Compares bytes."""
        return isinstance(other, Genome) and self.digest == other.digest

    def __hash__(self) -> int:
        """Hashes bytes."""
        return hash(self.digest)

    @cached_property
    def _table(self) -> Mapping[str, Module]:
        return dict(self.modules)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def changed(self, modules: Mapping[str, Module | None]) -> Genome:
        """Returns a new genome: modules added or replaced (`None` removes one)."""
        kept = {**self._table, **modules}
        return Genome.of({name: module for name, module in kept.items() if module is not None}, self.root)

    def reachable(self) -> Genome:
        """Returns the genome without modules that the root does not call, directly or through others."""
        reached, queue = {self.root}, [self.root]
        while queue:
            new = {op.module for _, op in self[queue.pop()].nodes if isinstance(op, Call)} - reached
            reached |= new
            queue.extend(new)
        return self.changed({name: None for name, _ in self.modules if name not in reached})

    def to_json(self) -> bytes:
        """Returns the canonical JSON: sorted, no spaces, every field."""
        modules = ",".join(f"{json.dumps(name)}:{self._table[name].text}" for name in sorted(self._table))
        return f'{{"modules":{{{modules}}},"root":{json.dumps(self.root)},"schema":{SCHEMA}}}'.encode()

    @classmethod
    def from_json(cls, data: bytes) -> Genome:
        """Reads a genome; what an operation leaves out takes its default.

        Raises:
            InvalidGenome: not JSON of schema 1, over a limit of size, or a field of the wrong type or out of its range.
        """
        document = parsing.document(data)
        parsing.keys(document, {"schema", "root", "modules"}, "genome")
        parsing.integer(document["schema"], SCHEMA, SCHEMA, "schema")
        modules = {
            parsing.identifier(name, "module name"): Module.of(*parsing.module(content, f"module {name}"))
            for name, content in parsing.mapping(document["modules"], "modules").items()
        }
        return cls.of(modules, parsing.identifier(document["root"], "root"))
