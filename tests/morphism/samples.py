"""Random genomes that hide nothing, their messy weights, and probes, for the tests of this package."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from genomes import Genome, Module, check, expand
from genomes.operations import (
    GELU,
    Add,
    AvgPool,
    BatchNorm,
    Call,
    Concat,
    Conv,
    Dropout,
    Flatten,
    GlobalPool,
    Identity,
    Input,
    Linear,
    MaxPool,
    Mean,
    Mul,
    Operation,
    Output,
    ReLU,
    Scale,
    Shape,
    Sigmoid,
    SiLU,
)

SHAPE = (2, 12, 12)
CLASSES = 3
Value = tuple[str, Shape]


def probes(seed: int) -> Tensor:
    """Returns eight images in float64."""
    return torch.randn((8, *SHAPE), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def messy(genome: Genome, seed: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Returns weights with which no norm is near its default."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: _messy(name, shape, generator).to(dtype) for name, shape in sorted(expand(genome).tensor_shapes().items())
    }


@lru_cache(maxsize=512)
def drawn(seed: int) -> Genome:
    """Returns a valid genome that maps `[2, 12, 12]` to 3 classes, mostly with a module called several times."""
    rng = random.Random(seed)
    width, ports = rng.choice((3, 4, 6)), rng.choice((1, 1, 2))
    net = _Builder(rng, [("in0", SHAPE)], {"in0": Input(0, SHAPE)})
    value = net.put(MaxPool(), net.put(ReLU(), net.put(BatchNorm(), net.conv(net.values[0], width))))
    for number in range(rng.randint(1, 4)):
        value = net.call(f"call{number}", value, width, ports) if rng.random() < 0.6 else net.layer(value)
    value = net.put(Flatten(), net.put(rng.choice((GlobalPool(), AvgPool(3, 3))), value))
    if rng.random() < 0.5:
        value = net.put(ReLU(), net.put(Linear(5), value))
    if rng.random() < 0.5:
        value = net.put(BatchNorm(), value)
    modules = {"net": net.module(net.put(Linear(CLASSES), value))}
    if any(isinstance(operation, Call) for _, operation in modules["net"].nodes):
        modules["cell"] = _cell(rng, width, ports)
    genome = Genome.of(modules)
    check(genome)
    return genome


def uneven_calls() -> Genome:
    """Returns a genome that calls a module with 4 channels of extent 12 and with 6 channels of extent 6."""
    cell = {"i": Input(0), "r": ReLU(), "p": MaxPool(3, 1, 1), "c": Conv.same(4, 3), "s": ReLU(), "o": Output()}
    net = {
        "x": Input(0, SHAPE),
        "a": Conv.same(4, 3),
        "one": Call("cell"),
        "m": MaxPool(),
        "b": Conv.same(6, 3),
        "e": ReLU(),
        "two": Call("cell"),
        "g": GlobalPool(),
        "f": Flatten(),
        "h": Linear(CLASSES),
        "y": Output(),
    }
    modules = {"cell": Module.of(cell, list(pairwise(cell))), "net": Module.of(net, list(pairwise(net)))}
    return Genome.of(modules)


def _cell(rng: random.Random, width: int, ports: int) -> Module:
    inputs = {f"in{port}": Input(port) for port in range(ports)}
    cell = _Builder(rng, [(name, (width, 6, 6)) for name in inputs], inputs)
    value = cell.values[0] if ports == 1 else cell.put(rng.choice((Add(), Concat(), Mul())), *cell.values)
    for _ in range(rng.randint(1, 3)):
        value = cell.layer(value)
    return cell.module(cell.conv(value, width))


class _Builder:
    """A module that grows node by node."""

    def __init__(self, rng: random.Random, values: Sequence[Value], nodes: dict[str, Operation]) -> None:
        self.rng, self.values, self.nodes = rng, list(values), dict(nodes)
        self.edges: list[tuple[str, str, int]] = []

    def put(self, operation: Operation, *sources: Value) -> Value:
        name = f"n{len(self.nodes)}"
        return self._put(name, operation, sources, operation.out_shape([shape for _, shape in sources]))

    def _put(self, name: str, operation: Operation, sources: Sequence[Value], shape: Shape) -> Value:
        self.nodes[name] = operation
        self.edges.extend((source, name, port) for port, (source, _) in enumerate(sources))
        self.values.append((name, shape))
        return self.values[-1]

    def conv(self, value: Value, width: int, groups: int = 1) -> Value:
        rng = self.rng
        kernel, dilation, bias = rng.choice((1, 3)), rng.choice((1, 1, 2)), rng.random() < 0.4
        return self.put(Conv.same(width, kernel, dilation=dilation, groups=groups, bias=bias), value)

    def call(self, name: str, value: Value, width: int, ports: int) -> Value:
        if value[1][0] != width:
            value = self.conv(value, width)
        like = [other for other in self.values if other[1] == value[1]]
        arguments = [value, *(self.rng.choice(like) for _ in range(ports - 1))]
        return self._put(name, Call("cell"), arguments, value[1])

    def layer(self, value: Value) -> Value:
        """Puts one of several small structures behind a value."""
        return self.rng.choice((self.mixed, self.separate, self.joined, self.excited, self.passed))(value)

    def mixed(self, value: Value) -> Value:
        return self.put(ReLU(), self.put(BatchNorm(), self.conv(value, self.rng.choice((2, 4, 6)))))

    def separate(self, value: Value) -> Value:
        """Puts a depthwise, a multiplying or a grouped convolution."""
        rng, width = self.rng, value[1][0]
        groups = next((g for g in (3, 2) if width % g == 0), 1)
        depthwise, multiplied, grouped = (width, width), (2 * width, width), (groups * rng.choice((1, 2)), groups)
        conv = self.conv(value, *rng.choice((depthwise, grouped, multiplied if width < 8 else depthwise)))
        return self.put(rng.choice((ReLU(), GELU(), SiLU())), self.put(BatchNorm(), conv))

    def joined(self, value: Value) -> Value:
        """Joins the value with a function of itself, with an earlier one, or with itself."""
        rng, width = self.rng, value[1][0]
        if width < 12 and rng.random() < 0.4:
            return self.put(Concat(), value, rng.choice((value, self.put(ReLU(), self.conv(value, 3)))))
        others = [other for other in self.values if other[1] == value[1]]
        other = rng.choice((self.put(ReLU(), self.conv(value, width)), rng.choice(others)))
        return self.put(rng.choice((Add(), Mean(), Mul())), value, other)

    def excited(self, value: Value) -> Value:
        squeezed = self.put(SiLU(), self.conv(self.put(GlobalPool(), value), 2))
        return self.put(Mul(), value, self.put(Sigmoid(), self.conv(squeezed, value[1][0])))

    def passed(self, value: Value) -> Value:
        return self.put(self.rng.choice((ReLU(), Scale(), Dropout(), Identity(), SiLU())), value)

    def module(self, value: Value) -> Module:
        """Returns the module without what does not lead to `value`."""
        edges = [*self.edges, (value[0], "out", 0)]
        kept = {"out"}
        while grown := {source for source, target, _ in edges if target in kept} - kept:
            kept |= grown
        nodes = {name: op for name, op in {**self.nodes, "out": Output()}.items() if name in kept}
        return Module.of(nodes, [edge for edge in edges if edge[1] in kept])


def _messy(name: str, shape: Shape, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
    if len(shape) > 1:
        return drawn / math.sqrt(math.prod(shape[1:]))
    if name.endswith("running_var"):
        return 0.05 + drawn.square()
    return 0.5 * drawn + (0.8 if name.endswith("weight") else 0.1)
