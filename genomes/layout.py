"""Layout of a drawing: which primitives share a box, and where boxes and the lanes of long edges go.

Layers are topological generations, so every edge leads down. Boxes stand in columns, the longest path in the middle
one. An edge that skips layers runs down a lane between the columns, and changes sides only in the gaps between layers:
no edge can cross a box.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

import networkx as nx

from genomes import operations as ops
from genomes.expansion import Expansion, Primitive
from genomes.operations import Operation

OUTPUT = "/output"  # the box of the network's result; no path starts with a slash
FOLLOWERS: tuple[type[Operation], ...] = (
    *(ops.BatchNorm, ops.GroupNorm, ops.LayerNorm, ops.Scale, ops.Position),
    *(ops.ReLU, ops.ReLU6, ops.GELU, ops.SiLU, ops.Sigmoid, ops.Hardswish, ops.Hardsigmoid, ops.PReLU, ops.Blend),
    *(ops.Dropout, ops.Identity, ops.Flatten),
)


@dataclass(frozen=True)
class Layout:
    """Where everything goes, counted in layers, columns and lanes.

    Attributes:
        boxes: the primitives of each box in their order, by box id; the output's box holds none.
        edges: `(source box, target box)` to how many times it reads it.
        layers: of each box, 0 at the top.
        columns: of each box, 0 in the middle, negative to the left.
        lanes: of each box that is read from further than the next layer, the lane: positive to the right of the middle
            column, negative to the left.
    """

    boxes: Mapping[str, tuple[Primitive, ...]]
    edges: Mapping[tuple[str, str], int]
    layers: Mapping[str, int]
    columns: Mapping[str, int]
    lanes: Mapping[str, int]

    def lane_layers(self, source: str) -> range:
        """Returns the layers that the lane of a box passes."""
        reach = max(self.layers[target] for start, target in self.edges if start == source)
        return range(self.layers[source] + 1, reach)


def layout(expansion: Expansion) -> Layout:
    """Returns the layout of a flat graph."""
    boxes, edges = _folded(expansion)
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(boxes)
    graph.add_edges_from(edges)
    layers = {box: layer for layer, found in enumerate(nx.topological_generations(graph)) for box in found}
    tracks = {track[0]: track for track in _tracks(graph, layers)}
    rows = _first_fit([(start, [layers[box] for box in track], count()) for start, track in tracks.items()])
    columns = {box: _sided(rows[start]) for start, track in tracks.items() for box in track}
    plan = Layout(boxes, edges, layers, columns, {})
    long = {source for source, target in edges if layers[target] > layers[source] + 1}
    spans = [(box, plan.lane_layers(box), _lane_rows(columns[box])) for box in sorted(long, key=layers.__getitem__)]
    lanes = _first_fit(sorted(spans, key=lambda span: (len(span[1]), abs(columns[span[0]]))))
    return replace(plan, lanes={source: _sided(row) for source, row in lanes.items()})


def _lane_rows(column: int) -> Iterator[int]:
    """Returns the lanes for a box as rows, nearest first: those on its own side of the middle column."""
    if column == 0:
        return count(1)
    return count(1, 2) if column > 0 else count(2, 2)


def _folded(expansion: Expansion) -> tuple[dict[str, tuple[Primitive, ...]], dict[tuple[str, str], int]]:
    """Puts norms, activations and the like into the box of what they read, if they alone read it in the same call."""
    heads: dict[str, str] = {}
    boxes: dict[str, tuple[Primitive, ...]] = {}
    edges: dict[tuple[str, str], int] = {}
    for path, primitive in expansion.primitives.items():
        head = heads[path] = heads[primitive.inputs[0]] if _follows(primitive, expansion) else path
        boxes[head] = (*boxes.get(head, ()), primitive)
        if head == path:
            for source in primitive.inputs:
                edge = (heads[source], head)
                edges[edge] = edges.get(edge, 0) + 1
    return {**boxes, OUTPUT: ()}, {**edges, (heads[expansion.output], OUTPUT): 1}


def _follows(primitive: Primitive, expansion: Expansion) -> bool:
    if not isinstance(primitive.operation, FOLLOWERS):
        return False
    source = expansion.primitives[primitive.inputs[0]]
    alone = expansion.consumers[source.path] == (primitive.path,) and source.path != expansion.output
    return alone and call_of(source.path) == call_of(primitive.path) and not isinstance(source.operation, ops.Input)


def call_of(path: str) -> str:
    """Returns the path of the call that a primitive belongs to; empty for the root's own."""
    return path.rpartition("/")[0]


def _tracks(graph: nx.DiGraph[str], layers: Mapping[str, int]) -> list[list[str]]:
    """Returns the boxes as paths from layer to next layer, the longest first."""
    rest = nx.DiGraph([edge for edge in graph.edges if layers[edge[1]] == layers[edge[0]] + 1])
    tracks = []
    while rest:
        tracks.append(list(nx.dag_longest_path(rest)))
        rest.remove_nodes_from(tracks[-1])
    return tracks


def _first_fit(spans: Iterable[tuple[str, Sequence[int], Iterator[int]]]) -> dict[str, int]:
    """Returns for each name the first of its rows that is free in all of its layers."""
    taken: dict[int, set[int]] = {}
    found = {}
    for name, layers, rows in spans:
        found[name] = next(row for row in rows if taken.setdefault(row, set()).isdisjoint(layers))
        taken[found[name]].update(layers)
    return found


def _sided(row: int) -> int:
    """Returns 0, 1, -1, 2, -2 and so on for rows 0, 1, 2, 3, 4."""
    return (row + 1) // 2 * (1 if row % 2 else -1)
