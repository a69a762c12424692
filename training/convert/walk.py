"""Walk: follows a model's trace with the axes of every value known, and puts each operation into a graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from genomes import InvalidGenome
from genomes.operations import OPERATIONS, ChannelShuffle, Concat, Flatten, Input, Linear, Operation, Shape
from training.convert.axes import Atom, Axes, arranged, natural, sizes
from training.convert.graph import IMAGE, Graph
from training.errors import ConversionError, line

BATCH = 7  # of the example
KINDS = ", ".join(kind for kind in OPERATIONS if kind not in ("input", "output", "call"))

Handler = Callable[..., Any]


class Unknown(Exception):
    """An operation, or a setting of it, that no genome has; says why."""


class Again(Exception):
    """Vectors that are needed as images: the walk begins anew with convolutions for the linear maps that make them."""

    def __init__(self, places: set[str]) -> None:
        super().__init__()
        self.places = places


@dataclass(frozen=True)
class Value:
    """A tensor of the model.

    Attributes:
        node: the graph's node whose value it holds.
        axes: how it holds it.
    """

    node: str
    axes: Axes


class Walk(fx.Interpreter):
    """One walk over a trace.

    Attributes:
        flat: what has been put so far.
        as_images: linear maps that are made as convolutions of images of one position.
        handlers: what follows each module's class, function, and name of a method.
        place: the module that the present step belongs to.
    """

    def __init__(
        self, traced: fx.GraphModule, shape: Shape, as_images: set[str], handlers: Mapping[Any, Handler]
    ) -> None:
        super().__init__(traced)
        self.flat, self.shape, self.as_images, self.handlers = Graph(), shape, as_images, handlers
        self.place, self.at_module = "", False
        self.places: dict[str, str] = {}
        self.stacks: dict[tuple[str, ...], str] = {}
        self.extra_traceback = False  # it would be put into the errors' text

    def run_node(self, n: fx.Node) -> Any:
        """Follows one step of the trace; what is unknown is told with its place."""
        self.at_module = n.op == "call_module"
        self.place = str(n.target) if self.at_module else next(reversed(n.meta.get("nn_module_stack") or {}), "")
        try:
            return super().run_node(n)
        except (Unknown, InvalidGenome) as error:
            where = f"{self.place} ({self._words(n)})" if self.place else self._words(n)
            raise ConversionError(f"{where} is no operation that a genome has: {error}") from None

    def _words(self, node: fx.Node) -> str:
        if self.at_module:
            kind = type(self.fetch_attr(self.place))
            known = getattr(nn, kind.__name__, None) is kind
            return f"torch.nn.{kind.__name__}" if known else f"{kind.__module__}.{kind.__qualname__}"
        return str(node._pretty_print_target(node.target)) if node.op == "call_function" else f"Tensor.{node.target}"

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Returns the image, or the default of another argument."""
        if self.flat.operations:
            return super().placeholder(target, args, kwargs)
        self.flat.put(IMAGE, Input(0, self.shape), (), {})
        return Value(IMAGE, natural(self.shape, BATCH))

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Puts what a module computes."""
        module = self.fetch_attr(target)
        return self._followed(type(module), (module, *args), kwargs, super().call_module, target)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Puts what a function computes."""
        return self._followed(target, args, kwargs, super().call_function, target)

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Puts what a method computes."""
        return self._followed(target, args, kwargs, super().call_method, target)

    def _followed(self, key: Any, args: Any, kwargs: Any, computed: Handler, target: Any) -> Any:
        """Puts an operation on values; on anything else, a constant, it is computed."""
        if not holds_value((args, kwargs)):
            return computed(target, args[1:] if self.at_module else args, kwargs)
        if (handler := self.handlers.get(key)) is None:
            raise Unknown(f"it has {KINDS}")
        try:
            return handler(self, *args, **kwargs)
        except (TypeError, AttributeError, IndexError, RuntimeError) as error:
            raise Unknown(f"such arguments are not understood ({line(error)})") from None

    def put(
        self,
        operation: Operation,
        *values: Value,
        axes: Axes | None = None,
        name: str | None = None,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> Value:
        """Puts an operation and returns its value.

        Args:
            operation: what the node is.
            values: its inputs.
            axes: how its value is held; the natural way unless given.
            name: behind the place; unless given that is the operation's kind where the place is no single operation.
            tensors: its parameters and buffers.
        """
        behind = name if name is not None else "" if self.at_module else operation.kind
        held = {key: tensor.detach() for key, tensor in (tensors or {}).items()}
        node = self.flat.put(f"{self.place}.{behind}", operation, [value.node for value in values], held)
        self.places[node] = self.place
        return Value(node, natural(self.flat.shapes[node], BATCH) if axes is None else axes)

    def stacked(self, values: Sequence[Value], dim: int) -> Value:
        """Puts a concatenation; what begins like an earlier one reads that one, as in a dense block."""
        nodes = tuple(value.node for value in values)
        channels = sum(self.shape_of(value)[0] for value in values)
        axes = (*values[0].axes[:dim], (Atom("c", 1, channels),), *values[0].axes[dim + 1 :])
        if len(values) == 1:
            return values[0]
        known = next((count for count in range(len(nodes) - 1, 1, -1) if nodes[:count] in self.stacks), 0)
        before = [Value(self.stacks[nodes[:known]], ())] if known else []
        made = self.put(Concat(), *before, *values[known:], axes=axes)
        self.stacks[nodes] = made.node
        return made

    def shape_of(self, value: Value) -> Shape:
        """Returns the shape `[C, H, W]` or `[F]` of a value in the genome."""
        return self.flat.shapes[value.node]

    def positions(self, value: Value) -> int:
        """Returns how many positions a value has in the genome; a vector has one."""
        return math.prod(self.shape_of(value)[1:])

    def channels(self, value: Value) -> Atom:
        """Returns the atom that is all channels of a value."""
        return Atom("c", 1, self.shape_of(value)[0])

    def is_channels(self, value: Value, axis: int) -> bool:
        """Says whether an axis holds the channels in their order, all of them and nothing else."""
        return value.axes[axis] == natural(self.shape_of(value), BATCH)[1]

    def settled(self, value: Value) -> Value:
        """Returns a value whose channels are in their order, if an axis holds them dealt out: a channel shuffle."""
        for place, axis in enumerate(value.axes):
            if len(axis) == 2 and axis[0] == ("c", 1, axis[0].size) and axis[1] == ("c", axis[0].size, axis[1].size):
                if axis[0].size * axis[1].size != self.shape_of(value)[0]:
                    break
                shuffled = self.put(ChannelShuffle(axis[1].size), value, name="shuffle")
                whole = (*value.axes[:place], (self.channels(value),), *value.axes[place + 1 :])
                return Value(shuffled.node, whole)
        return value

    def image(self, value: Value) -> Value:
        """Returns a value that is held as `[N, C, H, W]`.

        Raises:
            Unknown: it is held in another way.
            Again: it is a vector.
        """
        value = self.settled(value)
        shape = self.shape_of(value)
        if len(value.axes) == 4 and len(shape) == 1:
            self.again(value)
        if len(value.axes) != 4 or value.axes != natural(shape, BATCH):
            raise Unknown(f"its input must be [N, C, H, W] with channels first, got {self.told(value)}")
        return value

    def vector(self, value: Value) -> Value:
        """Returns a value of two axes as one whose node is a vector.

        Raises:
            Unknown: it is not `[N, F]`, or its channels do not run slowest.
        """
        value = self.settled(value)
        if len(self.shape_of(value)) == 1 and value.axes == natural(self.shape_of(value), BATCH):
            return value
        whole = tuple(atom for axis in natural(self.shape_of(value), BATCH)[1:] for atom in axis)
        held = tuple(atom for axis in value.axes[1:] for atom in axis)
        merged = natural((self.shape_of(value)[0], 1, self.positions(value)), BATCH)
        if len(value.axes) != 2 or held not in (whole, tuple(atom for axis in merged[1:] for atom in axis)):
            raise Unknown(f"its input must be [N, F], flattened with channels first, got {self.told(value)}")
        return self.put(Flatten(), value, name="flatten")

    def result(self, value: Value) -> Value:
        """Returns what the model returns as a vector.

        Raises:
            ConversionError: it is something else.
        """
        try:
            return self.vector(value)
        except Unknown as error:
            raise ConversionError(f"the model must return logits [N, classes]: {error}") from None

    def again(self, value: Value) -> None:
        """Begins anew, with the linear maps that lead to a vector as convolutions.

        Raises:
            Again: always, unless there is none.
            Unknown: there is no such linear map.
        """
        found, queue = set[str](), [value.node]
        while queue:
            node = queue.pop()
            if len(self.flat.shapes[node]) == 1:
                queue.extend(self.flat.sources[node])
                if isinstance(self.flat.operations[node], Linear):
                    found.add(self.places[node])
        if not found - self.as_images:
            raise Unknown("a vector would have to become an image, for which a genome has no operation")
        raise Again(found)

    def constant(self, tensor: Tensor, value: Value) -> Tensor:
        """Returns a constant that is joined with a value, in the genome's shape of that value.

        Raises:
            Unknown: it has more axes, does not fit, or differs within the batch.
        """
        found = arranged(tensor.detach(), value.axes, self.shape_of(value))
        if found is None:
            raise Unknown(f"a constant of shape {list(tensor.shape)} does not fit {self.told(value)}")
        return found

    def told(self, value: Value) -> str:
        """Returns a value's shape in words."""
        held = zip(value.axes, sizes(value.axes), strict=True)
        extents = ["N" if axis == (Atom("n", 1, BATCH),) else str(size) for axis, size in held]
        return f"[{', '.join(extents)}]"


def holds_value(thing: Any) -> bool:
    """Says whether arguments hold a value anywhere."""
    if isinstance(thing, Mapping):
        return any(map(holds_value, thing.values()))
    return isinstance(thing, Value) or (isinstance(thing, tuple | list) and any(map(holds_value, thing)))
