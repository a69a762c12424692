"""Expansion: a genome as one flat graph of primitives with paths and shapes; derived and cached, never edited."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from genomes.errors import InvalidGenome
from genomes.genome import Genome
from genomes.operations import Call, Input, Operation, Output, Shape

MAX_PRIMITIVES = 2000
MAX_DEPTH = 64  # of calls within calls
MAX_NUMBERS = 2**28  # in one value: a gigabyte


@dataclass(frozen=True)
class Primitive:
    """One operation of the flat graph.

    Attributes:
        path: the ids of the calls that lead to it and its own id, joined by `/`.
        module: the name of the module that it was written in.
        id: its node id in that module.
        operation: never a call or an output; an input only for the network's own.
        inputs: the paths that feed it, by port.
        in_shapes: their shapes.
        shape: its output's shape.
    """

    path: str
    module: str
    id: str
    operation: Operation
    inputs: tuple[str, ...]
    in_shapes: tuple[Shape, ...]
    shape: Shape

    def tensor_shapes(self) -> Mapping[str, Shape]:
        """Returns the shapes of its parameters and buffers, by full name `path.parameter`."""
        return self._tensor_shapes

    @cached_property
    def _tensor_shapes(self) -> Mapping[str, Shape]:
        op = self.operation
        shapes = {**op.parameter_shapes(self.in_shapes), **op.buffer_shapes(self.in_shapes)}
        return {f"{self.path}.{name}": shape for name, shape in shapes.items()}


@dataclass(frozen=True)
class Expansion:
    """The flat graph.

    Attributes:
        primitives: by path, inputs first.
        output: the path whose value the network returns.
        values: for each node of each called module (calls, inputs and outputs too), its path to that of the
            primitive which makes its value.
        instances: `(module name, node id)` to the paths of its instances, in the order of the calls.
    """

    primitives: Mapping[str, Primitive]
    output: str
    values: Mapping[str, str]
    instances: Mapping[tuple[str, str], tuple[str, ...]]

    @cached_property
    def consumers(self) -> Mapping[str, tuple[str, ...]]:
        """For each path, the paths that read its value (twice where they read it twice)."""
        table: dict[str, list[str]] = {path: [] for path in self.primitives}
        for primitive in self.primitives.values():
            for source in primitive.inputs:
                table[source].append(primitive.path)
        return {path: tuple(readers) for path, readers in table.items()}

    def shape(self, path: str) -> Shape:
        """Returns the shape of the value at any path of `values`."""
        return self.primitives[self.values[path]].shape

    def tensor_shapes(self) -> Mapping[str, Shape]:
        """Returns the shapes of all parameters and buffers, by full name."""
        return self._tensor_shapes

    @cached_property
    def _tensor_shapes(self) -> Mapping[str, Shape]:
        return {name: shape for p in self.primitives.values() for name, shape in p.tensor_shapes().items()}


@lru_cache(maxsize=1024)
def expand(genome: Genome) -> Expansion:
    """Returns the flat graph of a genome.

    Raises:
        InvalidGenome: a call that leads nowhere or to itself, a missing port, shapes that do not fit (all of them), a
            cycle, or more than 2,000 primitives.
    """
    counted(genome)
    walk = _Walk(genome)
    output = walk.module(genome.root, "", ())
    if walk.faults:
        raise InvalidGenome(*dict.fromkeys(walk.faults))
    return Expansion(walk.primitives, output, walk.values, {key: tuple(paths) for key, paths in walk.instances.items()})


def counted(genome: Genome) -> int:
    """Returns the number of primitives after expansion, without expanding.

    Raises:
        InvalidGenome: a call of an unknown module, modules that call each other in a circle or too deep, or too many
            primitives or calls.
    """
    sizes: dict[str, tuple[int, int]] = {}
    total, calls = _sizes(genome, genome.root, (), sizes)
    for number, what in ((total, "primitives"), (calls, "calls")):
        if number > MAX_PRIMITIVES:
            raise InvalidGenome(f"a genome must expand to at most {MAX_PRIMITIVES} {what}, got {number:,}")
    return total


def _sizes(genome: Genome, name: str, callers: tuple[str, ...], sizes: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """Returns the numbers of primitives and of calls that one call of a module expands to."""
    if name not in genome:
        raise InvalidGenome(f"module {name} is called by {callers[-1] if callers else 'the genome'} but not defined")
    if name in callers:
        raise InvalidGenome(f"modules must not call themselves, got {' -> '.join((*callers, name))}")
    if len(callers) >= MAX_DEPTH:
        raise InvalidGenome(f"calls must lie at most {MAX_DEPTH} deep in each other, got more in module {name}")
    if name not in sizes:
        operations = [op for _, op in genome[name].nodes]
        called = [_sizes(genome, op.module, (*callers, name), sizes) for op in operations if isinstance(op, Call)]
        own = sum(not isinstance(op, (Call, Output)) and not (callers and isinstance(op, Input)) for op in operations)
        sizes[name] = own + sum(size for size, _ in called), len(called) + sum(calls for _, calls in called)
    return sizes[name]


class _Walk:
    """The state of one expansion."""

    def __init__(self, genome: Genome) -> None:
        self.genome = genome
        self.primitives: dict[str, Primitive] = {}
        self.values: dict[str, str] = {}
        self.instances: dict[tuple[str, str], list[str]] = {}
        self.faults: list[str] = []

    def module(self, name: str, prefix: str, arguments: tuple[str, ...]) -> str:
        """Expands one call and returns the path of its value."""
        module = self.genome[name]
        place = f"module {name}"
        if prefix and len(arguments) != len(module.inputs):
            raise InvalidGenome(f"{place} has {len(module.inputs)} inputs, call {prefix[:-1]} gives {len(arguments)}")
        given = dict(zip(module.inputs, arguments, strict=False))
        for node in module.order:
            path, operation = prefix + node, module.operations[node]
            inputs = tuple(self.values[prefix + source] for source in module.sources[node])
            self.instances.setdefault((name, node), []).append(path)
            if node in given:
                self.values[path] = given[node]
            elif isinstance(operation, Call):
                self.values[path] = self.module(operation.module, f"{path}/", inputs)
            elif isinstance(operation, Output):
                self.values[path] = _only(inputs, f"{place}: output {node}")
            else:
                self.values[path] = self.primitive((path, name, node), operation, inputs)
        return self.values[prefix + module.output]

    def primitive(self, names: tuple[str, str, str], op: Operation, inputs: tuple[str, ...]) -> str:
        """Adds one primitive, of a path, a module and an id, with its shapes, and returns its path.

        Behind a fault shapes are unknown, and nothing is added.

        Raises:
            InvalidGenome: it has not as many inputs as it needs.
        """
        place = f"module {names[1]}: node {names[2]}"
        if op.variadic and len(inputs) < 2:
            raise InvalidGenome(f"{place}: {op.kind} needs two inputs or more, got {len(inputs)}")
        if not op.variadic and not isinstance(op, Input):
            _only(inputs, place)
        if all(source in self.primitives for source in inputs):
            in_shapes = tuple(self.primitives[source].shape for source in inputs)
            try:
                self.primitives[names[0]] = Primitive(*names, op, inputs, in_shapes, _sized(op.out_shape(in_shapes)))
            except InvalidGenome as error:
                self.faults.append(f"{place}: {error}")
        return names[0]


def _sized(shape: Shape) -> Shape:
    if math.prod(shape) > MAX_NUMBERS:
        raise InvalidGenome(f"a value must have at most {MAX_NUMBERS:,} numbers, got {list(shape)}")
    return shape


def _only(inputs: tuple[str, ...], place: str) -> str:
    if len(inputs) != 1:
        raise InvalidGenome(f"{place} needs exactly one input, got {len(inputs)}")
    return inputs[0]
