"""Vectorised: networks that train fast on a CPU although their channels are few.

Where channels lie last in memory, torch's kernels for a CPU take the channels of one position at a time. A vector of
512 bits holds 16 to 32 numbers, so with 6 channels most of it idles: batch norm took 38 % and max pooling 10 % of the
training of a network of 4,300 parameters (Zen 4). Two ways out, chosen by the graph before anything is computed:
values whose channels fill vectors are laid out as oneDNN likes them (blocked.py), and narrow ones are seen as rows of
many channels, by units of convolution, norm, ReLU and pool that pass over their numbers less often (unit.py). The
values are torch's but for rounding. Whatever is in neither case is left to torch, but for one fault of oneDNN's
(unseen.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, fx, nn

from training.vectorised.blocked import available, blocked
from training.vectorised.chains import units
from training.vectorised.unseen import zeroed


@contextmanager
def vectorised(network: nn.Module, half: bool = False) -> Iterator[None]:
    """Lets modules of a network compute in these ways while it is entered; its tensors stay its own.

    Args:
        network: what is known of its graph is used if it is a graph module.
        half: whether it is trained in bfloat16 under autocast, and in the memory of the processor.
    """
    chosen: dict[nn.Module, Callable[..., Tensor]] = {}
    if half and isinstance(network, fx.GraphModule) and available():
        chosen.update(blocked(network))
    for unit in units(network, set(chosen)):
        first, *others = unit.parts
        chosen[first] = unit
        chosen.update(dict.fromkeys(others, _same))
    for module, forward in chosen.items():
        module.forward = forward
    try:
        with zeroed(network) if half else nullcontext():
            yield
    finally:
        for module in chosen:
            del module.forward


def _same(x: Tensor) -> Tensor:
    return x
