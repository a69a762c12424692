"""Networks: a genome and its weights as a torch.fx GraphModule, and back to weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import cast

import torch
from torch import Tensor, fx, nn

from genomes import Genome, Primitive, canonical
from genomes import operations as ops
from training.errors import BuildError


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


def _joined(graph: fx.Graph, operation: ops.Operation, inputs: Sequence[fx.Node]) -> fx.Node:
    """Adds the nodes of a function of several inputs."""
    if isinstance(operation, ops.Concat):
        return graph.call_function(torch.cat, (list(inputs), 1))
    function = torch.mul if isinstance(operation, ops.Mul) else torch.add
    total = reduce(lambda left, right: graph.call_function(function, (left, right)), inputs)
    return graph.call_function(torch.mul, (total, 1 / len(inputs))) if isinstance(operation, ops.Mean) else total


def attribute(path: str) -> str:
    """Returns the attribute under which a primitive's module is kept: its path, with the slashes replaced."""
    return path.replace("/", "__")


def build(genome: Genome, weights: Mapping[str, Tensor]) -> fx.GraphModule:
    """Returns the network of a genome's canonical graph, with copies of the weights.

    Args:
        genome: the architecture.
        weights: all its parameters and buffers, by `path.parameter`; never changed by training the network.

    Raises:
        BuildError: a tensor is missing, left over, or has another shape.
        InvalidGenome: the genome does not expand.
    """
    expansion = canonical(genome)
    _fits(expansion.tensor_shapes(), weights)
    root, graph, values = nn.Module(), fx.Graph(), dict[str, fx.Node]()
    with torch.device("meta"):
        for path, primitive in expansion.primitives.items():
            inputs = [values[source] for source in primitive.inputs]
            if isinstance(primitive.operation, ops.Input):
                values[path] = graph.placeholder(attribute(path))
            elif module := _module(primitive):
                root.add_module(attribute(path), module)
                values[path] = graph.call_module(attribute(path), tuple(inputs))
            else:
                values[path] = _joined(graph, primitive.operation, inputs)
    graph.output(values[expansion.output])
    network = fx.GraphModule(root, graph, "Network")
    copies = {_key(name): tensor.clone() for name, tensor in weights.items()}
    network.load_state_dict(copies, assign=True)
    return network


def state(genome: Genome, network: nn.Module) -> dict[str, Tensor]:
    """Returns a network's parameters and buffers by `path.parameter`, detached and contiguous."""
    tensors = network.state_dict()
    return {name: tensors[_key(name)].detach().contiguous() for name in canonical(genome).tensor_shapes()}


def _key(name: str) -> str:
    path, parameter = name.rsplit(".", 1)
    return f"{attribute(path)}.{parameter}"


def _fits(shapes: Mapping[str, ops.Shape], weights: Mapping[str, Tensor]) -> None:
    for name in sorted({*shapes, *weights}):
        wanted = shapes.get(name)
        found = tuple(cast(Tensor, weights[name]).shape) if name in weights else None
        if wanted != found:
            raise BuildError(f"weight {name} must have shape {wanted and list(wanted)}, got {found and list(found)}")
