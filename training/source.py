"""Source: a genome written out as plain PyTorch that a person can read and that needs nothing of Morphogen."""

from __future__ import annotations

import builtins
import inspect
import keyword
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from genomes import Genome, Module, expand
from genomes import operations as ops
from training import layout, modules
from training.layout import BODY, Call

RESERVED = frozenset({*keyword.kwlist, *dir(nn.Module()), "self", "torch", "nn"})
OWN = (  # classes that are written into the source of a network that uses them
    modules.Scale,
    modules.Position,
    modules.ChannelNorm,
    modules.Blend,
    modules.Gate,
    modules.ClassToken,
    modules.Select,
    modules.Attention,
)
CLASSES = frozenset(
    {*keyword.kwlist, *dir(builtins), *(part.__name__ for part in OWN)}
    | {"Network", "Tensor", "Path", "F", "MEAN", "STD", "WEIGHTS"}
)


@dataclass(frozen=True)
class Source:
    """A network's source.

    Attributes:
        text: of the file.
        keys: for each tensor `path.parameter` of the genome, its name in the `state_dict` of the class `Network`.
    """

    text: str
    keys: Mapping[str, str]


def source(genome: Genome, mean: float, std: float, weights: str) -> Source:
    """Returns the source of a network; equal arguments give equal text.

    Each called module becomes a class, one for each set of shapes that it is called with; the root becomes `Network`.

    Args:
        genome: the architecture; its ids become names.
        mean: that inputs are normalised by, on the scale 0 to 1.
        std: standard deviation that inputs are normalised by, on the same scale.
        weights: the name of the file that `load` reads unless told otherwise, next to the source.

    Raises:
        InvalidGenome: the genome does not expand, or a name is not one that JSON may hold.
    """
    genome = Genome.from_json(genome.to_json())  # refuses names that are more than names
    writer, root = _Writer(genome), genome[genome.root]
    writer.define(genome.root, "", "Network")
    blocks = "\n\n\n".join(writer.blocks)
    own = [inspect.getsource(part).strip() for part in OWN if re.search(rf"\b{part.__name__}\(", blocks)]
    body = "\n\n\n".join([*own, blocks])
    head = HEAD.format(
        images=batched(writer.expansion.shape(root.inputs[0])),
        logits=batched(writer.expansion.shape(root.output)),
        imports="import torch\n" * bool(re.search(r"\btorch\.", body)) + FUNCTIONAL * bool(re.search(r"\bF\.", body)),
        mean=float(mean),
        std=float(std),
        weights=weights,
    )
    return Source(f"{head}\n\n\n{body}\n\n\n{LOAD}", writer.keys())


def names(module: Module) -> dict[str, str]:
    """Returns the Python name of each node of a module: its id, with a `_` behind it (no id has one) if it is taken."""
    return {node: f"{node}_" if node in RESERVED else node for node in module.operations}


def batched(shape: ops.Shape) -> str:
    """Returns the shape of a batch of N, as text."""
    return f"[{', '.join(['N', *map(str, shape)])}]"


class _Writer:
    """The classes written so far."""

    def __init__(self, genome: Genome) -> None:
        self.genome = genome
        self.expansion = expand(genome)
        self.names = {name: names(module) for name, module in genome.modules}
        self.blocks: list[str] = []
        self.known: dict[tuple[str, tuple[ops.Shape, ...]], str] = {}

    def keys(self) -> dict[str, str]:
        """Returns the `state_dict` name of each tensor."""
        tensors = [name.rpartition(".") for name in self.expansion.tensor_shapes()]
        return {f"{path}.{parameter}": f"{self._attribute(path)}.{parameter}" for path, _, parameter in tensors}

    def define(self, module: str, prefix: str, title: str) -> None:
        """Writes the class of a module, as it is called at `prefix`, after those that it needs."""
        content, named = self.genome[module], self.names[module]
        shapes = {node: self.expansion.shape(prefix + node) for node in content.operations}
        given = ", ".join(batched(shapes[node]) for node in content.inputs)
        what = f"Module {module}" if prefix else "The network"
        lines = [f"class {title}(nn.Module):", f'    """{what}: {given} to {batched(shapes[content.output])}."""', ""]
        if made := self._made(module, prefix, shapes):
            lines += ["    def __init__(self) -> None:", f"{BODY}super().__init__()", *made, ""]
        lines.append(layout.function("forward", [f"{named[node]}: Tensor" for node in content.inputs], "Tensor"))
        self.blocks.append("\n".join([*lines, *_forward(content, named, shapes)]))

    def _made(self, module: str, prefix: str, shapes: ops.Shapes) -> list[str]:
        """Returns the lines that make a class's parts."""
        lines, content = [], self.genome[module]
        for node in content.order:
            operation, named = content.operations[node], f"self.{self.names[module][node]}"
            in_shapes = tuple(shapes[fed] for fed in content.sources[node])
            if isinstance(operation, ops.Call):
                lines += layout.call(named, (self._class(operation.module, in_shapes, f"{prefix}{node}/"), ()))
            elif type(operation) in PARTS:
                lines += layout.call(named, PARTS[type(operation)](operation, in_shapes[0]))
        return lines

    def _class(self, module: str, in_shapes: tuple[ops.Shape, ...], prefix: str) -> str:
        """Returns the name of the class for a call, which is written if it is the first of its kind."""
        if (module, in_shapes) not in self.known:
            camel = "".join(word.capitalize() for word in module.split("_"))
            name, number = camel, 2
            while name in CLASSES or name in self.known.values():
                name, number = f"{camel}_{number}", number + 1
            self.known[module, in_shapes] = name
            self.define(module, prefix, name)
        return self.known[module, in_shapes]

    def _attribute(self, path: str) -> str:
        module, parts = self.genome.root, []
        for node in path.split("/"):
            parts.append(self.names[module][node])
            operation = self.genome[module].operations[node]
            module = operation.module if isinstance(operation, ops.Call) else module
        return ".".join(parts)


def _forward(content: Module, named: Mapping[str, str], shapes: ops.Shapes) -> list[str]:
    """Returns the lines that compute a module's value."""
    lines: list[str] = []
    values = dict(named)
    for node in content.order:
        operation, inputs = content.operations[node], [values[fed] for fed in content.sources[node]]
        if isinstance(operation, (ops.Output, ops.Identity)):
            values[node] = inputs[0]
        elif not isinstance(operation, ops.Input):
            lines += _line(operation, named[node], inputs, f"  # {batched(shapes[node])}")
    return [*lines, f"{BODY}return {values[content.output]}"]


def _line(operation: ops.Operation, target: str, inputs: Sequence[str], comment: str) -> list[str]:
    match operation:
        case ops.Concat():
            return layout.concat(target, inputs, comment)
        case ops.Mean():
            return layout.mean(target, inputs, comment)
        case ops.Add() | ops.Mul():
            return layout.chain(target, "*" if isinstance(operation, ops.Mul) else "+", inputs, comment)
        case _ if type(operation) in FUNCTIONS:
            return layout.call(target, FUNCTIONS[type(operation)](operation, inputs[0]), comment)
        case _:
            return layout.call(target, (f"self.{target}", inputs), comment)


def _conv(op: Any, shape: ops.Shape) -> Call:
    given = {"kernel_size": op.kernel, "stride": op.stride, "padding": op.padding}
    given |= {"dilation": op.dilation, "groups": op.groups, "bias": op.bias}
    defaults = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "bias": True}
    return "nn.Conv2d", [str(shape[0]), str(op.out_channels), *_named(given, defaults)]


def _norm(op: Any, shape: ops.Shape) -> Call:
    kind = "nn.BatchNorm2d" if len(shape) == 3 else "nn.BatchNorm1d"
    return kind, [str(shape[0]), *_named({"eps": op.eps}, {"eps": 1e-5})]


def _layer_norm(op: Any, shape: ops.Shape) -> Call:
    kind = "ChannelNorm" if len(shape) == 3 else "nn.LayerNorm"
    return kind, [str(shape[0]), *_named({"eps": op.eps}, {"eps": 1e-5})]


def _linear(op: Any, shape: ops.Shape) -> Call:
    return "nn.Linear", [str(shape[0]), str(op.out_features), *_named({"bias": op.bias}, {"bias": True})]


def _pool(op: Any, x: str) -> Call:
    given = _named({"padding": op.padding, "ceil_mode": op.ceil}, {"padding": 0, "ceil_mode": False})
    return f"F.{op.kind}2d", [x, str(op.kernel), f"stride={op.stride}", *given]


def _named(given: Mapping[str, object], defaults: Mapping[str, object]) -> list[str]:
    return [f"{name}={value!r}" for name, value in given.items() if value != defaults.get(name)]


BLENDED = {"identity": "nn.Identity()", "relu": "nn.ReLU()", "gelu": "nn.GELU()", "silu": "nn.SiLU()"}
PARTS: Mapping[type[ops.Operation], Callable[[Any, ops.Shape], Call]] = {
    ops.Conv: _conv,
    ops.Linear: _linear,
    ops.BatchNorm: _norm,
    ops.GroupNorm: lambda op, shape: (
        "nn.GroupNorm",
        [str(op.groups), str(shape[0]), *_named({"eps": op.eps}, {"eps": 1e-5})],
    ),
    ops.LayerNorm: _layer_norm,
    ops.Scale: lambda _, shape: ("Scale", [str(shape[0])]),
    ops.Position: lambda _, shape: ("Position", [str(extent) for extent in shape]),
    ops.PReLU: lambda _, shape: ("nn.PReLU", [str(shape[0])]),
    ops.Blend: lambda op, _: ("Blend", [BLENDED[op.first], BLENDED[op.second]]),
    ops.Dropout: lambda op, _: ("nn.Dropout", [repr(op.rate)]),
    ops.ChannelShuffle: lambda op, _: ("nn.ChannelShuffle", [str(op.groups)]),
    ops.ClassToken: lambda _, shape: ("ClassToken", [str(shape[0])]),
    ops.Select: lambda op, _: ("Select", [str(op.index)]),
    ops.Gate: lambda *_: ("Gate", []),
    ops.Attention: lambda op, shape: ("Attention", [str(op.heads), repr(op.scale(shape[0]))]),
}
FUNCTIONS: Mapping[type[ops.Operation], Callable[[Any, str], Call]] = {
    ops.ReLU: lambda _, x: ("F.relu", [x]),
    ops.ReLU6: lambda _, x: ("F.relu6", [x]),
    ops.GELU: lambda _, x: ("F.gelu", [x]),
    ops.SiLU: lambda _, x: ("F.silu", [x]),
    ops.Sigmoid: lambda _, x: ("torch.sigmoid", [x]),
    ops.Hardswish: lambda _, x: ("F.hardswish", [x]),
    ops.Hardsigmoid: lambda _, x: ("F.hardsigmoid", [x]),
    ops.MaxPool: _pool,
    ops.AvgPool: _pool,
    ops.GlobalPool: lambda _, x: (f"{x}.mean", ["(2, 3)", "keepdim=True"]),
    ops.Flatten: lambda _, x: (f"{x}.flatten", ["1"]),
    ops.Slice: lambda op, x: (f"{x}.narrow", ["1", str(op.start), str(op.stop - op.start)]),
}
FUNCTIONAL = "import torch.nn.functional as F\n"
HEAD = '''"""A network that Morphogen found, in plain PyTorch; needs torch and safetensors.

    network = load()
    logits = network(normalise(images))

Images are uint8 {images}, logits float {logits}.
Each comment is the shape of the value on its left, for a batch of N.
"""

from pathlib import Path

{imports}from safetensors.torch import load_file
from torch import Tensor, nn

# Mean and standard deviation of the training images, on the scale 0 to 1.
MEAN = {mean!r}
STD = {std!r}
WEIGHTS = Path(__file__).with_name("{weights}")


def normalise(images: Tensor) -> Tensor:
    """Returns pixels 0 to 255 as the network wants them."""
    return (images.float() / 255 - MEAN) / STD'''
LOAD = '''def load(path: str | Path = WEIGHTS) -> Network:
    """Returns the network with the weights of a safetensors file, in eval mode."""
    network = Network()
    network.load_state_dict(load_file(path))
    return network.eval()
'''
