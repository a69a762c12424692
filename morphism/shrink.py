"""Exact inverses: edits that take away what has no effect. See `undo` for the way back of a certain edit.

What must be zero stands in each edit's `zeros`; `realise` refuses weights with which something would be lost.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from genomes import Genome, Module, expand
from genomes.operations import Add, BatchNorm, Conv, Input, Linear, Operation, Slice
from morphism.channels import ChannelMap, Entry, Symbol, channels, grouped
from morphism.edit import EXACT, Edit, Modes, Site
from morphism.errors import Inapplicable
from morphism.planning import expanded, finish, loadable, node_of, nodes, readers
from morphism.rewire import balanced, rewire
from morphism.tensors import Crop, Difference, Folded, Gather, Merged, Pad, Source, TensorExpr, Times


@dataclass(frozen=True)
class CropKernel:
    """Takes away the outer ring of a kernel, which must be zero: undoes `kernel.grow` bit for bit.

    Preserves: exactly, in eval and in train mode.
    """

    name: str = "kernel.crop"
    modes: Modes = EXACT
    weight: float = 0.0

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the convolutions whose kernel and padding have a ring to lose."""
        return [{"module": m, "node": n} for m, n, operation in nodes(genome) if _cropped(operation)]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the node is no convolution of kernel 3 or more, or its windows would not keep their centres.
        """
        module, node, operation = node_of(genome, site)
        if not (smaller := _cropped(operation)):
            raise Inapplicable(f"{self.name} needs a convolution whose kernel and padding can shrink, got {operation}")
        name = str(site["module"])
        child = genome.changed({name: module.changed({node: smaller})})
        sources = [Source(f"{path}.weight") for path in expanded(genome).instances[name, node]]
        edit = finish(self.name, site, genome, child, {source.name: Crop(source, 1) for source in sources}, rng)
        return replace(edit, zeros=tuple(Difference(source, Pad(Crop(source, 1), 1)) for source in sources))


@dataclass(frozen=True)
class RemoveUnread:
    """Removes channels that no consumer uses: their columns must be zero. Undoes `widen.zero_fanout` bit for bit.

    Preserves: exactly, in eval and in train mode.
    """

    name: str = "narrow.zero_fanout"
    modes: Modes = EXACT
    weight: float = 0.0

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the nodes that make more than one channel that may go."""
        return _narrowable(genome)

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit that removes the `channels` that the site lists, by number; without a list, one at random.

        Raises:
            Inapplicable: no such channels, or their width is given.
        """
        made = _made(self.name, genome, site, 1)
        chosen = _listed(self.name, made, site) or rng.sample(sorted(set(made)), 1)
        child, tensors = rewire(genome, balanced(genome, dict.fromkeys(chosen, ()), None))
        shapes = expand(genome).tensor_shapes()
        zeros = tuple(
            replace(e, index=tuple(_left_out(e, shapes[name][1])))
            for name, e in tensors.items()
            if isinstance(e, Gather) and e.axis == 1
        )
        return replace(finish(self.name, site, genome, child, tensors, rng), zeros=zeros)


@dataclass(frozen=True)
class MergeTwins:
    """Merges two channels with equal rows, norms and statistics: every consumer's columns of them are summed.

    Undoes `widen.replicate` bit for bit if there are two replicas, and `widen.split` to the last place, because its
    parts are rounded; once the replicas are trained it is refused, for their rows differ.

    Preserves: exactly, in eval and in train mode.
    """

    name: str = "narrow.merge"
    modes: Modes = EXACT
    weight: float = 0.0

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the nodes that make more than one channel that may go."""
        return _narrowable(genome)

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit that merges the second of two `channels` of the site into the first; else two at random.

        Raises:
            Inapplicable: no such channels, their width is given, or they do not go everywhere together.
        """
        made = _made(self.name, genome, site, 2)
        chosen = _listed(self.name, made, site) or rng.sample(sorted(set(made)), 2)
        if len(chosen) != 2:
            raise Inapplicable(f"{self.name} needs two channels of different classes, got {site.get('channels')}")
        table, (kept, gone) = channels(genome), chosen
        _together(genome, table, kept, gone)
        child, tensors = rewire(genome, {gone: ()})
        primitives = expand(genome).primitives
        zeros: list[TensorExpr] = []
        for name, expression in tensors.items():
            path = name.rpartition(".")[0]
            if pairs := _twins(table.entries[path], kept, gone):
                rows = (Gather(Source(name), 0, tuple(pair[side] for pair in pairs)) for side in (0, 1))
                zeros.append(Difference(*rows))
            if isinstance(expression, Gather) and expression.axis == 1:
                read = table.entries[primitives[path].inputs[0]]
                index = _sums(read, expression, kept, gone)
                tensors[name] = Merged(expression.of, 1, index, expression.groups)
        return replace(finish(self.name, site, genome, child, tensors, rng), zeros=tuple(zeros))


@dataclass(frozen=True)
class DropBranch:
    """Drops an operand of a sum that ends in a layer or norm of zeros: undoes `deepen.residual` and `skip.add`.

    Preserves: bit for bit, in eval and in train mode.
    """

    name: str = "branch.drop_zero"
    modes: Modes = EXACT
    weight: float = 0.0

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns sums with one of their operands, `branch`: a convolution, linear map or batch norm."""
        return [
            {"module": m, "node": node, "branch": branch}
            for m, node, operation in nodes(genome)
            if type(operation) is Add  # a mean is one too, and is divided by how many there are
            for branch in sorted(set(genome[m].sources[node]))
            if _ends(genome[m], node, branch)
        ]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:  # noqa: ARG002 - nothing is drawn
        """Returns the edit.

        Raises:
            Inapplicable: the node is no sum, or the branch no layer or norm that only this sum reads.
        """
        module, node, _ = node_of(genome, site)
        _, branch, _ = node_of(genome, site, "branch")
        name = str(site["module"])
        if not _ends(module, node, branch):
            raise Inapplicable(f"{self.name} needs a sum and a layer or norm that it alone reads, got {dict(site)}")
        child = genome.changed({name: _alive(_without(module, node, branch))}).reachable()
        loadable(child)
        primitives = expand(genome).primitives
        zeros = tuple(
            Source(tensor)
            for path in expand(genome).instances[name, branch]
            for tensor in primitives[path].tensor_shapes()
            if "running" not in tensor
        )
        return Edit(self.name, site, child, {}, EXACT, zeros)


@dataclass(frozen=True)
class FoldNorm:
    """Folds a batch norm into the layer that it alone reads: W γ / √(σ² + ε) and a bias. For export only.

    Preserves: exactly, in eval mode only; there are no batch statistics any more.
    """

    name: str = "bn.fold"
    modes: Modes = frozenset({"eval"})
    weight: float = 0.0

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the batch norms directly behind a convolution or linear map that nothing else reads."""
        return [{"module": m, "node": n} for m, n, _ in nodes(genome) if _folding(genome[m], n)]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the node is no batch norm directly behind a layer that nothing else reads.
        """
        module, node, norm = node_of(genome, site)
        if not isinstance(norm, BatchNorm) or not (found := _folding(module, node)):
            raise Inapplicable(f"{self.name} needs a batch norm that alone reads a layer, got {norm.kind} {node}")
        (layer, operation), old = found, readers(module, node)
        moved = [(layer, edge.target, edge.port) for edge in old]
        folded = module.changed({node: None, layer: replace(operation, bias=True)}, moved, [*old, (layer, node, 0)])
        name, tensors = str(site["module"]), dict[str, TensorExpr]()
        for path in expanded(genome).instances[name, node]:
            behind = f"{path.removesuffix(node)}{layer}"
            gamma, beta, mean, variance = (
                Source(f"{path}.{parameter}") for parameter in ("weight", "bias", "running_mean", "running_var")
            )
            bias = Difference(Source(f"{behind}.bias"), mean) if operation.bias else Times(mean, -1.0)
            tensors[f"{behind}.weight"] = Folded(Source(f"{behind}.weight"), gamma, variance, norm.eps)
            tensors[f"{behind}.bias"] = Difference(Folded(bias, gamma, variance, norm.eps), Times(beta, -1.0))
        return finish(self.name, site, genome, genome.changed({name: folded}), tensors, rng, self.modes)


INVERSES = (CropKernel(), RemoveUnread(), MergeTwins(), DropBranch(), FoldNorm())


def _cropped(operation: Operation) -> Conv | None:
    """Returns the convolution without the outer ring of its kernel, if it may lose it."""
    if not isinstance(operation, Conv) or operation.kernel < 3 or operation.padding < operation.dilation:
        return None
    return replace(operation, kernel=operation.kernel - 2, padding=operation.padding - operation.dilation)


def _narrowable(genome: Genome) -> list[Site]:
    table = channels(genome)
    return [
        {"module": module, "node": node}
        for (module, node), made in sorted(table.made.items())
        if len(set(made)) > 1 and not set(made) & (table.frozen | table.joined)
    ]


def _made(rule: str, genome: Genome, site: Site, least: int) -> tuple[Symbol, ...]:
    """Returns the classes of the channels that a node makes."""
    table = channels(genome)
    made = table.made.get((str(site.get("module")), str(site.get("node"))), ())
    if len(set(made)) <= least - 1 or set(made) & (table.frozen | table.joined):
        raise Inapplicable(f"{rule} needs a node with channels of its own to spare, got {dict(site)}")
    return made


def _listed(rule: str, made: Sequence[Symbol], site: Site) -> list[Symbol]:
    """Returns the classes of the channels that a site lists by number."""
    numbers = site.get("channels", [])
    if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < len(made) for n in numbers):
        raise Inapplicable(f"{rule} needs channels below {len(made)}, got {str(numbers)[:60]}")
    return list(dict.fromkeys(made[number] for number in numbers))


def _left_out(e: Gather, length: int) -> Iterator[int]:
    """Yields the slices that a gather of some leaves out, group by group."""
    width = len(e.index) // e.groups
    for group in range(e.groups):
        taken = set(e.index[group * width : (group + 1) * width])
        yield from (k for k in range(length) if k not in taken)


def _places(entries: Sequence[Entry], symbol: Symbol) -> list[int]:
    """Returns the positions of a channel in a value."""
    places, offset = list[int](), 0
    for entry in entries:
        if entry.symbol == symbol:
            places.extend(range(offset, offset + entry.block))
        offset += entry.block
    return places


def _twins(entries: Sequence[Entry], kept: Symbol, gone: Symbol) -> list[tuple[int, int]]:
    """Returns the positions of two channels in pairs: they come in the same order wherever both are."""
    return list(zip(_places(entries, gone), _places(entries, kept), strict=True))


def _together(genome: Genome, table: ChannelMap, kept: Symbol, gone: Symbol) -> None:
    """Refuses channels one of which goes where the other does not, or that different groups read."""
    expansion = expand(genome)
    for path, entries in table.entries.items():
        blocks = [[entry.block for entry in entries if entry.symbol == symbol] for symbol in (kept, gone)]
        if blocks[0] != blocks[1]:
            raise Inapplicable(f"channels that are merged must go together, but only one reaches {path}")
        if isinstance(operation := expansion.primitives[path].operation, Slice):
            read = table.entries[expansion.primitives[path].inputs[0]]
            inside = range(operation.start, operation.stop)
            if any((a in inside) != (b in inside) for a, b in _twins(read, kept, gone)):
                raise Inapplicable(f"channels that are merged must go together, but {path} cuts between them")
    for path, groups in grouped(expansion):
        entries = table.entries[path]
        size = sum(entry.block for entry in entries) // groups
        if any(a // size != b // size for a, b in _twins(entries, kept, gone)):
            raise Inapplicable(f"channels that are merged must be in one group, but at {path} they are not")


def _sums(read: Sequence[Entry], e: Gather, kept: Symbol, gone: Symbol) -> tuple[int, ...]:
    """Returns where each column goes when those of a channel are added to those of its twin, group by group."""
    partner = dict(_twins(read, kept, gone))
    size, width = sum(entry.block for entry in read) // e.groups, len(e.index) // e.groups
    index: list[int] = []
    for group in range(e.groups):
        rank = {column: k for k, column in enumerate(e.index[group * width : (group + 1) * width])}
        first = group * size
        index.extend(rank[partner.get(first + column, first + column) - first] for column in range(size))
    return tuple(index)


def _ends(module: Module, node: str, branch: str) -> bool:
    """Says whether a branch into a sum ends in a layer or norm that nothing else reads."""
    if type(module.operations[node]) is not Add or len(module.sources[node]) < 2:
        return False
    operation = module.operations[branch]
    return isinstance(operation, (Conv, Linear, BatchNorm)) and [e.target for e in readers(module, branch)] == [node]


def _without(module: Module, node: str, branch: str) -> Module:
    """Returns the module with one operand less; a sum of one is what it sums."""
    rest = [source for source in module.sources[node] if source != branch]
    old = [edge for edge in module.edges if edge.target == node]
    if len(rest) > 1:
        return module.changed({}, [(source, node, port) for port, source in enumerate(rest)], old)
    moved = readers(module, node)
    return module.changed({node: None}, [(rest[0], edge.target, edge.port) for edge in moved], [*old, *moved])


def _alive(module: Module) -> Module:
    """Returns the module without nodes that nothing reads any more."""
    read = {edge.source for edge in module.edges}
    dead = [n for n, op in module.nodes if n not in read and n != module.output and not isinstance(op, Input)]
    if not dead:
        return module
    return _alive(module.changed(dict.fromkeys(dead), remove=[edge for edge in module.edges if edge.target in dead]))


def _folding(module: Module, node: str) -> tuple[str, Conv | Linear] | None:
    """Returns the layer whose value only this batch norm reads, if so it is."""
    if not isinstance(module.operations[node], BatchNorm):
        return None
    (layer,) = module.sources[node]
    operation = module.operations[layer]
    alone = isinstance(operation, (Conv, Linear)) and len(readers(module, layer)) == 1
    return (layer, operation) if alone and isinstance(operation, (Conv, Linear)) else None
