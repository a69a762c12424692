"""Tracing: a model as a graph of torch.fx, in which decisions by shapes are taken."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from torch import Tensor, fx, nn

from genomes.operations import Shape
from training.convert.functions import FUNCTIONS, METHODS
from training.convert.layers import LAYERS
from training.convert.walk import Again, Value, Walk
from training.errors import ConversionError, line

HANDLERS = {**LAYERS, **FUNCTIONS, **METHODS}
OWN = "every place in a genome has weights of its own"


def trace(model: nn.Module, shape: Shape) -> fx.GraphModule:
    """Returns the trace of a model on images `[N, *shape]`.

    Where its forward decides by something, the trace so far is followed to find out what that is, and the trace begins
    again with the answer.

    Raises:
        ConversionError: it cannot be traced, it decides by what it computes, or it uses weights twice.
    """
    answers: list[int] = []
    while True:
        tracer = _Tracer(answers)
        try:
            traced = fx.GraphModule(model, tracer.trace(model))
        except _Asked as asked:
            answers.append(_answered(model, asked, shape))
        except Exception as error:  # whatever its forward does with what is no tensor
            raise ConversionError(f"the model cannot be traced by torch.fx: {line(error)}") from error
        else:
            _unshared(traced)
            return traced


def walked(traced: fx.GraphModule, shape: Shape) -> tuple[Walk, Any]:
    """Returns a walk over a trace, and what it came to.

    Raises:
        ConversionError: an operation is unknown.
    """
    as_images = set[str]()
    while True:
        walk = Walk(traced, shape, as_images, HANDLERS)
        try:
            return walk, walk.run()
        except Again as again:
            as_images = as_images | again.places


class _Asked(BaseException):
    """A question about what a node stands for; not an Exception, which the model could catch."""

    def __init__(self, node: fx.Node, question: Callable[[Any], int]) -> None:
        super().__init__()
        self.node, self.question = node, question


class _Proxy(fx.Proxy):
    tracer: _Tracer

    def __len__(self) -> int:
        return self.tracer.answer(self, len)


class _Tracer(fx.Tracer):
    """Asks whether something is true, and how long it is."""

    def __init__(self, answers: Sequence[int]) -> None:
        super().__init__()
        self.answers = iter(answers)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self.answer(obj, bool))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        return iter([operator.getitem(obj, place) for place in range(self.answer(obj, len))])

    def answer(self, obj: fx.Proxy, question: Callable[[Any], int]) -> int:
        """Returns the next answer.

        Raises:
            _Asked: it is not known yet.
        """
        if (answer := next(self.answers, None)) is None:
            raise _Asked(obj.node, question)
        return answer


def _answered(model: nn.Module, asked: _Asked, shape: Shape) -> int:
    asked.node.graph.output(asked.node)
    _, found = walked(fx.GraphModule(model, asked.node.graph), shape)
    if isinstance(found, Value | Tensor):
        raise ConversionError("the model cannot be traced by torch.fx: its forward decides by what it computes")
    return asked.question(found)


def _unshared(traced: fx.GraphModule) -> None:
    """Refuses weights that are used in two places."""
    modules, uses = dict(traced.named_modules()), Counter[str]()
    firsts: dict[int, str] = {}
    for name, parameter in traced.named_parameters(remove_duplicate=False):
        if (first := firsts.setdefault(id(parameter), name)) != name:
            raise ConversionError(f"{name} must be a parameter of its own, it is also {first}: {OWN}")
    names, derived = set(firsts.values()), _derived(traced.graph)
    for node in traced.graph.nodes:
        target = str(node.target)
        if node.op == "call_module" and modules[target].state_dict():
            uses[target] += 1
        if node.op == "get_attr" and target in names:
            uses[target] += _uses(node, derived)
    for name, times in uses.items():
        if times > 1:
            raise ConversionError(f"{name} must be used once, it is used {times} times: {OWN}")


def _derived(graph: fx.Graph) -> set[fx.Node]:
    """Returns the weights, and what is computed from them alone."""
    found = set[fx.Node]()
    for node in graph.nodes:
        if node.op == "get_attr" or (node.all_input_nodes and found.issuperset(node.all_input_nodes)):
            found.add(node)
    return found


def _uses(node: fx.Node, derived: Collection[fx.Node]) -> int:
    """Returns in how many places a weight is used, as it is or as something that is derived from it."""
    return sum(_uses(user, derived) if user in derived else 1 for user in node.users)
