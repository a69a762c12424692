"""Networks: a genome and its weights as a torch.fx GraphModule, and back to weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from keyword import iskeyword
from typing import Any

import torch
from torch import Tensor, fx, nn

from genomes import Genome, Primitive, canonical
from genomes import operations as ops
from training import modules
from training.errors import BuildError

RESERVED = frozenset({"training", "meta", "graph", "code", "self", "torch"})  # of instances, or of generated source
Make = Callable[[Any, ops.Shape], nn.Module]  # of an operation and the shape of its first input


def _module(primitive: Primitive) -> nn.Module | None:
    """Returns the torch module of an operation, without values; None for what is a function."""
    make = MODULES.get(type(primitive.operation))
    return make(primitive.operation, primitive.in_shapes[0]) if make else None


def _pool(kind: Callable[..., nn.Module]) -> Make:
    return lambda op, _: kind(op.kernel, op.stride, op.padding, ceil_mode=op.ceil)


def _conv(op: ops.Conv, shape: ops.Shape) -> nn.Module:
    return nn.Conv2d(shape[0], op.out_channels, op.kernel, op.stride, op.padding, op.dilation, op.groups, op.bias)


def _batch_norm(op: ops.BatchNorm, shape: ops.Shape) -> nn.Module:
    norm = (nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d)(shape[0], eps=op.eps)
    norm.num_batches_tracked = None  # not ours to store: the momentum is fixed
    return norm


def _layer_norm(op: ops.LayerNorm, shape: ops.Shape) -> nn.Module:
    return (modules.ChannelNorm if len(shape) == 3 else nn.LayerNorm)(shape[0], eps=op.eps)


BLENDED: Mapping[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity, "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU,
}  # fmt: skip
MODULES: Mapping[type[ops.Operation], Make] = {
    ops.Conv: _conv,
    ops.Linear: lambda op, shape: nn.Linear(shape[0], op.out_features, op.bias),
    ops.BatchNorm: _batch_norm,
    ops.GroupNorm: lambda op, shape: nn.GroupNorm(op.groups, shape[0], op.eps),
    ops.LayerNorm: _layer_norm,
    ops.Scale: lambda _, shape: modules.Scale(shape[0]),
    ops.Position: lambda _, shape: modules.Position(*shape),
    ops.ReLU: lambda *_: nn.ReLU(),
    ops.ReLU6: lambda *_: nn.ReLU6(),
    ops.GELU: lambda *_: nn.GELU(),
    ops.SiLU: lambda *_: nn.SiLU(),
    ops.Sigmoid: lambda *_: nn.Sigmoid(),
    ops.Hardswish: lambda *_: nn.Hardswish(),
    ops.Hardsigmoid: lambda *_: nn.Hardsigmoid(),
    ops.PReLU: lambda _, shape: nn.PReLU(shape[0]),
    ops.Blend: lambda op, _: modules.Blend(BLENDED[op.first](), BLENDED[op.second]()),
    ops.MaxPool: _pool(nn.MaxPool2d),
    ops.AvgPool: _pool(nn.AvgPool2d),
    ops.GlobalPool: lambda *_: nn.AdaptiveAvgPool2d(1),
    ops.Dropout: lambda op, _: nn.Dropout(op.rate),
    ops.Flatten: lambda *_: nn.Flatten(),
    ops.ChannelShuffle: lambda op, _: nn.ChannelShuffle(op.groups),
    ops.ClassToken: lambda _, shape: modules.ClassToken(shape[0]),
    ops.Select: lambda op, _: modules.Select(op.index),
    ops.Gate: lambda *_: modules.Gate(),
    ops.Attention: lambda op, shape: modules.Attention(op.heads, op.scale(shape[0])),
}


def _joined(graph: fx.Graph, operation: ops.Operation, inputs: Sequence[fx.Node], name: str) -> fx.Node:
    """Adds a function that has no module: one node, or a chain of them whose last is called `name`."""
    if isinstance(operation, ops.Slice):
        length = operation.stop - operation.start
        return graph.create_node("call_function", torch.narrow, (inputs[0], 1, operation.start, length), name=name)
    if isinstance(operation, ops.Concat):
        return graph.create_node("call_function", torch.cat, (list(inputs), 1), name=name)
    function = torch.mul if isinstance(operation, ops.Mul) else torch.add
    steps: list[tuple[Callable[..., Tensor], fx.Node | int]] = [(function, right) for right in inputs[1:]]
    if isinstance(operation, ops.Mean):
        steps.append((torch.div, len(inputs)))
    total = inputs[0]
    for number, (step, right) in enumerate(steps, 1):
        own = name if number == len(steps) else f"{name}_part"
        total = graph.create_node("call_function", step, (total, right), name=own)
    return total


def attributes(paths: Iterable[str]) -> dict[str, str]:
    """Returns the attribute that holds the module of each path: the path with `__` for `/`, made unlike all others.

    A word of Python, an attribute that every module has, or a name that is taken gets underscores behind it.
    """
    taken: dict[str, str] = {}
    for path in paths:
        name = path.replace("/", "__")
        while iskeyword(name) or hasattr(fx.GraphModule, name) or name in RESERVED or name in taken:
            name += "_"
        taken[name] = path
    return {path: name for name, path in taken.items()}


def build(genome: Genome, weights: Mapping[str, Tensor]) -> fx.GraphModule:
    """Returns the network of a genome's canonical graph, with copies of the weights.

    Its `meta["paths"]` tells the path of each attribute.

    Args:
        genome: the architecture.
        weights: all its parameters and buffers, by `path.parameter`; never changed by training the network.

    Raises:
        BuildError: a tensor is missing, left over, or has another shape.
        InvalidGenome: the genome does not expand.
    """
    expansion = canonical(genome)
    _fits(expansion.tensor_shapes(), weights)
    names = attributes(expansion.primitives)
    root, graph, values = nn.Module(), fx.Graph(), dict[str, fx.Node]()
    with torch.device("meta"):
        for path, primitive in expansion.primitives.items():
            inputs, name = [values[source] for source in primitive.inputs], names[path]
            if isinstance(primitive.operation, ops.Input):
                values[path] = graph.placeholder(name)
            elif module := _module(primitive):
                root.add_module(name, _filled(module, path, weights))
                values[path] = graph.create_node("call_module", name, tuple(inputs), name=name)
            else:
                values[path] = _joined(graph, primitive.operation, inputs, name)
    graph.output(values[expansion.output])
    network = fx.GraphModule(root, graph, "Network")
    network.meta["paths"] = {name: path for path, name in names.items()}
    return network


def state(network: fx.GraphModule) -> dict[str, Tensor]:
    """Returns the parameters and buffers of a network made by `build`, by `path.parameter`, detached and contiguous."""
    paths = network.meta["paths"]
    parts = ((*name.rsplit(".", 1), tensor) for name, tensor in network.state_dict().items())
    return {f"{paths[name]}.{parameter}": tensor.detach().contiguous() for name, parameter, tensor in parts}


def _filled(module: nn.Module, path: str, weights: Mapping[str, Tensor]) -> nn.Module:
    """Gives a module copies of its tensors instead of those on the meta device."""
    for name, _ in list(module.named_parameters()):
        setattr(module, name, nn.Parameter(weights[f"{path}.{name}"].detach().clone()))
    for name, _ in list(module.named_buffers()):
        setattr(module, name, weights[f"{path}.{name}"].detach().clone())
    return module


def _fits(shapes: Mapping[str, ops.Shape], weights: Mapping[str, Tensor]) -> None:
    for name in sorted({*shapes, *weights}):
        if name not in weights:
            raise BuildError(f"weights must have {name} {list(shapes[name])}, it is missing")
        if name not in shapes:
            raise BuildError(f"weights must have only what the genome names, got {name} {list(weights[name].shape)}")
        if tuple(weights[name].shape) != shapes[name]:
            raise BuildError(f"weight {name} must have shape {list(shapes[name])}, got {list(weights[name].shape)}")
