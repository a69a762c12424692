"""Residual networks for small images: starter genomes, random members, and the limits of the space."""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import ClassVar

from genomes.cost import cost
from genomes.errors import InvalidGenome
from genomes.genome import Genome, Module
from genomes.operations import (
    Add,
    BatchNorm,
    Call,
    Conv,
    Flatten,
    GlobalPool,
    Input,
    Linear,
    MaxPool,
    Operation,
    Output,
    ReLU,
)
from genomes.rules import Limits, allowed, check

MAX_WIDTH = 512
SIZES = 8  # of founders that are as large as their shape allows
COARSE = 32  # the stem of larger images takes strides of a power of two that leave 32 to 63 pixels
FULL = 0.75  # of a share of the parameters, that a member has to use to count as one of that size


@dataclass(frozen=True)
class ResidualLimits:
    """What a search may ask for; budgets of the networks, and the range of random members.

    Attributes:
        parameters: at most, in one network.
        macs: at most, for one example.
        activation_bytes: at most, for one example.
        width: channels of the first stage, smallest and largest, in random members.
        stages: at most; each but the first halves the extent and doubles the channels.
        blocks: residual blocks a stage, at most.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    parameters: int = 100_000
    macs: int = 20_000_000
    activation_bytes: int = 4_000_000
    width: tuple[int, int] = (4, 16)
    stages: int = 3
    blocks: int = 2

    def __post_init__(self) -> None:
        """Refuses limits that hold for no network.

        Raises:
            InvalidGenome: a number out of its range.
        """
        low, high = self.width
        if not 1 <= low <= high <= MAX_WIDTH:
            raise InvalidGenome(f"width must be two numbers in [1, {MAX_WIDTH}], the smaller first, got {self.width}")
        for name, least in {"parameters": 1, "macs": 1, "activation_bytes": 1, "stages": 1, "blocks": 0}.items():
            if getattr(self, name) < least:
                raise InvalidGenome(f"{name} must be {least} or more, got {getattr(self, name)}")

    @property
    def budgets(self) -> Limits:
        """The part that holds for every genome of the search."""
        return Limits(self.parameters, self.macs, self.activation_bytes)


@dataclass(frozen=True)
class ResidualSpace:
    """The residual networks for one input shape and number of classes.

    A member is stem, stages of blocks `relu(x + bn(conv(relu(bn(conv(x))))))`, global pool and a linear head. Stages
    begin with a max pool or with a stride; blocks are plain or depthwise separable.
    Source: He et al. 2016, Deep residual learning, figure 2; Chollet 2017, Xception, section 3.2.

    Attributes:
        shape: of an image, `[C, H, W]`.
        classes: how many.
        limits: budgets and ranges.
    """

    shape: tuple[int, int, int]
    classes: int
    limits: ResidualLimits = ResidualLimits()

    def __post_init__(self) -> None:
        """Refuses shapes that no member fits.

        Raises:
            InvalidGenome: an extent below 4 pixels, no channel, or fewer than two classes.
        """
        if len(self.shape) != 3 or min(self.shape[1:]) < 4 or self.shape[0] < 1:
            raise InvalidGenome(f"images must be [C, H, W] with H and W of 4 or more, got {list(self.shape)}")
        if self.classes < 2:
            raise InvalidGenome(f"there must be two classes or more, got {self.classes}")

    def starters(self) -> tuple[Genome, ...]:
        """Returns small founders that train fast: two widths, plain or with blocks, and one that calls a module twice.

        Raises:
            InvalidGenome: none is within the limits.
        """
        halvings = self._halvings()
        found = [
            self.member(4, [0] * halvings + [1]),
            self.member(4, [1] * halvings + [1]),
            self.member(6, [0] * halvings + [1]),
            self._repeating(4, halvings),
        ]
        return tuple(dict.fromkeys(self._within(found)))

    def sample(self, rng: random.Random) -> Genome:
        """Returns a random member within the limits.

        Raises:
            InvalidGenome: a hundred draws found none.
        """
        for _ in range(100):
            width, shape = self._drawn(rng)
            if allowed(genome := shape(width), self.limits.budgets):
                return genome
        raise InvalidGenome(f"a hundred random members were all over {self.limits}: raise a limit or lower the width")

    def founders(self, seed: int, count: int = 0) -> tuple[Genome, ...]:
        """Returns the starters, then random shapes of rising size, each as wide as its share of the parameters allows.

        The last one has all of the limit for a share, each one before it 1 / sqrt(2) of the next. What a short training
        shows says little of a network, and nothing that is free says more than its size (docs/proxies.md).

        Args:
            seed: of the shapes.
            count: how many are wanted; there are as many whole series of rising size as that takes, one at least.

        Raises:
            InvalidGenome: no starter is within the limits.
        """
        rng, found = random.Random(f"{seed}:founders"), [*self.starters()]
        series = max(1, math.ceil((count - len(found)) / SIZES))
        for halves in [*range(SIZES - 1, -1, -1)] * series:
            share = self.limits.parameters * 2 ** (-halves / 2)
            members = (self._widest(self._drawn(rng)[1], share) for _ in range(100))
            found += islice(filter(None, members), 1)
        return tuple(dict.fromkeys(found))

    def _drawn(self, rng: random.Random) -> tuple[int, Callable[[int], Genome]]:
        """Returns a random width, and what makes members of one random shape by their width."""
        stages = rng.randint(1, min(self.limits.stages, self._halvings() + 1))
        blocks = [rng.randint(0, self.limits.blocks) for _ in range(stages)]
        width, kernel, strided = rng.randint(*self.limits.width), rng.choice((3, 3, 5)), rng.random() < 1 / 2
        separable = rng.random() < 1 / 3
        return width, partial(self.member, blocks=blocks, kernel=kernel, strided=strided, separable=separable)

    def _widest(self, shape: Callable[[int], Genome], share: float) -> Genome | None:
        """Returns the widest member of a shape that a share of the parameters allows; None if it leaves much of it."""
        widths = range(self.limits.width[0], self.limits.width[1] + 1)
        limits = replace(self.limits.budgets, parameters=max(1, int(share)))
        fitting = bisect_left(widths, 1, key=lambda width: not allowed(shape(width), limits))
        if not fitting or cost(genome := shape(widths[fitting - 1])).parameters < FULL * share:
            return None
        return genome

    def member(
        self, width: int, blocks: Sequence[int], kernel: int = 3, *, strided: bool = False, separable: bool = False
    ) -> Genome:
        """Returns the network with `blocks[k]` residual blocks in stage k, and `width` 2^k channels there.

        Args:
            width: channels of the first stage.
            blocks: how many blocks each stage has.
            kernel: of all convolutions that are not pointwise.
            strided: whether a stage begins with a strided convolution instead of a pool and a convolution.
            separable: whether a block's convolutions are depthwise, then pointwise.
        """
        body = self._stem(width, kernel)
        for stage, count in enumerate(blocks):
            if stage:
                body.halve(width << stage, kernel, strided)
            for _ in range(count):
                body.residual(width << stage, kernel, separable)
        return Genome.of({"net": self._headed(body)})

    def _repeating(self, width: int, halvings: int) -> Genome:
        """Returns a network whose last stage calls one residual block twice."""
        block = _Chain(Input())
        block.residual(width << halvings, 3)
        body = self._stem(width, 3)
        for stage in range(1, halvings + 1):
            body.halve(width << stage, 3)
        body.layer(Call("block"), Call("block"))
        return Genome.of({"net": self._headed(body), "block": block.module()})

    def _stem(self, width: int, kernel: int) -> _Chain:
        stride = self._stem_stride()
        body = _Chain(Input(0, self.shape))
        body.layer(Conv.same(width, max(kernel, 2 * stride - 1), stride=stride), BatchNorm(), ReLU())
        return body

    def _stem_stride(self) -> int:
        """Returns the power of two that leaves 32 to 63 pixels, at most 16."""
        return min(16, max(1, 1 << (min(self.shape[1:]) // COARSE).bit_length() >> 1))

    def _headed(self, body: _Chain) -> Module:
        body.layer(GlobalPool(), Flatten(), Linear(self.classes))
        return body.module()

    def _halvings(self) -> int:
        """How many stages halve the extent without leaving fewer than 4 pixels, at most two in a starter."""
        extent = min(self.shape[1:]) // self._stem_stride()
        return min(2, self.limits.stages - 1, (extent // 4).bit_length() - 1)

    def _within(self, genomes: Sequence[Genome]) -> list[Genome]:
        fitting, reasons = [], []
        for genome in genomes:
            try:
                check(genome, self.limits.budgets)
                fitting.append(genome)
            except InvalidGenome as error:
                reasons.append(str(error))
        if not fitting:
            raise InvalidGenome(
                f"no starter for images {list(self.shape)} is within the limits of the space: {reasons[0]}"
            )
        return fitting


class _Chain:
    """A module under construction; each layer reads the one before it."""

    def __init__(self, start: Input) -> None:
        self.nodes: dict[str, Operation] = {"image" if start.shape else "x": start}
        self.edges: list[tuple[str, str, int]] = []
        self.last = next(iter(self.nodes))

    def layer(self, *operations: Operation) -> None:
        for operation in operations:
            name = f"{operation.kind}_{len(self.nodes)}"
            self.nodes[name] = operation
            self.edges.append((self.last, name, 0))
            self.last = name

    def halve(self, channels: int, kernel: int, strided: bool = False) -> None:
        layers = [Conv.same(channels, kernel, stride=2)] if strided else [MaxPool(2, 2), Conv.same(channels, kernel)]
        self.layer(*layers, BatchNorm(), ReLU())

    def residual(self, channels: int, kernel: int, separable: bool = False) -> None:
        start = self.last
        conv: list[Operation] = [Conv.same(channels, kernel), BatchNorm()]
        if separable:
            conv = [Conv.same(channels, kernel, groups=channels), Conv(channels, 1), BatchNorm()]
        self.layer(*conv, ReLU(), *conv, Add())
        self.edges.append((start, self.last, 1))
        self.layer(ReLU())

    def module(self) -> Module:
        return Module.of({**self.nodes, "logits": Output()}, [*self.edges, (self.last, "logits", 0)])
