"""Morphisms that let a value look at itself as a whole: squeeze-excite and self-attention."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from genomes import Expansion, Genome, Module
from genomes.operations import MAX_CHANNELS, Add, Attention, Conv, GlobalPool, Mul, ReLU, Scale, Sigmoid
from morphism.deepen import ENDS_A_LAYER
from morphism.edit import EXACT, Edit, Modes, Site
from morphism.errors import Inapplicable
from morphism.names import derived_seed, new_ids
from morphism.planning import (
    behind,
    channel_count,
    constant,
    expanded,
    finish,
    is_image,
    node_of,
    nodes,
    readers,
    seed_of,
    shapes,
)
from morphism.tensors import Gather, New, Source, TensorExpr

LEAST_SQUEEZED = 8  # channels: of fewer, all may be dead behind the relu
MOST_POSITIONS = 256  # that attend to each other: the cost grows with their square
LEAST_DIMENSION = 4  # of a head, where there are several
LEAST_FACTOR, LARGEST_FACTOR = 1.25, 2.0  # of a head's dimension


@dataclass(frozen=True)
class InsertExcitation:
    """Multiplies a value x by s(conv(relu(conv(mean of x)))), s = 2σ; the second convolution and its bias are zero.

    They learn at once, the first convolution from the second step. The factor 2 is trained as well.

    Preserves: bit for bit, in eval and in train mode, because 2σ(0) = 1.
    Source: Hu et al. 2018, Squeeze-and-Excitation, section 3; starting at 2σ(0): ours.
    """

    name: str = "se.insert"
    modes: Modes = EXACT
    weight: float = 0.75

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the nodes that end a layer of images, with one width in every call."""
        return [
            {"module": module, "node": node}
            for module, node, operation in nodes(genome)
            if isinstance(operation, ENDS_A_LAYER) and _image_width(expanded(genome), module, node)
        ]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit; a quarter of the channels stand between the two convolutions, and at least 8.

        Raises:
            Inapplicable: the node's value is not an image, or its width differs between calls.
        """
        module, node, _ = node_of(genome, site)
        name, expansion = str(site["module"]), expanded(genome)
        if not (width := _image_width(expansion, name, node)):
            raise Inapplicable(f"{self.name} needs an image of one width, got {shapes(expansion, name, node)}")
        squeeze, excite = (Conv(channels, 1, bias=True) for channels in (max(LEAST_SQUEEZED, width // 4), width))
        operations = [GlobalPool(), squeeze, ReLU(), excite, Sigmoid(), Scale(), Mul()]
        ids = new_ids(module, self.name, [node], operations)
        pool, *_, last, _, scale, product = ids
        edges = [(node, pool), (node, product), *pairwise(ids)]
        child = genome.changed({name: behind(module, node, dict(zip(ids, operations, strict=True)), edges)})
        zeros = {**constant(child, name, last, "weight"), **constant(child, name, last, "bias")}
        return finish(self.name, site, genome, child, {**zeros, **constant(child, name, scale, "weight", 2.0)}, rng)


@dataclass(frozen=True)
class InsertAttention:
    """Adds x + conv(attention(conv x, conv x, conv x)) behind a value x, all 1 x 1; the outer convolution is zero.

    It learns at once, the three inner ones from the second step.

    Preserves: bit for bit, in eval and in train mode.
    Source: Gesmundo & Maile 2023, Composable Function-preserving Expansions for Transformer Architectures; Vaswani et
        al. 2017, section 3.2 (the layer).
    """

    name: str = "attention.insert"
    modes: Modes = EXACT
    weight: float = 0.5

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the nodes that end a layer of images of few positions, with one width in every call."""
        return [
            {"module": module, "node": node}
            for module, node, operation in nodes(genome)
            if isinstance(operation, ENDS_A_LAYER) and _attending_width(expanded(genome), module, node)
        ]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit: heads of at least 4 dimensions, all together as wide as x or half as wide.

        Raises:
            Inapplicable: the node's value is not an image, has too many positions, or a width that differs between
                calls.
        """
        module, node, _ = node_of(genome, site)
        name, expansion = str(site["module"]), expanded(genome)
        if not (width := _attending_width(expansion, name, node)):
            raise Inapplicable(
                f"{self.name} needs an image of one width and at most {MOST_POSITIONS} positions, "
                f"got {shapes(expansion, name, node)}"
            )
        inner = rng.choice((width, max(1, width // 2)))
        heads = rng.choice([1, *(h for h in (2, 4, 8) if inner % h == 0 and inner // h >= LEAST_DIMENSION)])
        operations = [*[Conv(inner, 1)] * 3, Attention(heads), Conv(width, 1), Add()]
        ids = new_ids(module, self.name, [node], operations)
        *maps, attention, last, total = ids
        edges = [
            *((node, each) for each in maps),
            *((each, attention) for each in maps),
            (attention, last),
            (node, total),
            (last, total),
        ]
        child = genome.changed({name: behind(module, node, dict(zip(ids, operations, strict=True)), edges)})
        return finish(self.name, site, genome, child, constant(child, name, last, "weight"), rng)


@dataclass(frozen=True)
class GrowHeads:
    """Gives the heads of an attention more dimensions: new rows of the keys are zero, those of the queries random.

    The attention goes on to divide by √d, the `dimension` that it had: the published way, to multiply the queries by
    √(d'/d), rounds, and large logits make much of that (2e-4 of the output in float32, measured). The keys' new rows
    learn at once, the queries' from the second step.

    Preserves: exactly, in eval and in train mode.
    Source: Gesmundo & Maile 2023, Composable Function-preserving Expansions for Transformer Architectures.
    """

    name: str = "attention.head"
    modes: Modes = EXACT
    weight: float = 0.5

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the attentions whose queries and keys are made by convolutions that nothing else reads."""
        return [{"module": m, "node": n} for m, n, _ in nodes(genome) if _queries_and_keys(genome[m], n)]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit that makes heads larger by a factor drawn from 1.25 to 2.

        Raises:
            Inapplicable: the node is no attention, something else reads its queries or keys, they do not come directly
                from convolutions, or they would be too wide.
        """
        module, node, operation = node_of(genome, site)
        if not isinstance(operation, Attention) or not (convs := _queries_and_keys(module, node)):
            raise Inapplicable(
                f"{self.name} needs an attention with convolutions of its own, got {operation.kind} {node}"
            )
        heads, width = operation.heads, convs[0][1].out_channels
        old = width // heads
        new = max(old + 1, round(old * rng.uniform(LEAST_FACTOR, LARGEST_FACTOR)))
        if heads * new > MAX_CHANNELS:
            raise Inapplicable(f"{self.name} needs at most {MAX_CHANNELS} channels, got {heads} heads of {new}")
        name = str(site["module"])
        wider = {each: replace(conv, out_channels=heads * new) for each, conv in convs}
        kept = replace(operation, dimension=operation.dimension or old)
        child = genome.changed({name: module.changed({**wider, node: kept})})
        # in place: the channels of a head lie side by side
        index = tuple(i for head in range(heads) for i in (*range(head * old, head * old + old), *[-1] * (new - old)))
        tensors = _grown(expanded(genome), name, [each for each, _ in convs], index, seed_of(rng))
        return finish(self.name, {**site, "dimension": new}, genome, child, tensors, rng)


def _image_width(expansion: Expansion, module: str, node: str) -> int:
    """Returns the channels of an image that are the same in every call; else 0."""
    return (is_image(expansion, module, node) and channel_count(expansion, module, node)) or 0


def _attending_width(expansion: Expansion, module: str, node: str) -> int:
    """Returns the same where there are few enough positions; else 0."""
    few = all(math.prod(shape[1:]) <= MOST_POSITIONS for shape in shapes(expansion, module, node))
    return few and _image_width(expansion, module, node)


def _queries_and_keys(module: Module, node: str) -> list[tuple[str, Conv]]:
    """Returns the two convolutions that make queries and keys for this attention and for nothing else, if they do."""
    if not isinstance(module.operations[node], Attention):
        return []
    sources = module.sources[node][:2]
    made = [(each, op) for each in sources if isinstance(op := module.operations[each], Conv) and op.groups == 1]
    return made if len(made) == 2 and all(len(readers(module, each)) == 1 for each in sources) else []


def _grown(
    expansion: Expansion, module: str, ids: Sequence[str], index: tuple[int, ...], seed: int
) -> dict[str, TensorExpr]:
    queries, keys = ([*expansion.instances[module, each]] for each in ids)
    tensors: dict[str, TensorExpr] = {}
    for path in keys:
        for name in expansion.primitives[path].tensor_shapes():
            tensors[name] = Gather(Source(name), 0, index)
    for path in queries:
        for name in expansion.primitives[path].tensor_shapes():
            new: New = "random" if name.endswith("weight") else "zero"
            tensors[name] = Gather(Source(name), 0, index, new=new, seed=derived_seed(seed, name))
    return tensors
