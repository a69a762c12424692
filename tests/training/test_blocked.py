from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from genomes.spaces.residual import ResidualSpace
from morphism.realise import initial
from training.errors import NonFinite
from training.network import build
from training.vectorised import vectorised
from training.vectorised.blocked import available
from training.vectorised.regions import Regions

LAST = torch.channels_last
SPACE = ResidualSpace((1, 8, 8), 10)
needs_blocks = pytest.mark.skipif(not available(), reason="this processor's convolutions have another layout")


def conv(inputs: int, outputs: int, size: int = 3, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=bias)


class Residual(nn.Module):
    """Narrow, then wide with a block and a pool, then depthwise, then narrow again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = conv(1, 6), nn.BatchNorm2d(6)
        self.widen, self.second = conv(6, 28), nn.BatchNorm2d(28, momentum=0.3)
        self.inner, self.third = conv(28, 28), nn.BatchNorm2d(28)
        self.deep, self.point, self.fourth = conv(28, 28, groups=28), conv(28, 32, 1), nn.BatchNorm2d(32)
        self.last, self.fifth = conv(32, 5), nn.BatchNorm2d(5)
        self.pool, self.mean, self.head = nn.MaxPool2d(2, 2), nn.AdaptiveAvgPool2d(1), conv(5, 3)
        self.one, self.two, self.three, self.four, self.five = (nn.ReLU() for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(self.first(self.stem(x)))
        x = self.two(self.second(self.widen(x)))
        x = self.pool(self.three(torch.add(self.third(self.inner(x)), x)))
        x = self.four(self.fourth(self.point(self.deep(x))))
        x = self.five(self.fifth(self.last(x)))
        return self.head(self.mean(x)).flatten(1)


def traced(module: nn.Module) -> fx.GraphModule:
    generator, network = torch.Generator().manual_seed(1), fx.symbolic_trace(module).to(memory_format=LAST)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) / max(1, tensor[0].numel()) ** 0.5)
    return network


def trained(network: nn.Module, x: Tensor, half: bool) -> list[Tensor]:
    """Returns the gradients of a loss and the buffers."""
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        y = network(x)
    functional.cross_entropy(y.float() if half else y, torch.arange(len(x)) % 3).backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
    return [*(gradient for gradient in gradients if gradient is not None), *buffers]


class Cut(nn.Module):
    """A region of 13 channels that cannot be blocked, before and behind depthwise convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.deep, self.second = (
            conv(1, 13),
            nn.BatchNorm2d(13),
            conv(13, 13, groups=13),
            nn.BatchNorm2d(13),
        )
        self.back, self.third, self.head = conv(13, 13, groups=13), nn.BatchNorm2d(13), conv(13, 3)
        self.relu, self.mean = nn.ReLU(), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.gelu(self.first(self.stem(x)))
        x = self.relu(self.second(self.deep(x)))
        x = functional.gelu(self.third(self.back(x)))
        return self.head(self.mean(x)).flatten(1)


def images(count: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randn((count, *shape), generator=generator).contiguous(memory_format=LAST)


NETWORKS = [
    Residual(),
    Cut(),
    nn.Sequential(
        conv(1, 16), nn.BatchNorm2d(16), nn.ReLU(), nn.ReLU(), conv(16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ),
    *(build(genome, initial(genome, 0)) for genome in (SPACE.sample(random.Random(n)) for n in range(4))),
]


@needs_blocks
@pytest.mark.parametrize("network", NETWORKS, ids=["mixed", "cut", "twice rectified", "0", "1", "2", "3"])
def test_a_blocked_network_is_about_as_close_to_the_truth_as_torchs(network: nn.Module) -> None:
    own = copy.deepcopy(network).to(memory_format=LAST) if isinstance(network, fx.GraphModule) else traced(network)
    torchs, true, x = copy.deepcopy(own), copy.deepcopy(own).double(), images(64, 1, 8, 8)
    with vectorised(own, half=True):
        found = trained(own, x, half=True)
    wanted = trained(torchs, x, half=True)
    distances = []
    for one, other, truth in zip(found, wanted, trained(true, x.double(), half=False), strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        distances.append([float((tensor.double() - truth).norm() / truth.norm()) for tensor in (one, other)])
    ours, theirs = torch.tensor(distances).mean(0)
    assert ours < 1.3 * theirs + 1e-4


@needs_blocks
def test_blocked_values_are_where_they_should_be() -> None:
    seen = dict[str, bool]()

    class Watched(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            value = super().run_node(n)
            seen[str(n)] = isinstance(value, Tensor) and value.is_mkldnn
            return value

    network = traced(Residual())
    with vectorised(network, half=True), torch.autocast("cpu", torch.bfloat16):
        Watched(network).run(images(4, 1, 8, 8))
    inside = {
        "widen",
        "second",
        "inner",
        "third",
        "add",
        "pool",
        "deep",
        "point",
        "fourth",
        "two",
        "three",
        "four",
    }
    assert {name for name, is_blocked in seen.items() if is_blocked} == inside


def blocked_values(module: nn.Module) -> set[str]:
    network = fx.symbolic_trace(module)
    regions = Regions(network)
    return {str(node) for node in network.graph.nodes if regions.width(node)}


def test_a_region_is_blocked_only_if_all_of_it_can_be() -> None:
    assert blocked_values(nn.Sequential(conv(3, 16), nn.BatchNorm2d(16), nn.ReLU(), conv(16, 4))) == {"_0", "_1", "_2"}
    for other in (
        nn.Sequential(conv(3, 16), nn.BatchNorm2d(16), nn.GELU(), conv(16, 4)),
        nn.Sequential(conv(3, 16), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Sequential(conv(3, 12), nn.BatchNorm2d(12), nn.ReLU(), conv(12, 4)),
        nn.Sequential(conv(3, 24), nn.BatchNorm2d(24), nn.ReLU(), conv(24, 4)),
        nn.Sequential(conv(3, 16, bias=True), nn.BatchNorm2d(16), nn.ReLU(), conv(16, 4)),
        nn.Sequential(conv(4, 16, groups=2), nn.BatchNorm2d(16), nn.ReLU(), conv(16, 4)),
        nn.Sequential(conv(16, 16, size=5, groups=16), nn.BatchNorm2d(16), nn.ReLU(), conv(16, 4)),
        nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 4)),
        nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), conv(16, 4)),
        nn.Sequential(conv(3, 16), nn.BatchNorm2d(16, momentum=None), nn.ReLU(), conv(16, 4)),
        nn.Sequential(conv(3, 16), nn.BatchNorm2d(16).eval(), nn.ReLU(), conv(16, 4)),
        nn.Sequential(conv(3, 16), nn.BatchNorm2d(16), nn.MaxPool2d(2, dilation=2), conv(16, 4)),
        nn.Sequential(conv(3, 16), nn.BatchNorm2d(16), nn.AdaptiveAvgPool2d(2), conv(16, 4)),
        nn.Sequential(conv(3, 16), nn.BatchNorm2d(16), *[nn.ReLU()] * 2, conv(16, 4)),
    ):
        assert blocked_values(other) == set()


@needs_blocks
def test_a_number_that_is_none_is_found_although_relu_hides_it() -> None:
    network = traced(nn.Sequential(conv(3, 16), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1)))
    x = images(4, 3, 8, 8)
    x[1, 2, 3, 4] = torch.nan
    with vectorised(network, half=True), pytest.raises(NonFinite, match="must be finite, it is nan"):
        network(x)


@needs_blocks
def test_parameters_keep_their_shape_and_repeat_bit_for_bit() -> None:
    results = []
    for _ in range(2):
        network = traced(Residual())
        before = [parameter.shape for parameter in network.parameters()]
        with vectorised(network, half=True):
            results.append(trained(network, images(32, 1, 8, 8), half=True))
        assert [parameter.shape for parameter in network.parameters()] == before
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
