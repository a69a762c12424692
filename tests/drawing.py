"""Draws random valid genomes, and messy weights for them, for the property tests of every package."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from hypothesis import strategies

from genomes import Genome, Module, check, expand
from genomes import operations as ops
from genomes.operations import Operation, Shape

if TYPE_CHECKING:
    from torch import Tensor

SHAPE = (3, 8, 8)
CLASSES = 4
Value = tuple[str, Shape]


def genomes(shape: Shape = SHAPE, classes: int = CLASSES) -> strategies.SearchStrategy[Genome]:
    """Returns a strategy for valid genomes that use every operation, and modules called several times."""
    return strategies.integers(0, 2**32 - 1).map(lambda seed: seeded_genome(seed, shape, classes))


@lru_cache(maxsize=2048)
def seeded_genome(seed: int, shape: Shape = SHAPE, classes: int = CLASSES) -> Genome:
    """Returns the genome of a seed."""
    return random_genome(random.Random(seed), shape, classes)


def random_genome(
    rng: random.Random, shape: Shape = SHAPE, classes: int = CLASSES, steps: tuple[int, int] = (1, 5)
) -> Genome:
    """Returns a valid genome that maps images of `shape` to `classes` numbers in milliseconds.

    Args:
        rng: of all choices.
        shape: `[C, H, W]` with an extent of 4 or more; above 8 it is halved at once.
        classes: the length of the output.
        steps: how many structures stand between stem and head, at least and at most.
    """
    width, ports = rng.choice((4, 6, 8)), rng.choice((1, 1, 2))
    net = Builder(rng, {"image": ops.Input(0, shape)}, [("image", shape)])
    value = net.conv(net.values[0], width)
    if shape[1] > 8:
        value = net.shrunk(value)
    for _ in range(rng.randint(*steps)):
        value = net.call("cell", value, width, ports) if rng.random() < 0.45 else net.step(value)
    modules = {"net": net.module(net.head(value, classes))}
    if _calls(modules["net"]):
        modules["cell"] = _cell(rng, width, ports)
    if any(_calls(module) - {"cell"} for module in modules.values()):
        modules["excite"] = _excite(width)
    genome = Genome.of(modules)
    check(genome)
    return genome


def messy_weights(genome: Genome, seed: int) -> dict[str, Tensor]:
    """Returns float64 tensors with which no norm, slope or share is near its default: default values hide bugs."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for path, primitive in sorted(expand(genome).primitives.items()):
        for name, shape in primitive.tensor_shapes().items():
            drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
            if primitive.operation.shared:
                drawn = drawn.sigmoid()
            elif len(shape) > 1:
                drawn = drawn / drawn[0].numel() ** 0.5
            elif name == f"{path}.running_var":
                drawn = 0.05 + drawn.square()
            else:
                drawn = 0.5 * drawn + (0.8 if name == f"{path}.weight" else 0.1)
            tensors[name] = drawn
    return tensors


def _calls(module: Module) -> set[str]:
    return {operation.module for _, operation in module.nodes if isinstance(operation, ops.Call)}


def _cell(rng: random.Random, width: int, ports: int) -> Module:
    """Returns a module of one or two images of `width` channels and any extent; it keeps both."""
    inputs: dict[str, Operation] = {f"x{port}": ops.Input(port) for port in range(ports)}
    cell = Builder(rng, inputs, [(name, (width, 4, 4)) for name in inputs])
    value = cell.join(*cell.values) if ports == 2 else cell.values[0]
    for _ in range(rng.randint(1, 2)):
        value = cell.step(value, resize=False)
    value = cell.conv(value, width)
    if rng.random() < 0.3:
        value = cell.put(ops.Call("excite"), [value], value[1])
    return cell.module(value)


def _excite(width: int) -> Module:
    """Returns squeeze-excite: channels are scaled by what their means say."""
    chain = [ops.GlobalPool(), ops.Conv(2, 1, bias=True), ops.ReLU(), ops.Conv(width, 1, bias=True), ops.Sigmoid()]
    names = ["x", "pool", "down", "relu", "up", "gate"]
    nodes = dict(zip(names, [ops.Input(), *chain], strict=True))
    edges = [(*pair, 0) for pair in pairwise(names)]
    return Module.of(
        {**nodes, "mul": ops.Mul(), "y": ops.Output()},
        [*edges, ("x", "mul", 0), ("gate", "mul", 1), ("mul", "y", 0)],
    )


class Builder:
    """A module that grows node by node; a value is the id of a node and its shape."""

    def __init__(self, rng: random.Random, nodes: dict[str, Operation], values: Sequence[Value]) -> None:
        self.rng, self.nodes, self.values = rng, dict(nodes), list(values)
        self.edges: list[tuple[str, str, int]] = []

    def put(self, operation: Operation, sources: Sequence[Value], shape: Shape | None = None) -> Value:
        """Adds a node that reads `sources`; a call needs its shape told."""
        name = f"{operation.kind}{len(self.nodes)}"
        self.nodes[name] = operation
        self.edges.extend((source, name, port) for port, (source, _) in enumerate(sources))
        self.values.append((name, shape or operation.out_shape([shape for _, shape in sources])))
        return self.values[-1]

    def then(self, value: Value, *operations: Operation) -> Value:
        """Adds a chain of nodes behind a value."""
        for operation in operations:
            value = self.put(operation, [value])
        return value

    def conv(self, value: Value, width: int, groups: int = 1, **fields: int) -> Value:
        """Adds a convolution that keeps the extent, unless it has a stride, and perhaps norm and activation."""
        rng = self.rng
        kernel, dilation, bias = rng.choice((1, 3, 3)), rng.choice((1, 1, 1, 2)), rng.random() < 0.3
        conv = ops.Conv.same(width, kernel, dilation=dilation, groups=groups, bias=bias, **fields)
        norm = self.norm(width)
        return self.then(value, conv, *rng.choice(([], [norm], [norm, self.activation()], [self.activation()])))

    def norm(self, width: int) -> Operation:
        """Returns a batch norm, or at times one over channels."""
        groups = next((g for g in (3, 2) if width % g == 0), 1)
        kinds = [ops.BatchNorm(), ops.GroupNorm(groups), ops.LayerNorm()]
        return self.rng.choices(kinds, (8, 1, 1))[0]

    def activation(self) -> Operation:
        """Returns one of the functions of a single number."""
        first, second = self.rng.sample(ops.BLENDED, 2)
        common = [ops.ReLU(), ops.GELU(), ops.SiLU(), ops.PReLU(), ops.Blend(first, second)]
        rare = [ops.Sigmoid(), ops.ReLU6(), ops.Hardswish(), ops.Hardsigmoid()]
        return self.rng.choices([*common, *rare], [6, 2, 2, 2, 2, *[1] * len(rare)])[0]

    def step(self, value: Value, resize: bool = True) -> Value:
        """Puts one of several structures behind a value."""
        kinds: list[Callable[[Value], Value]] = [
            self.plain,
            self.separable,
            self.grouped,
            self.residual,
            self.branched,
            self.stacked,
            self.gated,
            self.passed,
            self.attended,
            self.sliced,
        ]
        if resize and value[1][1] >= 4:
            kinds += [self.shrunk] * 4
        return self.rng.choice(kinds)(value)

    def plain(self, value: Value) -> Value:
        """Convolution to another width."""
        return self.conv(value, self.rng.choice((3, 4, 6, 8)))

    def separable(self, value: Value) -> Value:
        """Depthwise convolution, at times with a multiplier, then a pointwise one."""
        width, times = value[1][0], self.rng.choice((1, 1, 2))
        return self.then(self.conv(value, width * times, groups=width), ops.Conv(self.rng.choice((4, 6)), 1))

    def grouped(self, value: Value) -> Value:
        """Convolution of two or three groups, where these divide the width."""
        groups = next((g for g in (3, 2) if value[1][0] % g == 0), 1)
        return self.conv(value, groups * self.rng.choice((1, 2, 3)), groups=groups)

    def residual(self, value: Value) -> Value:
        """Adds a function of the value to it."""
        return self.join(value, self.conv(self.conv(value, self.rng.choice((3, 5))), value[1][0]))

    def join(self, first: Value, second: Value) -> Value:
        """Adds, averages, blends or multiplies two values of one shape, or stacks them."""
        unite = self.rng.choice((ops.Add(), ops.Add(), ops.Mean(), ops.Mul(), ops.Gate(), ops.Concat()))
        return self.put(unite, self.rng.sample([first, second], 2))

    def branched(self, value: Value) -> Value:
        """Unites two or three branches and perhaps an earlier value of the same shape."""
        width = self.rng.choice((4, 6))
        branches = [self.conv(value, width) for _ in range(self.rng.choice((2, 3)))]
        like = [other for other in self.values if other[1] == branches[0][1]]
        unite = self.rng.choice((ops.Add(), ops.Mean(), ops.Concat()))
        return self.put(unite, [*branches, self.rng.choice(like)])

    def stacked(self, value: Value) -> Value:
        """Stacks a value with itself, or with one that needs no tensors."""
        pooled = self.then(value, self.rng.choice((ops.MaxPool(3, 1, 1), ops.AvgPool(3, 1, 1), ops.ReLU())))
        stacked = self.put(ops.Concat(), [value, self.rng.choice((value, pooled))])
        return self.then(stacked, ops.Conv(self.rng.choice((4, 6)), 1))

    def gated(self, value: Value) -> Value:
        """Squeeze-excite, written out."""
        width = value[1][0]
        squeezed = self.then(value, ops.GlobalPool(), ops.Conv(2, 1, bias=True), self.activation())
        return self.put(ops.Mul(), [value, self.then(squeezed, ops.Conv(width, 1), ops.Sigmoid())])

    def attended(self, value: Value) -> Value:
        """Adds what attention of one or two heads makes of the value, at times with places told apart."""
        rng, width = self.rng, value[1][0]
        given = self.then(value, ops.Position()) if rng.random() < 0.3 else value
        heads, depth = rng.choice((1, 2)), rng.choice((1, 2))
        query, key = (self.then(given, ops.Conv(heads * depth, 1)) for _ in range(2))
        content = self.then(given, ops.Conv(heads * rng.choice((2, 3)), 1, bias=True))
        mixed = self.put(ops.Attention(heads), [query, key, content])
        return self.put(ops.Add(), [value, self.then(mixed, ops.Conv(width, 1))])

    def sliced(self, value: Value) -> Value:
        """Cuts a value in two, changes one part, and stacks or shuffles them."""
        width = value[1][0]
        if width < 2:
            return self.plain(value)
        cut = self.rng.randint(1, width - 1)
        first, second = self.then(value, ops.Slice(0, cut)), self.then(value, ops.Slice(cut, width))
        stacked = self.put(ops.Concat(), [self.conv(first, self.rng.choice((2, 3))), second])
        groups = next((g for g in (3, 2) if stacked[1][0] % g == 0), 1)
        return self.then(stacked, *self.rng.choice(([], [], [ops.ChannelShuffle(groups)])))

    def passed(self, value: Value) -> Value:
        """Operations that keep the channels."""
        norm = self.norm(value[1][0])
        choices = (ops.Scale(), ops.Dropout(0.25), ops.Identity(), norm, self.activation(), ops.Position())
        return self.then(value, *self.rng.sample(choices, 2))

    def shrunk(self, value: Value) -> Value:
        """Halves the extent."""
        if self.rng.random() < 0.5:
            return self.conv(value, self.rng.choice((4, 6, 8)), stride=2)
        ceil = self.rng.random() < 0.3
        pools = (ops.MaxPool(2, 2, 0, ceil), ops.AvgPool(2, 2, 0, ceil), ops.MaxPool(3, 2, 1), ops.AvgPool(3, 2, 1))
        return self.then(value, self.rng.choice(pools))

    def call(self, module: str, value: Value, width: int, ports: int) -> Value:
        """Calls a module that keeps the shape, on the value and perhaps on an earlier one like it."""
        value = value if value[1][0] == width else self.conv(value, width)
        like = [other for other in self.values if other[1] == value[1]]
        return self.put(ops.Call(module), [value, *(self.rng.choice(like) for _ in range(ports - 1))], value[1])

    def head(self, value: Value, classes: int) -> Value:
        """Ends in a vector: of all positions, of their mean, or of one."""
        rng = self.rng
        last = rng.choices(([], [ops.GlobalPool()], [ops.ClassToken(), ops.Select(rng.choice((0, 1)))]), (4, 6, 1))[0]
        value = self.then(value, *last, ops.Flatten())
        if rng.random() < 0.4:
            norms = rng.choice(([], [ops.BatchNorm()], [ops.LayerNorm()]))
            value = self.then(value, ops.Linear(6), *norms, self.activation())
        return self.then(value, ops.Linear(classes))

    def module(self, value: Value) -> Module:
        """Returns the module that computes `value`, without what does not lead to it."""
        full = Module.of({**self.nodes, "y": ops.Output()}, [*self.edges, (value[0], "y", 0)])
        useful, queue = {"y"}, ["y"]
        while queue:
            new = set(full.sources[queue.pop()]) - useful
            useful |= new
            queue.extend(new)
        return full.changed(
            {node: None for node in full.operations if node not in useful},
            remove=[edge for edge in full.edges if edge.target not in useful],
        )
