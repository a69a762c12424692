from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.vectorised import vectorised

LAST = torch.channels_last


def images(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Returns numbers of unlike means and deviations by channel."""
    generator = torch.Generator().manual_seed(sum(shape))
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
    spread = torch.linspace(0.1, 3, shape[1]).view(1, -1, 1, 1)
    return (drawn * spread + spread.flip(1)).to(dtype).contiguous(memory_format=LAST)


def messy(channels: int, dtype: torch.dtype = torch.float64) -> nn.BatchNorm2d:
    norm, generator = nn.BatchNorm2d(channels, momentum=0.3).to(dtype), torch.Generator().manual_seed(channels)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert tensor is not None
            tensor.copy_(0.5 + torch.rand(channels, generator=generator))
    return norm


def through(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Returns the output, all gradients of a weighted sum of it, and the buffers."""
    x = x.detach().requires_grad_()
    y = module(x)
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
    gradients = torch.autograd.grad((y * weights).sum(), [x, *module.parameters()])
    return [y.detach(), *gradients, *(buffer.clone() for buffer in module.buffers() if buffer.is_floating_point())]


def compared(module: nn.Module, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    own, torchs = copy.deepcopy(module), copy.deepcopy(module)
    with vectorised(own):
        found = through(own, x)
    return found, through(torchs, x)


@pytest.mark.parametrize(
    "shape", [(4, 6, 8, 8), (3, 13, 6, 4), (5, 1, 7, 3), (2, 31, 2, 2), (1, 2, 1, 3), (2, 3, 1, 1)]
)
def test_batch_norm_trains_as_torchs_does(shape: tuple[int, ...]) -> None:
    found, wanted = compared(messy(shape[1]), images(*shape))
    assert len(found) == 6
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(4, 6, 8, 8), (5, 13, 7, 3), (2, 40, 4, 4)])
def test_batch_norm_judges_as_torchs_does(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    norm, x = messy(shape[1], dtype).eval(), images(*shape, dtype=dtype)
    before = copy.deepcopy(norm.state_dict())
    with torch.inference_mode():
        wanted = norm(x)
        with vectorised(norm):
            torch.testing.assert_close(norm(x), wanted)
    assert all(torch.equal(tensor, before[name]) for name, tensor in norm.state_dict().items())


def test_in_bfloat16_batch_norm_is_about_as_close_to_the_truth_as_torchs() -> None:
    x = images(16, 6, 8, 8, dtype=torch.bfloat16)
    found, wanted = compared(messy(6, torch.float32), x)
    truth = through(messy(6).train(), x.double())
    for one, other, true in zip(found, wanted, truth, strict=True):
        assert one.dtype == other.dtype
        distances = [float((tensor.double() - true).norm() / true.norm()) for tensor in (one, other)]
        assert distances[0] < 2 * distances[1] + 1e-5


def test_the_layout_of_what_comes_out_is_channels_last_in_both_directions() -> None:
    norm, x = messy(6), images(4, 6, 8, 8).requires_grad_()
    with vectorised(norm):
        y = norm(x)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert y.is_contiguous(memory_format=LAST)
    assert gradient.is_contiguous(memory_format=LAST)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(4, 6, 8, 8), (3, 13, 6, 4), (2, 1, 2, 2), (2, 15, 2, 6)])
def test_pooling_takes_the_same_maxima_and_sends_the_gradient_to_the_same_place(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    values = images(*shape).round().to(dtype)  # whole numbers: many are equal
    (found, *own), (wanted, *torchs) = compared(nn.MaxPool2d(2, 2), values)
    assert torch.equal(found, wanted)
    assert found.is_contiguous(memory_format=LAST)
    assert torch.equal(*(functional.avg_pool2d(gradients[0], 2) for gradients in (own, torchs)))
    plain = images(*shape)
    assert plain.unique().numel() == plain.numel()
    for one, other in zip(*compared(nn.MaxPool2d(2, 2), plain), strict=True):
        assert torch.equal(one, other)


def test_of_equal_numbers_one_gets_the_whole_gradient() -> None:
    pool, x = nn.MaxPool2d(2, 2), torch.ones(2, 3, 4, 4).contiguous(memory_format=LAST).requires_grad_()
    with vectorised(pool):
        (gradient,) = torch.autograd.grad(pool(x).sum(), x)
    assert torch.equal(gradient[:, :, ::2, ::2], torch.ones(2, 3, 2, 2))
    assert gradient.sum() == 2 * 3 * 4


@pytest.mark.parametrize("channels", [1, 8, 40])
def test_without_a_gradient_pooling_of_any_width_takes_the_same_maxima(channels: int) -> None:
    pool, x = nn.MaxPool2d(2, 2), images(3, channels, 6, 4)
    with torch.inference_mode(), vectorised(pool):
        found = pool(x)
    assert torch.equal(found, functional.max_pool2d(x, 2, 2))
    assert found.is_contiguous(memory_format=LAST)


def test_a_number_that_is_none_stays_visible() -> None:
    pool, x = nn.MaxPool2d(2, 2), torch.zeros(1, 3, 4, 4).contiguous(memory_format=LAST)
    x[0, 1, 1, 2] = torch.nan
    with vectorised(pool):
        assert pool(x).isnan().nonzero().tolist() == [[0, 1, 0, 1]]


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (messy(40), images(4, 40, 4, 4)),
        (messy(24), images(4, 24, 4, 4)),
        (messy(6), images(4, 6, 4, 4).contiguous()),
        (nn.BatchNorm2d(6, momentum=None).double(), images(4, 6, 4, 4)),
        (nn.BatchNorm2d(6, track_running_stats=False).double(), images(4, 6, 4, 4)),
        (nn.MaxPool2d(2, 2), images(2, 3, 5, 4)),
        (nn.MaxPool2d(3, 2, 1), images(2, 3, 4, 4)),
        (nn.MaxPool2d(2, 2), images(2, 17, 4, 4).contiguous()),
        (nn.MaxPool2d(2, 2), images(2, 32, 4, 4)),
    ],
    ids=[
        "wide",
        "whole vectors",
        "channels first",
        "cumulative",
        "untracked",
        "odd",
        "overlapping",
        "pool, channels first",
        "pool, wide",
    ],
)
def test_what_brings_nothing_is_left_to_torch(module: nn.Module, x: Tensor) -> None:
    for one, other in zip(*compared(module, x), strict=True):
        assert torch.equal(one, other)


def test_a_single_value_for_a_channel_is_refused_as_by_torch() -> None:
    norm = messy(6)
    with vectorised(norm), pytest.raises(ValueError, match="more than 1 value"):
        norm(images(1, 6, 1, 1))


def test_a_network_is_as_it_was_afterwards_also_after_a_failure() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.MaxPool2d(2, 2)))
    before = [dict(vars(module)) for module in network.modules()]
    with vectorised(network):
        assert "forward" in vars(network[0])
    with pytest.raises(ValueError, match="4D"), vectorised(network):
        network(torch.zeros(2, 3))
    assert [dict(vars(module)) for module in network.modules()] == before
