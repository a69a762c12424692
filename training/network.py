"""Networks: a genome and its weights as a torch.fx GraphModule, and back to weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from keyword import iskeyword

import torch
from torch import Tensor, fx, nn

from genomes import Genome, Primitive, canonical
from genomes import operations as ops
from training.errors import BuildError

RESERVED = frozenset({"training", "meta", "graph", "code", "self", "torch"})  # of instances, or of generated source


class Scale(nn.Module):
    """Multiplies each channel by a trained number."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Takes and returns `[N, C, ...]`."""
        return x * self.weight.view(-1, *(1,) * (x.dim() - 2))


def _norm(op: ops.BatchNorm, primitive: Primitive) -> nn.Module:
    kind = nn.BatchNorm2d if len(primitive.shape) == 3 else nn.BatchNorm1d
    norm = kind(primitive.shape[0], eps=op.eps)
    norm.num_batches_tracked = None  # not ours to store: the momentum is fixed
    return norm


def _module(primitive: Primitive) -> nn.Module | None:
    """Returns the torch module of an operation, without values; None for a function of several inputs."""
    channels = primitive.in_shapes[0][0] if primitive.in_shapes else 0
    match primitive.operation:
        case ops.Conv() as op:
            return nn.Conv2d(
                channels, op.out_channels, op.kernel, op.stride, op.padding, op.dilation, op.groups, op.bias
            )
        case ops.Linear() as op:
            return nn.Linear(channels, op.out_features, op.bias)
        case ops.BatchNorm() as op:
            return _norm(op, primitive)
        case ops.Scale():
            return Scale(channels)
        case ops.AvgPool() as op:
            return nn.AvgPool2d(op.kernel, op.stride, op.padding)
        case ops.MaxPool() as op:
            return nn.MaxPool2d(op.kernel, op.stride, op.padding)
        case ops.Dropout() as op:
            return nn.Dropout(op.rate)
        case op:
            return SIMPLE[type(op)]() if type(op) in SIMPLE else None


SIMPLE: Mapping[type[ops.Operation], Callable[[], nn.Module]] = {
    ops.ReLU: nn.ReLU, ops.GELU: nn.GELU, ops.SiLU: nn.SiLU, ops.Sigmoid: nn.Sigmoid, ops.Flatten: nn.Flatten,
    ops.GlobalPool: lambda: nn.AdaptiveAvgPool2d(1),
}  # fmt: skip


def _joined(graph: fx.Graph, operation: ops.Operation, inputs: Sequence[fx.Node], name: str) -> fx.Node:
    """Adds a function of several inputs: one node, or a chain of them whose last is called `name`."""
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
