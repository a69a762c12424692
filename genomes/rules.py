"""What makes a genome valid; one look finds every reason why it is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx

from genomes import parsing
from genomes.cost import cost
from genomes.errors import InvalidGenome
from genomes.expansion import expand
from genomes.genome import Genome, Module
from genomes.operations import Call, Input


@dataclass(frozen=True)
class Limits:
    """Budgets of a network; None is no limit.

    Attributes:
        parameters: trained numbers.
        macs: multiply-accumulates of one example's forward pass.
        activation_bytes: kept by one example's forward pass for the backward pass.
    """

    parameters: int | None = None
    macs: int | None = None
    activation_bytes: int | None = None


def load_genome(data: bytes, limits: Limits | None = None) -> Genome:
    """Reads untrusted JSON and returns a valid genome.

    Raises:
        InvalidGenome: with every reason.
    """
    genome = Genome.from_json(data)
    check(genome, limits)
    return genome


def check(genome: Genome, limits: Limits | None = None) -> None:
    """Raises unless the genome is valid and within the limits.

    Raises:
        InvalidGenome: with every reason: of the graphs; where these are whole, of the shapes; where these fit, of the
            limits.
    """
    _readable(genome)
    reasons = [*_modules(genome)]
    for name, module in genome.modules:
        reasons.extend(f"module {name}: {reason}" for reason in _module(module, name == genome.root))
    if reasons:
        raise InvalidGenome(*reasons)
    expand(genome)
    if limits and (excess := _excess(genome, limits)):
        raise InvalidGenome(*excess)


def allowed(genome: Genome, limits: Limits) -> bool:
    """Says whether a genome is valid and within the limits."""
    try:
        if _excess(genome, limits):  # what most fail near the limits, and the cheaper question
            return False
        check(genome)
    except InvalidGenome:
        return False
    return True


def _excess(genome: Genome, limits: Limits) -> list[str]:
    return exceeded(limits, vars(cost(genome)))


def exceeded(limits: Limits, counts: Mapping[str, int]) -> list[str]:
    """Returns which limits some counts, by the limits' names, are over, in words."""
    over = [(n, limit) for n, limit in vars(limits).items() if limit is not None and counts.get(n, 0) > limit]
    return [f"{name} must be at most {limit:,}, got {counts[name]:,}" for name, limit in over]


def _readable(genome: Genome) -> None:
    """Refuses a genome made in code that its own JSON would not bring back: a field out of range, an unknown node."""
    if _reproduced(genome):
        return
    try:  # what is wrong is best said by whoever reads it
        copy = Genome.from_json(genome.to_json())
    except (ValueError, TypeError) as error:
        raise error if isinstance(error, InvalidGenome) else InvalidGenome(f"genome must be JSON: {error}") from None
    if copy != genome:
        raise InvalidGenome("numbers must be of their field's type, such as 0.0 for a rate: the JSON reads differently")


def _reproduced(genome: Genome) -> bool:
    """Says whether reading a genome's JSON brings it back, without reading it; False where that is not sure."""
    names = [name for name, _ in genome.modules]
    try:
        for name in (genome.root, *names):
            parsing.identifier(name, "name")
        return (
            0 < len(names) <= parsing.MAX_MODULES
            and all(one < other for one, other in pairwise(names))
            and all(_reproduced_module(module) for _, module in genome.modules)
            and len(genome.to_json()) <= parsing.MAX_BYTES
        )
    except (ValueError, TypeError):
        return False


def _reproduced_module(module: Module) -> bool:
    ids, known = [node for node, _ in module.nodes], module.operations
    for node in ids:
        parsing.identifier(node, "id")
    return (
        len(ids) <= parsing.MAX_NODES
        and len(module.edges) <= parsing.MAX_EDGES
        and all(one < other for one, other in pairwise(ids))
        and all(parsing.reproduced(operation.text) for _, operation in module.nodes)
        and all(one <= other for one, other in pairwise(module.edges))
        and all(
            s in known and t in known and type(p) is int and 0 <= p <= parsing.MAX_EDGES for s, t, p in module.edges
        )
    )


def _modules(genome: Genome) -> Iterator[str]:
    called = {op.module for _, module in genome.modules for _, op in module.nodes if isinstance(op, Call)}
    if genome.root not in genome:
        yield f"the root module {genome.root} is not defined"
    for name in sorted(called - {name for name, _ in genome.modules}):
        yield f"module {name} is called but not defined"
    for name, _ in genome.modules:
        if name != genome.root and name not in called:
            yield f"module {name} is never called"


def _module(module: Module, root: bool) -> Iterator[str]:
    yield from _inputs(module, root)
    yield from _ports(module)
    try:
        order = module.order
    except InvalidGenome:
        yield f"there must be no cycle, got {' -> '.join(edge[0] for edge in nx.find_cycle(module.graph)[:8])}"
        return
    try:
        output = module.output
    except InvalidGenome as error:
        yield str(error)
        return
    useful = _useful(module, order, output)
    for node in module.operations:
        if node not in useful:
            yield f"node {node} must lie on a way from an input to the output"


def _useful(module: Module, order: Sequence[str], output: str) -> set[str]:
    """Returns the nodes on a way from an input to the output."""
    useful, fed, sources = {output}, {*module.inputs}, module.sources
    for node in reversed(order):
        if node in useful:
            useful.update(sources[node])
    for node in order:
        if not fed.isdisjoint(sources[node]):
            fed.add(node)
    return useful & fed


def _inputs(module: Module, root: bool) -> Iterator[str]:
    inputs = [op for _, op in module.nodes if isinstance(op, Input)]
    if sorted(op.port for op in inputs) != list(range(len(inputs))) or not inputs:
        yield f"its inputs must have the ports 0, 1, …, got {sorted(op.port for op in inputs)}"
    if root and (len(inputs) != 1 or len(inputs[0].shape) not in (1, 3)):
        yield "the root must have one input with a shape [C, H, W] or [F]"
    if not root and any(op.shape for op in inputs):
        yield "only the root's input has a shape"


def _ports(module: Module) -> Iterator[str]:
    ports: dict[str, list[int]] = {node: [] for node in module.operations}
    for _, target, port in module.edges:
        ports[target].append(port)
    for node, found in ports.items():
        if node in module.inputs:
            if found:
                yield f"input {node} must have no edge into it"
        elif not found or sorted(found) != [*range(len(found))]:
            yield f"node {node} must have one edge into each port 0, 1, …, got {sorted(found)[:8]}"
