"""Graph: a genome in the making, flat, with a tensor for each of its parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from genomes import Genome, InvalidGenome, Module
from genomes.operations import Call, Input, Operation, Output, Shape
from genomes.parsing import MAX_EDGES, MAX_NAME, MAX_NODES
from training.errors import ConversionError

IMAGE, LOGITS = "image", "logits"  # the ends of the network
FIRST, LAST = "x", "y"  # the ends of a part
MARKS = 2  # input and output of a module


@dataclass
class Graph:
    """Nodes in the order of their making, which inputs come before.

    Attributes:
        operations: by node.
        sources: what feeds each node, by port.
        shapes: of each node's value.
        tensors: by `node.parameter`.
    """

    operations: dict[str, Operation] = field(default_factory=dict)
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def put(self, wish: str, operation: Operation, sources: Sequence[str], tensors: Mapping[str, Tensor]) -> str:
        """Adds a node under a name like the wish, and returns its id.

        Raises:
            InvalidGenome: the operation does not take such inputs.
        """
        in_shapes = [self.shapes[source] for source in sources]
        shape, node = operation.out_shape(in_shapes), self._free(wish)
        declared = {**operation.parameter_shapes(in_shapes), **operation.buffer_shapes(in_shapes)}
        if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != declared:
            raise InvalidGenome(f"{operation.kind} has tensors {declared}")
        self.operations[node], self.sources[node], self.shapes[node] = operation, tuple(sources), shape
        self.tensors.update({f"{node}.{name}": tensor for name, tensor in tensors.items()})
        return node

    def _free(self, wish: str) -> str:
        """Returns an identifier that nobody has: the end of a long name says more than its beginning."""
        words = [word for word in re.split(r"[^a-z0-9]+", wish.lower()) if word]
        while len("_".join(words)) > MAX_NAME - 6 and len(words) > 1:
            words.pop(0)
        name = "_".join(words)[: MAX_NAME - 6]
        name = name if name[:1].isalpha() else f"n{name}"
        taken, number = {*self.operations, LOGITS, FIRST, LAST}, 2
        found = name
        while found in taken:
            found, number = f"{name}_{number}", number + 1
        return found

    def genome(self, output: str) -> tuple[Genome, dict[str, Tensor]]:
        """Returns the genome that computes `output`, and its tensors by `path.parameter`.

        A graph that is too large for one module is cut, where a single value is alive, into parts called once.

        Raises:
            ConversionError: there are not enough places to cut it.
        """
        order = self._useful(output)
        parts = [order] if self._fits(order) else self._parts(order, output)
        if len(parts) == 1:
            return Genome.of({"net": self._module(order, output, {}, LOGITS)}), self._named(dict.fromkeys(order, ""))
        modules, chain, homes = {}, [IMAGE], dict[str, str]()
        for number, part in enumerate(parts, 1):
            name = f"part_{number}"
            before = parts[number - 2][-1] if number > 1 else IMAGE
            modules[name] = self._module(part, part[-1], {before: FIRST}, LAST)
            homes.update(dict.fromkeys(part, f"{name}/"))
            chain.append(name)
        nodes: dict[str, Operation] = {IMAGE: self.operations[IMAGE], LOGITS: Output()}
        nodes |= {name: Call(name) for name in modules}
        net = Module.of(nodes, list(zip(chain, [*chain[1:], LOGITS], strict=True)))
        return Genome.of({"net": net, **modules}), self._named(homes)

    def _named(self, homes: Mapping[str, str]) -> dict[str, Tensor]:
        found = {name: name.rpartition(".")[0] for name in self.tensors}
        return {f"{homes[node]}{name}": self.tensors[name] for name, node in found.items() if node in homes}

    def _useful(self, output: str) -> list[str]:
        """Returns the nodes that lead to the output, in order."""
        useful = {output}
        for node in reversed(self.operations):
            if node in useful:
                useful.update(self.sources[node])
        return [node for node in self.operations if node in useful]

    def _fits(self, nodes: Sequence[str]) -> bool:
        edges = sum(len(self.sources[node]) for node in nodes) + 1
        return len(nodes) + MARKS <= MAX_NODES and edges <= MAX_EDGES

    def _parts(self, order: Sequence[str], output: str) -> list[list[str]]:
        """Cuts as late as the limits of a module allow, behind nodes whose value is the only one still needed."""
        parts, begun = list[list[str]](), 1  # the image is no part's own
        places = self._places(order, output)
        while begun < len(order):
            fitting = [end for end in places if end > begun and self._fits(order[begun:end])]
            if not fitting:
                raise ConversionError(
                    f"between {order[begun]} and the next place where one value is alive lie more nodes than a module "
                    f"of a genome may have, {MAX_NODES}"
                )
            parts.append(list(order[begun : fitting[-1]]))
            begun = fitting[-1]
        return parts

    def _places(self, order: Sequence[str], output: str) -> list[int]:
        """Returns how many nodes stand before each place where only the last node's value is alive."""
        last_read = {source: place for place, node in enumerate(order) for source in self.sources[node]}
        last_read[output] = len(order)
        alive: set[str] = set()
        found = []
        for place, node in enumerate(order):
            alive = {value for value in alive if last_read[value] > place} | {node}
            if alive == {node}:
                found.append(place + 1)
        return found

    def _module(self, nodes: Sequence[str], output: str, renamed: Mapping[str, str], last: str) -> Module:
        operations: dict[str, Operation] = {node: self.operations[node] for node in nodes}
        edges = [
            (renamed.get(source, source), node, port)
            for node in nodes
            for port, source in enumerate(self.sources[node])
        ]
        ends: dict[str, Operation] = {name: Input() for name in renamed.values()}
        return Module.of({**operations, **ends, last: Output()}, [*edges, (output, last, 0)])
