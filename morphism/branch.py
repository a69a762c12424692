"""Morphisms that turn a layer into two parallel ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from genomes import Expansion, Genome, Module
from genomes.operations import Add, BatchNorm, Concat, Conv, Linear, Operation, Slice
from morphism.edit import EXACT, Edit, Modes, Site
from morphism.errors import Inapplicable
from morphism.names import derived_seed, new_id
from morphism.planning import behind, channel_count, expanded, finish, node_of, nodes, numbered, readers, seed_of
from morphism.tensors import Gather, Part, Source, TensorExpr


@dataclass(frozen=True)
class Replicate:
    """Copies a convolution or linear map, with its norm, and adds the copies; each has a part of the last affine map.

    The parts, α and 1 - α of every number, are random, so that the copies get different gradients.

    Preserves: exactly, in eval and in train mode.
    Source: Cai et al. 2018, Path-Level EAS, section 3.1 (halves); unequal parts: ours.
    """

    name: str = "branch.replicate"
    modes: Modes = EXACT
    weight: float = 0.5

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the convolutions and linear maps."""
        return [{"module": m, "node": node} for m, node, op in nodes(genome) if isinstance(op, (Conv, Linear))]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the node is neither a convolution nor a linear map.
        """
        module, node, operation = node_of(genome, site)
        if not isinstance(operation, (Conv, Linear)):
            raise Inapplicable(f"{self.name} needs a convolution or linear map, got {operation.kind} {node}")
        name, chain = str(site["module"]), [node, *_norm(module, node)]
        copies = {old: new_id(module, self.name, [old], module.operations[old]) for old in chain}
        total = new_id(module, self.name, [node], Add())
        child = genome.changed({name: _doubled(module, chain, copies, total)})
        tensors = _shared(expanded(genome), name, chain, copies, seed_of(rng))
        return finish(self.name, site, genome, child, tensors, rng)


@dataclass(frozen=True)
class SplitLayer:
    """Makes the first half of a layer's channels with one layer and the rest with another, and stacks them.

    Nothing learns that did not before; but each half may now change alone. A grouped or depthwise convolution is cut
    between two groups, and each half reads its own slice.

    Preserves: exactly, in eval and in train mode.
    Source: Cai et al. 2018, Path-Level EAS, section 3.1.
    """

    name: str = "branch.split"
    modes: Modes = EXACT
    weight: float = 0.25

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the convolutions and linear maps that can be cut."""
        return [{"module": m, "node": node} for m, node, _ in nodes(genome) if _cut(genome, m, node)]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the node is neither a convolution nor a linear map, makes one channel only, or cannot be cut
                between two groups in the same place in every call.
        """
        module, node, operation = node_of(genome, site)
        name = str(site["module"])
        if not (cut := _cut(genome, name, node)):
            raise Inapplicable(
                f"{self.name} needs a layer of two channels or groups or more, got {operation.kind} {node}"
            )
        layers, slices = cut
        twin, join = new_id(module, self.name, [node], layers[1]), new_id(module, self.name, [node], Concat())
        (read,) = module.sources[node]
        cuts = {new_id(module, self.name, [read, node], each): each for each in slices}
        feeds = list(cuts) or [read, read]
        edges = [*((read, each) for each in cuts), *zip(feeds, (node, twin), strict=True), (node, join), (twin, join)]
        split = behind(
            module.changed({}, remove=[(read, node, 0)]),
            node,
            {**cuts, node: layers[0], twin: layers[1], join: Concat()},
            edges,
        )
        tensors = _halves(expanded(genome), name, node, twin, _width(layers[0]))
        return finish(self.name, site, genome, genome.changed({name: split}), tensors, rng)


def _cut(genome: Genome, module: str, node: str) -> tuple[list[Operation], list[Slice]] | None:
    """Returns the two halves of a layer and, if it has groups, the slices that they read; None if it has no halves."""
    operation = genome[module].operations[node]
    if isinstance(operation, Conv) and operation.groups > 1:
        columns = channel_count(expanded(genome), module, genome[module].sources[node][0])
        return _cut_groups(operation, columns) if columns else None
    if not isinstance(operation, (Conv, Linear)) or (width := _width(operation)) < 2:
        return None
    return [_resized(operation, width // 2), _resized(operation, width - width // 2)], []


def _cut_groups(conv: Conv, columns: int) -> tuple[list[Operation], list[Slice]]:
    first, rows = conv.groups // 2, conv.out_channels // conv.groups
    border = columns // conv.groups * first
    halves = [replace(conv, groups=n, out_channels=n * rows) for n in (first, conv.groups - first)]
    return [*halves], [Slice(0, border), Slice(border, columns)]


def _width(operation: Operation) -> int:
    return operation.out_channels if isinstance(operation, Conv) else getattr(operation, "out_features", 0)


def _resized(operation: Conv | Linear, width: int) -> Operation:
    if isinstance(operation, Conv):
        return replace(operation, out_channels=width)
    return replace(operation, out_features=width)


def _halves(expansion: Expansion, module: str, node: str, twin: str, border: int) -> dict[str, TensorExpr]:
    tensors: dict[str, TensorExpr] = {}
    for path in expansion.instances[module, node]:
        for name, shape in expansion.primitives[path].tensor_shapes().items():
            tensors[name] = Gather(Source(name), 0, tuple(range(border)))
            other = f"{path.removesuffix(node)}{twin}.{name.rpartition('.')[2]}"
            tensors[other] = Gather(Source(name), 0, tuple(range(border, shape[0])))
    return tensors


def _norm(module: Module, node: str) -> list[str]:
    """Returns the norm that is the only reader of a node, if so it is."""
    targets = [edge.target for edge in readers(module, node)]
    return targets if len(targets) == 1 and isinstance(module.operations[targets[0]], BatchNorm) else []


def _doubled(module: Module, chain: Sequence[str], copies: dict[str, str], total: str) -> Module:
    last, (read,) = chain[-1], module.sources[chain[0]]
    moved = [(total, edge.target, edge.port) for edge in readers(module, last)]
    steps = [(read, copies[chain[0]]), *((copies[a], copies[b]) for a, b in pairwise(chain))]
    added = {**{copies[old]: module.operations[old] for old in chain}, total: Add()}
    return module.changed(
        added, [*numbered([*steps, (last, total), (copies[last], total)]), *moved], readers(module, last)
    )


def _shared(
    expansion: Expansion, module: str, chain: Sequence[str], copies: dict[str, str], seed: int
) -> dict[str, TensorExpr]:
    tensors: dict[str, TensorExpr] = {}
    for node in chain:
        for path in expansion.instances[module, node]:
            for name in expansion.primitives[path].tensor_shapes():
                parameter = name.rpartition(".")[2]
                twin = f"{path.removesuffix(node)}{copies[node]}.{parameter}"
                if node == chain[-1] and not parameter.startswith("running"):
                    parts = (Part(Source(name), number, 2, derived_seed(seed, name)) for number in range(2))
                    tensors[name], tensors[twin] = parts
                else:
                    tensors[twin] = Source(name)
    return tensors
