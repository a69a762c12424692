"""Chains: which modules of a network are computed one after another and nowhere else, so that they can be one unit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Set
from typing import Any

from torch import fx, nn

from training.vectorised.convolution import simple
from training.vectorised.unit import Unit

PARTS: Mapping[type[nn.Module], str] = {
    nn.Conv2d: "conv", nn.BatchNorm2d: "norm", nn.ReLU: "relu", nn.MaxPool2d: "pool",
}  # fmt: skip
NEXT = dict(zip(PARTS, [*PARTS][1:], strict=False))


def units(network: nn.Module, others: Set[nn.Module]) -> Iterator[Unit]:
    """Yields units, as long as can be, of all modules of a network that can be in one, but for the `others`."""
    following, done = _following(network), {*others}
    for module in network.modules():
        if type(module) not in PARTS or module in done:
            continue
        chain = [module]
        while (after := following.get(chain[-1])) and after not in done and type(after) is NEXT.get(type(chain[-1])):
            chain.append(after)
        done.update(chain)
        if isinstance(module, nn.Conv2d) and not simple(module):
            del chain[0]
        if chain:
            parts: dict[str, Any] = {PARTS[type(part)]: part for part in chain}
            yield Unit(**parts)


def _following(network: nn.Module) -> dict[nn.Module, nn.Module]:
    """Returns, for modules that are called once and whose value only one call takes, the module of that call."""
    if not isinstance(network, fx.GraphModule):
        return {}
    calls = [node for node in network.graph.nodes if node.op == "call_module"]
    times = Counter(node.target for node in calls)
    modules = {node: network.get_submodule(str(node.target)) for node in calls if times[node.target] == 1}
    pairs = ((node, next(iter(node.users))) for node in modules if len(node.users) == 1)
    return {modules[one]: modules[other] for one, other in pairs if other in modules}
