"""The cells of NAS-Bench-201, written as genomes: as many classes as the space is known to have.

Source: Dong & Yang 2020, NAS-Bench-201, section 2.1: six edges of five operations among four nodes.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from functools import lru_cache

from genomes import Genome, Module, equivalent, fingerprint
from genomes.operations import Add, AvgPool, BatchNorm, Call, Conv, Identity, Input, Operation, Output, ReLU

Cell = tuple[int, ...]
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
NONE, SKIP, CONV1, CONV3, POOL = range(5)
LIVE_CLASSES = 5259
WAYS = ((3,), (0, 4), (1, 5), (0, 2, 5))  # from the first node to the last, as numbers of edges


def layer(kernel: int) -> Module:
    """Returns activation, convolution, norm."""
    nodes: dict[str, Operation] = {
        "x": Input(), "relu": ReLU(), "conv": Conv.same(4, kernel), "norm": BatchNorm(), "y": Output()
    }  # fmt: skip
    return Module.of(nodes, list(itertools.pairwise(nodes)))


LAYERS = {"conv1": layer(1), "conv3": layer(3)}
OPERATIONS: dict[int, Operation] = {
    SKIP: Identity(),
    CONV1: Call("conv1"),
    CONV3: Call("conv3"),
    POOL: AvgPool(3, 1, 1),
}


def written(cell: Cell) -> Genome | None:
    """Returns a cell as a genome: each node is the sum of what its edges make; None if the output is zero."""
    nodes: dict[str, Operation] = {"image": Input(0, (4, 8, 8)), "y": Output()}
    edges: list[tuple[str, str, int]] = []
    values = {0: "image"}
    for node in (1, 2, 3):
        terms = []
        for (source, target), kind in zip(EDGES, cell, strict=True):
            if target == node and kind != NONE and source in values:
                nodes[f"edge{source}{target}"] = OPERATIONS[kind]
                edges.append((values[source], f"edge{source}{target}", 0))
                terms.append(f"edge{source}{target}")
        if len(terms) > 1:
            nodes[f"sum{node}"] = Add()
            edges += [(term, f"sum{node}", port) for port, term in enumerate(terms)]
            terms = [f"sum{node}"]
        if terms:
            values[node] = terms[0]
    if 3 not in values:
        return None
    called = {operation.module for operation in nodes.values() if isinstance(operation, Call)}
    root = Module.of(nodes, [*edges, (values[3], "y", 0)])
    return Genome.of({"net": root, **{name: LAYERS[name] for name in called}})


def reduced(cell: Cell) -> str:
    """Returns what a cell computes as a formula, worked out on the six digits alone.

    Sums are multisets; layers with weights stay apart even where they look alike: each gets a letter, and the least
    formula over all letterings stands for all.
    """
    layers = [number for number, kind in enumerate(cell) if kind in (CONV1, CONV3)]
    formulas = []
    for letters in itertools.permutations("abcdef"[: len(layers)]):
        named = dict(zip(layers, letters, strict=True))
        values: list[tuple[str, ...]] = [("x",)]
        for node in (1, 2, 3):
            terms: list[str] = []
            for number, ((source, target), kind) in enumerate(zip(EDGES, cell, strict=True)):
                if target == node and kind != NONE and values[source]:
                    whole = "+".join(values[source])
                    head = f"{kind}{named.get(number, '')}"
                    terms += values[source] if kind == SKIP else [f"{head}({whole})"]
            values.append(tuple(sorted(terms)))
        formulas.append("+".join(values[3]))
    return min(formulas)


@lru_cache(maxsize=1)
def buckets() -> dict[str, list[Cell]]:
    """Returns the live cells by fingerprint."""
    found: dict[str, list[Cell]] = defaultdict(list)
    for cell in itertools.product(range(5), repeat=6):
        if genome := written(cell):
            found[fingerprint(genome)].append(cell)
    return found


def formulaic(cell: Cell) -> bool:
    """Says whether a cell has few enough layers with weights for all letterings to be tried."""
    return sum(kind in (CONV1, CONV3) for kind in cell) <= 4


def test_the_live_cells_fall_into_the_known_number_of_classes() -> None:
    cells = itertools.product(range(5), repeat=6)
    live = sum(any(all(cell[edge] != NONE for edge in way) for way in WAYS) for cell in cells)
    assert len(buckets()) == LIVE_CLASSES
    assert sum(map(len, buckets().values())) == live


def test_no_two_cells_are_merged_that_compute_different_things() -> None:
    for cell, *others in buckets().values():
        formula = reduced(cell) if formulaic(cell) else None
        assert all(reduced(other) == formula for other in others if formula), cell


def test_no_two_cells_are_split_that_compute_the_same() -> None:
    found: dict[str, str] = {}
    for mark, cells in buckets().items():
        if formulaic(cells[0]):
            assert found.setdefault(reduced(cells[0]), mark) == mark, cells[0]


def test_all_cells_of_a_class_are_equivalent_by_the_exact_check() -> None:
    for cell, *others in buckets().values():
        first = written(cell)
        assert first
        assert all(equivalent(first, like) for like in map(written, others) if like), cell
