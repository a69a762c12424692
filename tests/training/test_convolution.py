from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from training.vectorised.convolution import Columns, Direct, Form, Paired, Windows, convolved, extents, form, simple

LAST = torch.channels_last


def drawn(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).contiguous(memory_format=LAST)


def found(way: type[Form], conv: nn.Conv2d, x: Tensor, needed: bool) -> list[Tensor | None]:
    """Returns the convolution and the gradients of a weighted sum of it."""
    kernel = conv.weight.detach()
    y, seen = way.forward(x, kernel, conv)
    assert y.is_contiguous(memory_format=LAST)
    assert (y.shape[2], y.shape[3]) == extents(conv, x)
    return [y, *way.backward(drawn(*y.shape), seen, kernel, conv, needed)]


def wanted(conv: nn.Conv2d, x: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    y = conv(x)
    return [y.detach(), *torch.autograd.grad((y * drawn(*y.shape)).sum(), [x, conv.weight])]


@pytest.mark.parametrize(
    ("way", "conv", "shape"),
    [
        (Direct, nn.Conv2d(6, 4, (3, 5), (1, 2), (1, 0), groups=2, bias=False), (3, 6, 7, 8)),
        (Direct, nn.Conv2d(6, 4, 3, dilation=2, bias=False), (3, 6, 7, 8)),
        (Columns, nn.Conv2d(1, 6, 3, padding=1, bias=False), (3, 1, 6, 8)),
        (Columns, nn.Conv2d(3, 5, (2, 3), (2, 1), (1, 0), bias=False), (3, 3, 7, 8)),
        (Columns, nn.Conv2d(2, 1, 1, bias=False), (3, 2, 4, 4)),
        (Windows, nn.Conv2d(4, 4, 5, padding=2, groups=4, bias=False), (3, 4, 6, 8)),
        (Windows, nn.Conv2d(4, 4, (7, 2), (2, 3), (3, 0), groups=4, bias=False), (3, 4, 7, 8)),
        (Paired, nn.Conv2d(6, 4, 3, padding=1, bias=False), (3, 6, 5, 8)),
        (Paired, nn.Conv2d(3, 8, (1, 5), padding=(0, 2), bias=False), (3, 3, 4, 6)),
        (Paired, nn.Conv2d(2, 2, 1, bias=False), (3, 2, 4, 4)),
    ],
)
def test_each_way_computes_what_torch_does(way: type[Form], conv: nn.Conv2d, shape: tuple[int, ...]) -> None:
    conv, x = conv.double().to(memory_format=LAST), drawn(*shape)
    y, of_x, of_kernel = wanted(conv, x)
    for needed in (True, False):
        got = found(way, conv, x, needed)
        torch.testing.assert_close(got[0], y, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(got[2], of_kernel, rtol=1e-9, atol=1e-11)
        if way is Columns or not needed:
            assert got[1] is None
        else:
            torch.testing.assert_close(got[1], of_x, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("conv", "shape", "trained", "way"),
    [
        (nn.Conv2d(1, 6, 3, padding=1), (128, 1, 28, 28), False, Columns),
        (nn.Conv2d(1, 6, 3, padding=1), (128, 1, 28, 28), True, Paired),
        (nn.Conv2d(3, 6, 3, padding=1), (128, 3, 16, 16), False, Direct),
        (nn.Conv2d(6, 6, 3, padding=1), (128, 6, 28, 28), True, Paired),
        (nn.Conv2d(6, 6, 3, padding=1), (128, 6, 14, 14), True, Direct),
        (nn.Conv2d(6, 6, 3, padding=1), (128, 6, 28, 29), True, Direct),
        (nn.Conv2d(6, 9, 3, padding=1), (128, 6, 28, 28), True, Direct),
        (nn.Conv2d(6, 6, 3, 2, padding=1), (128, 6, 28, 28), True, Direct),
        (nn.Conv2d(6, 6, 3), (128, 6, 28, 28), True, Direct),
        (nn.Conv2d(6, 6, 3, padding=1, groups=6), (128, 6, 28, 28), True, Direct),
        (nn.Conv2d(6, 6, 5, padding=2, groups=6), (128, 6, 28, 28), True, Windows),
        (nn.Conv2d(6, 6, 5, padding=2, groups=2), (128, 6, 28, 28), True, Direct),
        (nn.Conv2d(6, 6, 5, dilation=2, groups=6), (128, 6, 28, 28), True, Direct),
    ],
)
def test_the_way_is_chosen_by_the_shape(
    conv: nn.Conv2d, shape: tuple[int, ...], trained: bool, way: type[Form]
) -> None:
    assert form(conv, torch.empty(shape, device="meta").requires_grad_(trained)) is way


def test_a_bias_or_another_padding_is_not_simple() -> None:
    assert simple(nn.Conv2d(2, 2, 3, bias=False))
    assert not simple(nn.Conv2d(2, 2, 3))
    assert not simple(nn.Conv2d(2, 2, 3, padding="same", bias=False))
    assert not simple(nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular", bias=False))


@pytest.mark.parametrize("trained", [True, False])
def test_a_convolution_alone_has_torchs_gradients(trained: bool) -> None:
    conv = nn.Conv2d(4, 4, 5, padding=2, groups=4, bias=False).to(memory_format=LAST)
    x = drawn(3, 4, 6, 8).float().requires_grad_(trained)
    inputs = [conv.weight, *([x] if trained else [])]
    weights = drawn(3, 4, 6, 8).float()
    found, wanted = (torch.autograd.grad((y * weights).sum(), inputs) for y in (convolved(conv, x), conv(x)))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert torch.equal(convolved(conv, x), conv(x))
