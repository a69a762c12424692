"""Genome and Module: immutable values, with canonical JSON both ways.

A genome is a set of named modules; a module is a directed graph of operations and of calls to other modules.
Equal genomes are equal bytes. A value of this file may still break rules that concern the graph as a whole: see
`rules`.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import NamedTuple

import networkx as nx

from genomes import parsing
from genomes.errors import InvalidGenome
from genomes.operations import Call, Input, Operation, Output

SCHEMA = 1
COMPACT = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


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
        given = [edge if type(edge) is Edge else Edge(*edge) for edge in edges]
        return cls(tuple(sorted(nodes.items(), key=itemgetter(0))), tuple(sorted(given)))

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
        return _sources(self.edges, self.operations)

    @cached_property
    def order(self) -> tuple[str, ...]:
        """The ids, inputs first; ties by id.

        Raises:
            InvalidGenome: the graph has a cycle.
        """
        readers: dict[str, list[str]] = {node: [] for node in self.sources}
        for node, read in self.sources.items():
            for source in read:
                readers[source].append(node)
        missing = {node: len(read) for node, read in self.sources.items()}
        ready, found = [node for node, count in missing.items() if not count], list[str]()
        heapq.heapify(ready)
        while ready:
            found.append(node := heapq.heappop(ready))
            for reader in readers[node]:
                missing[reader] -= 1
                if not missing[reader]:
                    heapq.heappush(ready, reader)
        if len(found) < len(missing):
            raise InvalidGenome(f"a module must have no cycle, got {nx.find_cycle(self.graph)}")
        return tuple(found)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The ids of the input nodes, by port."""
        ports = [(op.port, node) for node, op in self.nodes if isinstance(op, Input)]
        return tuple(node for _, node in sorted(ports))

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """The ids of the output nodes: one, if the module is valid."""
        return tuple([node for node, op in self.nodes if isinstance(op, Output)])

    @property
    def output(self) -> str:
        """The id of the output node.

        Raises:
            InvalidGenome: there is not exactly one.
        """
        if len(self.outputs) != 1:
            raise InvalidGenome(f"a module must have one output, got {len(self.outputs)}")
        return self.outputs[0]

    @cached_property
    def calls(self) -> tuple[str, ...]:
        """The names of the modules that it calls, one for each call."""
        return tuple([op.module for _, op in self.nodes if isinstance(op, Call)])

    @cached_property
    def text(self) -> str:
        """The canonical JSON.

        Raises:
            TypeError: something is nothing that JSON knows.
            ValueError: a number is not finite.
        """
        entries = self._entries
        return f'{{"edges":{self._links},"nodes":[{",".join([entries[node] for node, _ in self.nodes])}]}}'

    @cached_property
    def _entries(self) -> Mapping[str, str]:
        """The JSON of each node, by id."""
        carried: dict[str, str] = vars(self).pop("_carried", {})
        texts = [(node, *operation.text) for node, operation in self.nodes if node not in carried]
        return {**carried, **{node: f"{before}{COMPACT.encode(node)}{behind}" for node, before, behind in texts}}

    @cached_property
    def _links(self) -> str:
        """The JSON of the edges."""
        return COMPACT.encode(self.edges)

    def changed(
        self,
        nodes: Mapping[str, Operation | None] | None = None,
        add: Iterable[tuple[str, str] | tuple[str, str, int]] = (),
        remove: Iterable[tuple[str, str] | tuple[str, str, int]] = (),
    ) -> Module:
        """Returns a new module: nodes added or replaced (`None` removes one), edges removed, then added."""
        changes, new, gone = nodes or {}, [Edge(*edge) for edge in add], {Edge(*edge) for edge in remove}
        kept = {node: op for node, op in {**self.operations, **changes}.items() if op is not None}
        made = Module.of(kept, [*(edge for edge in self.edges if edge not in gone), *new])
        self._hand_on(made, changes.keys(), {edge.target for edge in (*new, *gone)})
        return made

    def _hand_on(self, child: Module, nodes: Set[str], targets: Set[str]) -> None:
        """Tells a child what is known of all that is the same in it.

        Args:
            child: what is this module but for the nodes and the edges that changed.
            nodes: what became another operation, was added, or is gone.
            targets: the ends of the edges that were added or are gone.
        """
        own, known = child.operations, vars(child)
        sources = {node: read for node, read in self.sources.items() if node in own}
        known["sources"] = {**sources, **_sources(child.edges, (nodes | targets) & own.keys())}
        known["_carried"] = {node: text for node, text in vars(self).get("_entries", {}).items() if node not in nodes}
        if not targets and own.keys() == self.operations.keys():
            known.update((name, value) for name, value in vars(self).items() if name in ("order", "_links"))


def _sources(edges: Iterable[Edge], nodes: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Returns what feeds each of these nodes, in the order of its ports."""
    found: dict[str, list[str]] = {node: [] for node in nodes}
    for source, target, _ in sorted([edge for edge in edges if edge[1] in found], key=itemgetter(2)):
        found[target].append(source)
    return {node: tuple(read) for node, read in found.items()}


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
        return cls(tuple(sorted(modules.items(), key=itemgetter(0))), root)

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
            new = {*self[queue.pop()].calls} - reached
            reached |= new
            queue.extend(new)
        return self.changed({name: None for name, _ in self.modules if name not in reached})

    def to_json(self) -> bytes:
        """Returns the canonical JSON: sorted, no spaces, every field."""
        modules = ",".join([f"{COMPACT.encode(name)}:{self._table[name].text}" for name in sorted(self._table)])
        return f'{{"modules":{{{modules}}},"root":{COMPACT.encode(self.root)},"schema":{SCHEMA}}}'.encode()

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
