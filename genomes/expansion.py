"""Expansion: a genome as one flat graph of primitives with paths and shapes; derived and cached, never edited.

Genomes of one family share most primitives, as the same objects: what is known of one is worked out once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import cached_property, lru_cache

from genomes.errors import InvalidGenome
from genomes.genome import Genome
from genomes.operations import Call, Input, Operation, Output, Shape

MAX_PRIMITIVES = 2000
MAX_DEPTH = 64  # of calls within calls
MAX_NUMBERS = 2**28  # in one value: a gigabyte
MOST_REMEMBERED = 2**14  # primitives
DERIVED = "_expansion"  # where a genome keeps one that was worked out from its parent's, until it is asked for


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

    @cached_property
    def counts(self) -> tuple[int, int, int]:
        """How many parameters it has, multiply-accumulates it takes, and numbers it makes."""
        parameters = sum(map(math.prod, self.operation.parameter_shapes(self.in_shapes).values()))
        return parameters, self.operation.macs(self.in_shapes), math.prod(self.shape)

    @cached_property
    def label(self) -> bytes:
        """A hash of 16 bytes of its operation and its value's shape, blind to names and to what it reads."""
        return hashlib.blake2b(repr((self.operation.text, self.shape)).encode(), digest_size=16).digest()

    def reading(self, inputs: tuple[str, ...], in_shapes: tuple[Shape, ...]) -> Primitive:
        """Returns the same operation at the same place, on other inputs."""
        return _primitive(self.path, self.module, self.id, self.operation, inputs, in_shapes)


# By all that a primitive is made from. Of an operation that is its text: as values 0, 0.0 and false are equal.
_remembered: dict[tuple[object, ...], Primitive] = {}


def _primitive(
    path: str, module: str, node: str, operation: Operation, inputs: tuple[str, ...], in_shapes: tuple[Shape, ...]
) -> Primitive:
    """Returns the primitive, the same object wherever the same is asked for.

    Raises:
        InvalidGenome: the inputs do not fit the operation, or its value would be too large.
    """
    key = (path, module, operation.text, inputs, in_shapes)
    if (found := _remembered.get(key)) is None:
        if len(_remembered) >= MOST_REMEMBERED:
            _remembered.clear()
        shape = _sized(operation.out_shape(in_shapes))
        found = _remembered[key] = Primitive(path, module, node, operation, inputs, in_shapes, shape)
    return found


@dataclass(frozen=True)
class Expansion:
    """The flat graph.

    Attributes:
        primitives: by path, inputs first.
        output: the path whose value the network returns.
        values: for each node of each called module (calls, inputs and outputs too), its path to that of the
            primitive which makes its value.
        instances: `(module name, node id)` to the paths of its instances, in the order of the calls.
        calls: module name to the prefixes of the paths in each of its calls, in their order.
    """

    primitives: Mapping[str, Primitive]
    output: str
    values: Mapping[str, str]
    instances: Mapping[tuple[str, str], tuple[str, ...]]
    calls: Mapping[str, tuple[str, ...]]

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

    @cached_property
    def shapes(self) -> Mapping[tuple[str, str], tuple[Shape, ...]]:
        """By module name and node id, the shapes of the node's value, one for each call of the module."""
        return {node: tuple([self.shape(path) for path in paths]) for node, paths in self.instances.items()}

    def tensor_shapes(self) -> Mapping[str, Shape]:
        """Returns the shapes of all parameters and buffers, by full name."""
        return self._tensor_shapes

    @cached_property
    def _tensor_shapes(self) -> Mapping[str, Shape]:
        return {name: shape for p in self.primitives.values() for name, shape in p.tensor_shapes().items()}


NOTHING = Expansion({}, "", {}, {}, {})


@lru_cache(maxsize=1024)
def expand(genome: Genome) -> Expansion:
    """Returns the flat graph of a genome.

    Raises:
        InvalidGenome: a call that leads nowhere or to itself, a missing port, shapes that do not fit (all of them), a
            cycle, or more than 2,000 primitives.
    """
    ready: Expansion | None = vars(genome).pop(DERIVED, None)
    return ready or _expansion(_Walk(genome))


def derived(child: Genome, parent: Genome) -> Expansion:
    """Returns what `expand` returns for a child, and lets it return that; what a parent has too is taken from there.

    Raises:
        InvalidGenome: as `expand`.
    """
    vars(child)[DERIVED] = expansion = _expansion(_Walk(child, parent))
    return expansion


def _expansion(walk: _Walk) -> Expansion:
    counted(walk.genome)
    output = walk.module(walk.genome.root, "", ())
    if walk.faults:
        raise InvalidGenome(*dict.fromkeys(walk.faults))
    instances: dict[tuple[str, str], tuple[str, ...]] = {}
    for name, (first, *more) in walk.calls.items():
        for node in walk.genome[name].order:
            instances[name, node] = (first + node, *[prefix + node for prefix in more]) if more else (first + node,)
    calls = {name: tuple(prefixes) for name, prefixes in walk.calls.items()}
    return Expansion(walk.primitives, output, walk.values, instances, calls)


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
        module = genome[name]
        called = [_sizes(genome, each, (*callers, name), sizes) for each in module.calls]
        own = len(module.nodes) - len(module.calls) - len(module.outputs) - (len(module.inputs) if callers else 0)
        sizes[name] = own + sum(size for size, _ in called), len(called) + sum(calls for _, calls in called)
    return sizes[name]


class _Walk:
    """The state of one expansion; with a parent, of which most is taken over."""

    def __init__(self, genome: Genome, parent: Genome | None = None) -> None:
        self.genome, self.parent, self.before = genome, parent, expand(parent) if parent else NOTHING
        self.primitives: dict[str, Primitive] = {}
        self.values: dict[str, str] = {}
        self.calls: dict[str, list[str]] = {}
        self.faults: list[str] = []

    def module(self, name: str, prefix: str, arguments: tuple[str, ...]) -> str:
        """Expands one call and returns the path of its value."""
        module, values = self.genome[name], self.values
        if prefix and len(arguments) != len(module.inputs):
            raise InvalidGenome(
                f"module {name} has {len(module.inputs)} inputs, call {prefix[:-1]} gives {len(arguments)}"
            )
        self.calls.setdefault(name, []).append(prefix)
        sources, given = module.sources, dict(zip(module.inputs, arguments, strict=False))
        kept, moved = self.kept(name, prefix), set[str]()
        for node in module.order:
            path = prefix + node
            if node in kept and moved.isdisjoint(sources[node]):
                values[path], self.primitives[path] = path, self.before.primitives[path]
                continue
            inputs = tuple([values[prefix + source] for source in sources[node]])
            values[path] = given[node] if node in given else self.value((path, name, node), inputs)
            if kept and self.moved(path):
                moved.add(node)
        return values[prefix + module.output]

    def kept(self, name: str, prefix: str) -> Set[str]:
        """Returns the nodes of one call that are primitives in the parent too, do the same, and read the same nodes."""
        if self.parent is None or prefix not in self.before.calls.get(name, ()):
            return frozenset()
        module, old, known = self.genome[name], self.parent[name], self.before.primitives
        alike = [node for node, op in module.nodes if old.operations.get(node) is op and prefix + node in known]
        return {node for node in alike if old.sources[node] == module.sources[node]}

    def moved(self, path: str) -> bool:
        """Says whether a value is made at another place than in the parent, or has another shape."""
        value, before = self.values[path], self.before
        if before.values.get(path) != value or value not in self.primitives:
            return True
        return before.primitives[value].shape != self.primitives[value].shape

    def value(self, names: tuple[str, str, str], inputs: tuple[str, ...]) -> str:
        """Expands one node, of a path, a module and an id, and returns the path of what makes its value."""
        path, module, node = names
        operation = self.genome[module].operations[node]
        if isinstance(operation, Call):
            return self.module(operation.module, f"{path}/", inputs)
        if isinstance(operation, Output):
            return _only(inputs, f"module {module}: output {node}")
        self.primitive(path, module, node, operation, inputs)
        return path

    def primitive(self, path: str, module: str, node: str, operation: Operation, inputs: tuple[str, ...]) -> None:
        """Adds one primitive with its shapes; behind a fault shapes are unknown, and nothing is added.

        Raises:
            InvalidGenome: it has not as many inputs as it needs.
        """
        known = self.primitives
        if (len(inputs) < 2) if operation.variadic else (len(inputs) != 1):
            _counted(operation, inputs, f"module {module}: node {node}")
        if self.faults and not all(source in known for source in inputs):
            return
        try:
            in_shapes = tuple([known[source].shape for source in inputs])
            known[path] = _primitive(path, module, node, operation, inputs, in_shapes)
        except InvalidGenome as error:
            self.faults.append(f"module {module}: node {node}: {error}")


def _sized(shape: Shape) -> Shape:
    if any(type(extent) is not int for extent in shape):  # true is 1 to whoever compares shapes
        raise InvalidGenome(f"extents must be integers, got {list(shape)}")
    if math.prod(shape) > MAX_NUMBERS:
        raise InvalidGenome(f"a value must have at most {MAX_NUMBERS:,} numbers, got {list(shape)}")
    return shape


def _counted(operation: Operation, inputs: tuple[str, ...], place: str) -> None:
    """Refuses a number of inputs that an operation cannot have."""
    if operation.variadic:
        raise InvalidGenome(f"{place}: {operation.kind} needs two inputs or more, got {len(inputs)}")
    if not isinstance(operation, Input):
        _only(inputs, place)


def _only(inputs: tuple[str, ...], place: str) -> str:
    if len(inputs) != 1:
        raise InvalidGenome(f"{place} needs exactly one input, got {len(inputs)}")
    return inputs[0]
