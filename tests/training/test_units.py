from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, fx, nn

from training.vectorised import vectorised
from training.vectorised.chains import units
from training.vectorised.relu import of_rectified, rectified

LAST = torch.channels_last


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).contiguous(memory_format=LAST)


def network(*modules: nn.Module) -> fx.GraphModule:
    """Returns modules that follow each other, with unlike parameters."""
    traced, generator = fx.symbolic_trace(nn.Sequential(*modules)), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in traced.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return traced.to(memory_format=LAST)


def conv(inputs: int, outputs: int, **settings: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, **settings)  # type: ignore[arg-type]


def through(module: nn.Module, x: Tensor, mean: float = 0.0) -> list[Tensor]:
    """Returns the output, all gradients of a weighted sum of it, and the buffers; `mean` is that of the weights."""
    y = module(x)
    inputs = [*module.parameters(), *([x] if x.requires_grad else [])]
    gradients = torch.autograd.grad((y * (drawn(*y.shape, dtype=y.dtype) + mean)).sum(), inputs)
    return [y.detach(), *gradients, *(b.clone() for b in module.buffers() if b.is_floating_point())]


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize(
    ("parts", "shape"),
    [
        ([conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2, 2)], (4, 3, 6, 8)),
        ([conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2, 2)], (4, 3, 5, 8)),
        ([conv(1, 13), nn.BatchNorm2d(13, momentum=0.3), nn.ReLU()], (4, 1, 6, 8)),
        ([conv(4, 4, groups=4), nn.BatchNorm2d(4), nn.ReLU()], (4, 4, 6, 8)),
        ([conv(4, 6, stride=2), nn.BatchNorm2d(6)], (4, 4, 6, 8)),
        ([conv(4, 40), nn.BatchNorm2d(40), nn.ReLU(), nn.MaxPool2d(2, 2)], (4, 4, 6, 8)),
        ([nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2, 2)], (4, 6, 6, 8)),
        ([nn.ReLU(), nn.MaxPool2d(2, 2), conv(6, 2)], (4, 6, 6, 8)),
        ([nn.ReLU(), nn.MaxPool2d(2, 2), nn.BatchNorm2d(6), conv(6, 3)], (4, 6, 6, 8)),
    ],
)
def test_units_train_as_torch_does(parts: list[nn.Module], shape: tuple[int, ...], trained: bool) -> None:
    own = network(*parts).double()
    torchs, x = copy.deepcopy(own), drawn(*shape).requires_grad_(trained)
    with vectorised(own):
        found = through(own, x)
    for one, other in zip(found, through(torchs, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("mean", [0.0, 3.0])
@pytest.mark.parametrize("more", [[], [nn.ReLU(), nn.MaxPool2d(2, 2)]], ids=["linear", "rectified"])
@pytest.mark.parametrize(("channels", "size"), [(6, 8), (6, 40), (32, 8)])
def test_in_bfloat16_units_are_about_as_close_to_the_truth_as_torch(
    channels: int, size: int, more: list[nn.Module], mean: float
) -> None:
    own = network(conv(channels, channels), nn.BatchNorm2d(channels), *more)
    x = drawn(48, channels, size, size, dtype=torch.bfloat16).abs().requires_grad_()
    torchs, true = copy.deepcopy(own), copy.deepcopy(own).double()
    with torch.autocast("cpu", torch.bfloat16):
        with vectorised(own):
            found = through(own, x, mean)
        wanted = through(torchs, x, mean)
    truths = through(true, x.detach().double().requires_grad_(), mean)
    for one, other, truth in zip(found, wanted, truths, strict=True):
        assert one.dtype == other.dtype
        distances = [float((tensor.double() - truth).norm() / truth.norm()) for tensor in (one, other)]
        assert distances[0] < 1.5 * distances[1] + 1e-5


@pytest.mark.parametrize("training", [True, False])
def test_without_gradients_units_compute_what_torch_does(training: bool) -> None:
    own = network(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2, 2)).train(training)
    torchs, x = copy.deepcopy(own), drawn(4, 3, 6, 8, dtype=torch.float32)
    with torch.inference_mode():
        with vectorised(own):
            found = own(x)
        torch.testing.assert_close(found, torchs(x))
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(own, "1").get_buffer(name), getattr(torchs, "1").get_buffer(name))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32, torch.float64])
def test_the_positive_part_is_right_to_the_last_bit(kind: torch.dtype) -> None:
    smallest = torch.finfo(kind).smallest_normal
    numbers = [0.0, -0.0, 1.5, -1.5, smallest, -smallest, torch.inf, -torch.inf]
    x = torch.tensor(numbers, dtype=kind).view(1, 1, 2, 4)
    y, kept = rectified(x.clone(), False)
    assert y.flatten().tolist() == [max(number, 0.0) for number in numbers]
    gradient = of_rectified(torch.full_like(x, -3), *kept)
    assert gradient.flatten().tolist() == [-3.0 if number > 0 else 0.0 for number in numbers]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32, torch.float64])
def test_what_is_no_number_stays_visible(kind: torch.dtype, sign: int) -> None:
    x = torch.ones(1, 1, 2, 2, dtype=kind)
    x[0, 0, 1, 1] = torch.copysign(torch.tensor(torch.nan), torch.tensor(float(sign)))
    assert rectified(x.clone(), False)[0].isnan().nonzero().tolist() == [[0, 0, 1, 1]]
    assert rectified(x, True, mixed=True)[0].isnan().all()


def test_a_chain_ends_where_a_value_is_used_twice_or_a_module_is_called_twice() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.relu = conv(3, 3), nn.BatchNorm2d(3), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.conv(x))
            return torch.add(self.relu(y), self.relu(torch.add(y, 1)))

    (joined, alone) = units(fx.symbolic_trace(Forked()), set())
    assert [type(part) for part in joined.parts] == [nn.Conv2d, nn.BatchNorm2d]
    assert [type(part) for part in alone.parts] == [nn.ReLU]


def test_a_convolution_with_a_bias_is_left_to_torch() -> None:
    biased = nn.Conv2d(3, 3, 3)
    found = units(network(biased, nn.BatchNorm2d(3), nn.GELU()), set())
    assert [[type(part) for part in unit.parts] for unit in found] == [[nn.BatchNorm2d]]
