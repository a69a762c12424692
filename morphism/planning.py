"""What the morphisms share: looking at a node in all its calls, inserting behind it, and finishing an edit."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from genomes import Edge, Expansion, Genome, InvalidGenome, Module, expand
from genomes.operations import Operation, Shape
from genomes.parsing import MAX_BYTES, MAX_EDGES, MAX_MODULES, MAX_NODES
from morphism.edit import EXACT, Edit, Modes, Site
from morphism.errors import Inapplicable
from morphism.fresh import complete
from morphism.lint import lint
from morphism.tensors import Constant, TensorExpr


@lru_cache(maxsize=256)
def nodes(genome: Genome) -> tuple[tuple[str, str, Operation], ...]:
    """Returns module, id and operation of every node that the network uses, in a fixed order."""
    return tuple([(module, node, genome[module].operations[node]) for module, node in sorted(expand(genome).instances)])


def node_of(genome: Genome, site: Site, key: str = "node") -> tuple[Module, str, Operation]:
    """Returns the module and the node that a site names.

    Raises:
        Inapplicable: the genome uses no such node.
    """
    module, node = site.get("module"), site.get(key)
    if (module, node) not in expand(genome).instances:
        raise Inapplicable(f"the genome must use a node {node} in a module {module}")
    return genome[str(module)], str(node), genome[str(module)].operations[str(node)]


def shapes(expansion: Expansion, module: str, node: str) -> tuple[Shape, ...]:
    """Returns the shapes of a node's value, one for each call."""
    return expansion.shapes[module, node]


def channel_count(expansion: Expansion, module: str, node: str) -> int | None:
    """Returns the channels of a node's value; None if they differ between calls."""
    first, *others = [shape[0] for shape in expansion.shapes[module, node]]
    return first if all(count == first for count in others) else None


def is_image(expansion: Expansion, module: str, node: str) -> bool:
    """Says whether a node's value is an image of more than one position in every call."""
    return all(len(shape) == 3 and shape[1] * shape[2] > 1 for shape in expansion.shapes[module, node])


def readers(module: Module, node: str) -> list[Edge]:
    """Returns the edges that leave a node."""
    return [edge for edge in module.edges if edge.source == node]


def behind(module: Module, node: str, added: Mapping[str, Operation], edges: Sequence[tuple[str, ...]]) -> Module:
    """Returns the module with nodes between `node` and all that read it.

    Args:
        module: where.
        node: what is read now.
        added: the new nodes; the last one is what is read then.
        edges: between them and old nodes, a port for each source of a target in the order given.
    """
    last, old = list(added)[-1], readers(module, node)
    moved = [(last, edge.target, edge.port) for edge in old]
    return module.changed(added, [*numbered(edges), *moved], old)


def in_front(module: Module, node: str, added: str, first: Operation, second: Operation) -> Module:
    """Returns the module with `first`, called `added`, between a node and what it reads, and the node as `second`."""
    (read,) = module.sources[node]
    return module.changed({added: first, node: second}, [(read, added), (added, node)], [(read, node)])


def numbered(edges: Sequence[tuple[str, ...]]) -> list[tuple[str, str, int]]:
    """Returns the edges `(source, target)` with ports, counted for each target in the order given."""
    ports: dict[str, int] = {}
    made = []
    for source, target in edges:
        made.append((source, target, ports.get(target, 0)))
        ports[target] = ports.get(target, 0) + 1
    return made


def constant(child: Genome, module: str, node: str, parameter: str, value: float = 0.0) -> dict[str, TensorExpr]:
    """Returns a constant expression for one parameter of a node in each call of its module.

    Raises:
        Inapplicable: the child is not a valid genome.
    """
    shapes_ = parameter_shapes(expanded(child), module, node, parameter)
    return {name: Constant(shape, value) for name, shape in shapes_.items()}


def parameter_shapes(expansion: Expansion, module: str, node: str, parameter: str) -> dict[str, Shape]:
    """Returns the shapes of one parameter of a node, one for each call of its module, by full name."""
    primitives = [expansion.primitives[path] for path in expansion.instances[module, node]]
    return {name: p.tensor_shapes()[name] for p in primitives for name in (f"{p.path}.{parameter}",)}


def expanded(child: Genome) -> Expansion:
    """Returns the expansion of a planned child.

    Raises:
        Inapplicable: it has none.
    """
    try:
        return expand(child)
    except InvalidGenome as error:
        raise Inapplicable(f"the child would not be valid: {error}") from None


def finish(
    rule: str,
    site: Site,
    parent: Genome,
    child: Genome,
    tensors: Mapping[str, TensorExpr],
    rng: random.Random,
    modes: Modes = EXACT,
) -> Edit:
    """Returns the edit, with fresh values for the tensors that have none.

    Raises:
        Inapplicable: the child is not a valid genome, or an exact edit would plant what never learns.
    """
    loadable(child)
    edit = Edit(rule, site, child, complete(parent, child, tensors, seed_of(rng)), modes)
    if modes and (faults := lint(edit)):
        raise Inapplicable(f"{rule} would not train: {'; '.join(faults[:3])}")
    return edit


def altered(
    rule: str,
    site: Site,
    parent: Genome,
    operation: Operation,
    rng: random.Random,
    weight: Callable[[str, Shape], TensorExpr],
) -> Edit:
    """Returns the exact edit after which a node computes its value by another operation.

    Args:
        rule: of the edit.
        site: with the node.
        parent: what is changed.
        operation: the new one, with a `weight`.
        rng: of what is drawn.
        weight: makes the expression of that weight, in each call, from its name and shape.

    Raises:
        Inapplicable: the child is not a valid genome.
    """
    name, node = str(site["module"]), str(site["node"])
    child = parent.changed({name: parent[name].changed({node: operation})})
    weights = parameter_shapes(expanded(child), name, node, "weight")
    tensors = {full: weight(full, shape) for full, shape in weights.items()}
    return finish(rule, site, parent, child, tensors, rng)


def loadable(child: Genome) -> None:
    """Refuses a child that expands to nothing or that the loader would refuse for its size.

    Raises:
        Inapplicable: with the reason.
    """
    expanded(child)
    for name, module in child.modules:
        if len(module.nodes) > MAX_NODES or len(module.edges) > MAX_EDGES:
            raise Inapplicable(f"module {name} must have at most {MAX_NODES} nodes and {MAX_EDGES} edges")
    if len(child.modules) > MAX_MODULES or len(child.to_json()) > MAX_BYTES:
        raise Inapplicable(f"a genome must have at most {MAX_MODULES} modules and {MAX_BYTES} bytes")


def seed_of(rng: random.Random) -> int:
    """Draws a seed that JSON can hold exactly."""
    return rng.getrandbits(48)
