"""Morphisms that add layers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from genomes import Expansion, Genome
from genomes.operations import (
    GELU,
    MAX_CHANNELS,
    Add,
    AvgPool,
    BatchNorm,
    Blend,
    Call,
    Concat,
    Conv,
    Input,
    Linear,
    MaxPool,
    Mean,
    Mul,
    Operation,
    Output,
    PReLU,
    ReLU,
    SiLU,
)
from morphism.edit import EXACT, Edit, Modes, Site
from morphism.errors import Inapplicable
from morphism.names import new_id
from morphism.planning import (
    behind,
    channel_count,
    constant,
    expanded,
    finish,
    is_image,
    node_of,
    nodes,
    parameter_shapes,
    shapes,
)
from morphism.tensors import Dirac, TensorExpr

ENDS_A_LAYER = (ReLU, GELU, SiLU, MaxPool, AvgPool, Add, Mean, Mul, Concat, Call)
SECONDS = ("relu", "silu", "gelu")  # what a blend with the identity may become


def plain(width: int) -> list[Operation]:
    """Returns two convolutions."""
    return [Conv.same(width, 3), BatchNorm(), ReLU(), Conv.same(width, 3)]


def narrow(width: int) -> list[Operation]:
    """Returns two convolutions with half of the channels between them."""
    return [Conv.same(max(1, width // 2), 3), BatchNorm(), ReLU(), Conv.same(width, 3)]


def separable(width: int) -> list[Operation]:
    """Returns two depthwise convolutions, each with a pointwise one."""
    layer = [Conv.same(width, 3, groups=width), Conv(width, 1)]
    return [*layer, BatchNorm(), ReLU(), *layer]


def inverted(width: int) -> list[Operation]:
    """Returns a depthwise convolution of three times as many channels between two pointwise ones."""
    inner = min(3 * width, MAX_CHANNELS)
    depthwise = Conv.same(inner, 3, groups=inner)
    return [Conv(inner, 1), BatchNorm(), ReLU(), depthwise, BatchNorm(), ReLU(), Conv(width, 1)]


BRANCHES = (plain, narrow, separable, inverted)


@dataclass(frozen=True)
class Residual:
    """Adds x + BN(…relu(BN(conv(x)))) behind a value x; the last norm's weight is zero.

    That weight learns at once, the convolutions from the second step.

    Preserves: bit for bit, in eval and in train mode.
    Source: Goyal et al. 2017, section 5.1 (zero-γ); the branches: He et al. 2016, figure 5, without the last layer of
    the bottleneck; Chollet 2017, Xception, section 3.2; Sandler et al. 2018, MobileNetV2, section 3.4.
    """

    name: str = "deepen.residual"
    modes: Modes = EXACT
    weight: float = 2.5

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the nodes that end a layer of images, with one width in every call."""
        return _sites(genome, ENDS_A_LAYER, images_only=True)

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit; the branch is plain, as wide as x or half as wide, separable, or an inverted bottleneck.

        Raises:
            Inapplicable: the node's value is not an image, or its width differs between calls.
        """
        module, node, _ = node_of(genome, site)
        expansion, name = expanded(genome), str(site["module"])
        width = channel_count(expansion, name, node)
        if width is None or not is_image(expansion, name, node):
            raise Inapplicable(f"{self.name} needs an image of one width, got {shapes(expansion, name, node)}")
        operations = [*rng.choice(BRANCHES)(width), BatchNorm(), Add()]
        chain = [new_id(module, self.name, [node], op, number) for number, op in enumerate(operations)]
        steps = list(zip([node, *chain[:-2]], chain[:-1], strict=True))
        grown = behind(
            module, node, dict(zip(chain, operations, strict=True)), [*steps, (node, chain[-1]), (chain[-2], chain[-1])]
        )
        child = genome.changed({name: grown})
        return finish(self.name, site, genome, child, constant(child, name, chain[-2], "weight"), rng)


@dataclass(frozen=True)
class IdentityLayer:
    """Adds a convolution or linear map that returns its input, and a ReLU, behind a ReLU.

    Preserves: bit for bit, in eval and in train mode (for that it has no norm), because relu(relu(x)) = relu(x).
    Source: Chen et al. 2016, Net2Net, section 2.4.
    """

    name: str = "deepen.identity"
    modes: Modes = EXACT
    weight: float = 0.5

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the ReLU nodes that have one width in every call."""
        return _sites(genome, (ReLU,), images_only=False)

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the node is no ReLU, or its width differs between calls.
        """
        _, node, operation = node_of(genome, site)
        if not isinstance(operation, ReLU):
            raise Inapplicable(f"{self.name} needs a ReLU, got {operation.kind} {node}")
        return _layered(self.name, genome, site, rng, ReLU())


@dataclass(frozen=True)
class ParametricLayer:
    """Adds a convolution or linear map that returns its input, and a PReLU of slope 1, behind any value.

    Preserves: bit for bit, in eval and in train mode.
    Source: Wei et al. 2016, Network Morphism, section 3.3 (parametric activation).
    """

    name: str = "deepen.prelu"
    modes: Modes = EXACT
    weight: float = 0.5

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the nodes that have one width in every call, but neither inputs nor the last node."""
        return _sites(genome, (Operation,), images_only=False)

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the value's width differs between calls, or is too large for a linear map.
        """
        return _layered(self.name, genome, site, rng, PReLU())


@dataclass(frozen=True)
class BlendedLayer:
    """Adds a convolution or linear map that returns its input, and a blend a x + (1 - a) f(x) with a = 1.

    f is ReLU, SiLU or GELU; training may move a towards it.

    Preserves: bit for bit, in eval and in train mode.
    Source: Wei et al. 2016, Network Morphism, section 3.3; one trained number instead of a slope per channel: ours.
    """

    name: str = "deepen.blend"
    modes: Modes = EXACT
    weight: float = 0.5

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the nodes that have one width in every call, but neither inputs nor the last node."""
        return _sites(genome, (Operation,), images_only=False)

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the value's width differs between calls, or is too large for a linear map.
        """
        return _layered(self.name, genome, site, rng, Blend("identity", rng.choice(SECONDS)))


def _layered(rule: str, genome: Genome, site: Site, rng: random.Random, activation: Operation) -> Edit:
    """Returns the edit that puts a map which returns its input, and an activation with weight 1, behind a node."""
    module, node, operation = node_of(genome, site)
    expansion, name = expanded(genome), str(site["module"])
    layer = _returning(expansion, name, node)
    if layer is None or isinstance(operation, Output):
        raise Inapplicable(
            f"{rule} needs a value of one width up to {MAX_CHANNELS}, got {shapes(expansion, name, node)}"
        )
    first = new_id(module, rule, [node], layer)
    second = new_id(module, rule, [node], activation)
    grown = behind(module, node, {first: layer, second: activation}, [(node, first), (first, second)])
    child = genome.changed({name: grown})
    weights = parameter_shapes(expanded(child), name, first, "weight")
    tensors: dict[str, TensorExpr] = {weight: Dirac(shape) for weight, shape in weights.items()}
    if isinstance(activation, (PReLU, Blend)):
        tensors.update(constant(child, name, second, "weight", 1.0))
    return finish(rule, site, genome, child, tensors, rng)


def _returning(expansion: Expansion, module: str, node: str) -> Operation | None:
    """Returns the layer that can hand a node's value on in every call; None if none can."""
    width, ranks = channel_count(expansion, module, node), {len(s) for s in shapes(expansion, module, node)}
    if not width or width > MAX_CHANNELS or len(ranks) != 1:
        return None
    return Linear(width) if ranks == {1} else Conv.same(width, 3 if is_image(expansion, module, node) else 1)


def _sites(genome: Genome, kinds: tuple[type[Operation], ...], *, images_only: bool) -> list[Site]:
    expansion = expanded(genome)
    return [
        {"module": module, "node": node}
        for module, node, operation in nodes(genome)
        if isinstance(operation, kinds)
        and not isinstance(operation, (Input, Output))
        and not _ends(expansion, module, node)
        and _returning(expansion, module, node)
        and (not images_only or is_image(expansion, module, node))
    ]


def _ends(expansion: Expansion, module: str, node: str) -> bool:
    """Says whether a node's value is, in some call, what the network returns."""
    return any(expansion.values[path] == expansion.output for path in expansion.instances[module, node])
