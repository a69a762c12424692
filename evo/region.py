"""Region: crossover of two genomes by giving one a region of the other; a region has one way in and one way out."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from operator import or_

from genomes import Edge, Genome, InvalidGenome, Limits, Module, allowed, expand
from genomes.operations import Call, Conv, Linear, Operation, Output, Shape
from morphism import INEXACT, Edit, Inapplicable
from morphism.names import short_hash, stable_id
from morphism.planning import finish
from morphism.tensors import Source, TensorExpr

RULE = "cross.region"
TRIES = 8  # of pairs of regions
LARGEST = 32  # nodes of a region
LONGEST_STEM = 39  # characters of a module's name that its copy keeps
MIXING = (Conv, Linear, Call)  # a region without any of these is not worth a crossover

Ends = tuple[Shape, Shape]  # of what a region reads and makes


@dataclass(frozen=True)
class Region:
    """Part of a module that reads one value from outside and of which one value is read outside.

    Attributes:
        module: its name.
        entry: the node whose value it reads; not part of it.
        exit: its node whose value is read outside.
        nodes: its nodes.
        calls: the shapes of what it reads and makes, and the prefix of its paths, for each call of the module.
    """

    module: str
    entry: str
    exit: str
    nodes: frozenset[str]
    calls: tuple[tuple[Ends, str], ...]

    @property
    def prefixes(self) -> Mapping[Ends, str]:
        """The prefix of one call for each pair of shapes."""
        return dict(self.calls)


def swapped(
    receiver: Genome, giver: Genome, fresh: Callable[[Genome], bool], rng: random.Random, limits: Limits
) -> Edit | None:
    """Returns an edit that replaces a region of the receiver by one of the giver that reads and makes the same shapes.

    Both keep their tensors: the region the giver's, the rest the receiver's. A module as a whole is a region too.

    Preserves: nothing.
    Source: Miller et al. 1989 and Koza 1992 (subgraph exchange); with weights: ours.

    Returns:
        None if no pair of regions leads to a genome that is fresh and allowed.
    """
    mine, theirs = regions(receiver), dict[Ends, list[Region]]()
    for region in regions(giver):
        for ends in region.prefixes:
            theirs.setdefault(ends, []).append(region)
    for old in rng.sample(mine, min(TRIES, len(mine))):
        wanted = {ends for ends, _ in old.calls}
        fitting = [region for region in theirs.get(min(wanted), ()) if wanted <= set(region.prefixes)]
        edit = _swap(receiver, old, giver, rng.choice(fitting), rng) if fitting else None
        if edit and allowed(edit.genome, limits) and fresh(edit.genome):
            return edit
    return None


@lru_cache(maxsize=64)
def regions(genome: Genome) -> tuple[Region, ...]:
    """Returns the regions of a genome that have a convolution, a linear map or a call."""
    used = sorted({module for module, _ in expand(genome).instances})
    return tuple(
        Region(name, entry, leaving, inside, _calls(genome, (name, entry, leaving)))
        for name in used
        for entry, leaving, inside in _regions(genome[name])
    )


def _regions(module: Module) -> Iterator[tuple[str, str, frozenset[str]]]:
    """Yields entry, exit and nodes: what lies on a way from the one to the other, if no other way leads in or out.

    Sets of nodes are bits at their places in the module's order, for there are many pairs.
    """
    order, mixing = module.order, _bits(module, (n for n, op in module.nodes if isinstance(op, MIXING)))
    reads = [_bits(module, module.sources[node]) for node in order]
    readers = [_bits(module, module.graph[node]) for node in order]
    below, above = [0] * len(order), [0] * len(order)
    for node in reversed(range(len(order))):
        below[node] = readers[node] | _union(below, readers[node])
    for node in range(len(order)):
        above[node] = 1 << node | _union(above, reads[node])
        for entry in _places(above[node] & ~(1 << node)):
            inside = above[node] & below[entry]
            if (
                not inside & mixing
                or inside.bit_count() > LARGEST
                or isinstance(module.operations[order[node]], Output)
            ):
                continue
            way_in = _union(reads, inside) & ~inside == 1 << entry
            if way_in and not _union(readers, inside & ~(1 << node)) & ~inside:
                yield order[entry], order[node], frozenset(order[place] for place in _places(inside))


def _bits(module: Module, chosen: Iterable[str]) -> int:
    return sum({1 << module.order.index(node) for node in chosen})


def _places(bits: int) -> Iterator[int]:
    while bits:
        yield (lowest := bits & -bits).bit_length() - 1
        bits ^= lowest


def _union(sets: Sequence[int], chosen: int) -> int:
    return reduce(or_, (sets[place] for place in _places(chosen)), 0)


def _calls(genome: Genome, region: tuple[str, str, str]) -> tuple[tuple[Ends, str], ...]:
    """Returns what a region reads and makes, and its prefix, in each call of its module."""
    name, entry, leaving = region
    expansion = expand(genome)
    ends = zip(expansion.instances[name, entry], expansion.instances[name, leaving], strict=True)
    return tuple(((expansion.shape(a), expansion.shape(b)), b.removesuffix(leaving)) for a, b in ends)


def _swap(receiver: Genome, old: Region, giver: Genome, new: Region, rng: random.Random) -> Edit | None:
    """Returns the edit that puts the new region in the old one's place; None if the child is no valid genome."""
    names = _names(receiver[old.module], old, new, giver[new.module])
    child = _replaced(receiver, old, giver, new, names)
    origin = {"from_module": new.module, "from_entry": new.entry, "from_node": new.exit}
    try:
        tensors = _tensors(child, old, new, names)
        site = {"module": old.module, "entry": old.entry, "node": old.exit, **origin, "tensors": len(tensors)}
        return finish(RULE, site, receiver, child, tensors, rng, INEXACT)
    except (InvalidGenome, Inapplicable):
        return None


def _names(module: Module, old: Region, new: Region, donor: Module) -> dict[str, str]:
    """Returns the ids of the new region's nodes in the child: their own, or stable ones where these are taken."""
    names = {new.entry: old.entry}
    taken = set(module.operations) - old.nodes
    for node in sorted(new.nodes):
        name, ordinal = node, 0
        while name in taken:
            name, ordinal = stable_id(RULE, [old.exit, node], donor.operations[node], ordinal), ordinal + 1
        names[node] = name
        taken.add(name)
    return names


def _replaced(receiver: Genome, old: Region, giver: Genome, new: Region, names: Mapping[str, str]) -> Genome:
    """Returns the receiver with the new region in the old one's place, and with the modules that it calls."""
    module, donor = receiver[old.module], giver[new.module]
    modules = {**dict(receiver.modules), old.module: Module((), ())}  # equal to none that the new region calls
    nodes = {node: op for node, op in module.nodes if node not in old.nodes}
    last = names[new.exit]
    kept = [edge for edge in module.edges if edge.target not in old.nodes]
    edges = [edge._replace(source=last) if edge.source == old.exit else edge for edge in kept]
    nodes |= {names[node]: _adopted(donor.operations[node], giver, modules) for node in sorted(new.nodes)}
    edges += [Edge(names[e.source], names[e.target], e.port) for e in donor.edges if e.target in new.nodes]
    modules[old.module] = Module.of(nodes, edges)
    return Genome.of(modules, receiver.root).reachable()


def _adopted(operation: Operation, giver: Genome, modules: dict[str, Module]) -> Operation:
    """Returns an operation as it is in the child; what it calls joins the modules, renamed if need be."""
    if not isinstance(operation, Call):
        return operation
    called = giver[operation.module]
    content = Module.of({node: _adopted(op, giver, modules) for node, op in called.nodes}, called.edges)
    name, ordinal = operation.module, 0
    while modules.setdefault(name, content) != content:
        name = f"{operation.module[:LONGEST_STEM].rstrip('_')}_{short_hash(RULE, operation.module, ordinal)}"
        ordinal += 1
    return replace(operation, module=name)


def _tensors(child: Genome, old: Region, new: Region, names: Mapping[str, str]) -> dict[str, TensorExpr]:
    """Returns the tensors of the new region in each call, as the giver's."""
    found: dict[str, TensorExpr] = {}
    heads = {
        prefix + names[node]: new.prefixes[shapes] + node for shapes, prefix in old.calls for node in sorted(new.nodes)
    }
    for name in expand(child).tensor_shapes():
        path, _, parameter = name.rpartition(".")
        steps = path.split("/")
        for count in range(1, len(steps) + 1):
            if origin := heads.get("/".join(steps[:count])):
                found[name] = Source("/".join([origin, *steps[count:]]) + f".{parameter}", 1)
    return found
