"""Regions: which values of a network are laid out in blocks of 16 channels."""

from __future__ import annotations

from collections import Counter

import torch
from torch import fx, nn

from training.vectorised.convolution import WINDOW, deep, simple

BLOCK = 16  # channels
FILLED = 0.75  # of its blocks have to be more than so full: with 12 of 16, convolutions take 1.13 times as long (Zen 4)


class Regions:
    """The values of a network, joined where they must have the same layout: wherever no convolution is between them.

    A region is blocked if all that makes or takes its values can compute so: convolutions without bias that are plain
    or depthwise, batch norms, ReLUs, max pools, sums and the global pool. What a convolution makes goes to batch norms
    or on to convolutions, since ReLUs and pools there make zeros of what is no number (NaN), and norms look for it.
    """

    def __init__(self, network: fx.GraphModule) -> None:
        """Reads the network's graph."""
        calls = [node for node in network.graph.nodes if node.op == "call_module"]
        times = Counter(node.target for node in calls)  # what is called twice may be in two regions
        self.modules = {node: network.get_submodule(str(node.target)) for node in calls if times[node.target] == 1}
        self._above: dict[fx.Node, fx.Node] = {}
        self._widths: dict[fx.Node, int] = {}
        for node in network.graph.nodes:
            self._add(node)

    def width(self, node: fx.Node) -> int:
        """Returns the number of channels of a value that is blocked; 0 if it is not."""
        width = self._widths.get(self._root(node), 0)
        return width if width > FILLED * full(width) else 0

    def _add(self, node: fx.Node) -> None:
        self._above[node] = node
        module, inputs = self.modules.get(node), node.all_input_nodes
        if isinstance(module, nn.Conv2d) and _blocks(module):
            users = [type(self.modules.get(user)) for user in node.users]
            finite = all(user in (nn.Conv2d, nn.BatchNorm2d, nn.AdaptiveAvgPool2d) for user in users)
            self._limit(node, module.out_channels if finite else 0)
        elif isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
            self._limit(node, 0)
        elif node.target is torch.add or (module and _keeps(module)):
            for one in inputs:
                self._join(one, node)
        else:
            for one in (node, *inputs):
                self._limit(one, 0)

    def _limit(self, node: fx.Node, width: int) -> None:
        root = self._root(node)
        self._widths[root] = min(width, self._widths.get(root, width))

    def _join(self, one: fx.Node, other: fx.Node) -> None:
        first, second = self._root(one), self._root(other)
        if first is second:
            return
        self._above[second] = first
        if second in self._widths:
            self._limit(first, self._widths[second])

    def _root(self, node: fx.Node) -> fx.Node:
        while self._above[node] is not node:
            node = self._above[node]
        return node


def full(channels: int) -> int:
    """Returns the channels of so many blocks that they hold these."""
    return -(-channels // BLOCK) * BLOCK


def _blocks(conv: nn.Conv2d) -> bool:
    """Says whether a convolution can take and make blocked values: it is plain, or depthwise and small."""
    small = max(conv.kernel_size) <= WINDOW
    return simple(conv) and (conv.groups == 1 or (deep(conv) and small))


def _keeps(module: nn.Module) -> bool:
    """Says whether the output of a module can have the layout of its input."""
    if isinstance(module, nn.BatchNorm2d):
        usual = module.affine and module.momentum is not None and module.running_mean is not None
        return usual and module.training
    return isinstance(module, nn.ReLU) or (isinstance(module, nn.MaxPool2d) and module.dilation in (1, (1, 1)))
