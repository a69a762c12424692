from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from genomes import Genome, Module, expand
from genomes.operations import Conv, Input, Output
from morphism import Edit, Inapplicable
from morphism.realise import initial, realise
from morphism.tensors import Constant, Dirac, Gather, Pad, Random, Source, TensorExpr, Times
from tests.morphism.samples import drawn, messy


def made(expression: TensorExpr, **sources: Tensor) -> Tensor:
    """Realises one expression as the weight of a convolution of the shape that it has."""
    for out_channels in range(1, 9):
        for in_channels in range(1, 9):
            for kernel in (1, 3, 5):
                nodes = {
                    "x": Input(0, (in_channels, 9, 9)),
                    "c": Conv(out_channels, kernel, padding=kernel // 2),
                    "y": Output(),
                }
                genome = Genome.of({"net": Module.of(nodes, [("x", "c"), ("c", "y")])})
                try:
                    return realise(Edit("test", {}, genome, {"c.weight": expression}), sources)["c.weight"]
                except Inapplicable as error:
                    if "must be" not in str(error) or "c.weight" not in str(error):
                        raise
    raise AssertionError("no convolution has this shape")


def weight(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_gather_copies_slices_in_order() -> None:
    x = weight(2, 3, 1, 1)
    assert torch.equal(made(Gather(Source("x"), 1, (2, 0, 0)), x=x), x[:, [2, 0, 0]])


def test_split_parts_sum_to_the_whole_and_differ_in_every_element() -> None:
    x = weight(4, 2, 3, 3)
    parts = made(Gather(Source("x"), 1, (0, 0, 1, 0), share="split", seed=3), x=x)
    assert torch.equal(parts[:, 2], x[:, 1])
    torch.testing.assert_close(parts[:, [0, 1, 3]].sum(1), x[:, 0], rtol=1e-14, atol=1e-15)
    shares = parts[:, 0] / x[:, 0]
    assert shares.min() > 0.05
    assert shares.max() < 0.9
    assert shares.unique().numel() == shares.numel()


def test_new_slices_are_zero_one_or_as_large_as_the_old_ones() -> None:
    x = 3 * weight(4, 8, 3, 3)
    index = (*range(8),)
    assert not made(Gather(Source("x"), 0, (0, -1)), x=x)[1].any()
    assert made(Gather(Source("x"), 0, (0, -1), new="one"), x=x)[1].eq(1).all()
    drawn_rows = made(Gather(Source("x"), 0, (0, -1, -1, -1, -1, 1), new="random", seed=1), x=x)[1:5]
    assert 2.5 < drawn_rows.square().mean().sqrt() < 3.5
    rows_of_zeros = made(Gather(Source("x"), 0, (*index[:4], -1), new="random"), x=torch.zeros_like(x))
    assert rows_of_zeros[4].square().mean().sqrt() == pytest.approx(math.sqrt(2 / 72), rel=0.5)


def test_groups_are_gathered_each_with_its_own_index() -> None:
    x = weight(4, 2, 1, 1)
    got = made(Gather(Source("x"), 1, (1, 1, 0, -1), groups=2), x=x)
    assert torch.equal(got[:2], x[:2][:, [1, 1]])
    assert torch.equal(got[2:, 0], x[2:, 0])
    assert not got[2:, 1].any()


def test_the_other_expressions_do_what_they_say() -> None:
    x = weight(2, 2, 1, 1)
    padded = made(Pad(Source("x"), 1), x=x)
    assert torch.equal(padded[:, :, 1:2, 1:2], x)
    assert padded.count_nonzero() == x.numel()
    assert torch.equal(made(Times(Source("x"), 0.5), x=x), x / 2)
    assert made(Constant((2, 2, 1, 1), 7.0), x=x).eq(7).all()
    image = weight(1, 2, 5, 5)
    dirac = made(Dirac((2, 2, 3, 3)), x=x)
    assert torch.equal(torch.nn.functional.conv2d(image, dirac, padding=1), image)


def test_random_numbers_are_the_same_in_every_dtype_and_independent_of_global_state() -> None:
    expression = Random((2, 2, 3, 3), 0.5, 9)
    state = torch.get_rng_state()
    double = made(expression, x=weight(1, 1))
    single = made(expression, x=weight(1, 1).float())
    assert torch.equal(torch.get_rng_state(), state)
    assert (double.dtype, single.dtype) == (torch.float64, torch.float32)
    assert torch.equal(double.float(), single)


def test_a_source_under_another_name_is_a_second_tensor() -> None:
    x = weight(2, 2, 1, 1)
    copy = made(Source("x"), x=x)
    assert torch.equal(copy, x)
    assert copy.data_ptr() != x.data_ptr()


@pytest.mark.parametrize(
    "expression",
    [
        Source("nowhere"),
        Gather(Source("x"), 0, (2,)),
        Gather(Source("x"), 4, (0,)),
        Gather(Source("x"), 0, ()),
        Gather(Source("x"), 1, (0, 1), groups=3),
    ],
)
def test_what_does_not_fit_is_refused(expression: TensorExpr) -> None:
    with pytest.raises(Inapplicable):
        made(expression, x=weight(2, 2, 1, 1))


def test_a_wrong_shape_and_an_unknown_name_are_refused() -> None:
    genome = drawn(0)
    name = next(iter(expand(genome).tensor_shapes()))
    with pytest.raises(Inapplicable, match="must be"):
        realise(Edit("test", {}, genome, {name: Constant((1,), 0.0)}), messy(genome, 0))
    with pytest.raises(Inapplicable, match="has no tensor"):
        realise(Edit("test", {}, genome, {"nowhere.weight": Constant((1,), 0.0)}), messy(genome, 0))


def test_initial_weights_depend_on_the_seed_and_on_nothing_else() -> None:
    genome = drawn(1)
    first, again, other = initial(genome, 1), initial(genome, 1), initial(genome, 2)
    assert {name: tuple(t.shape) for name, t in first.items()} == expand(genome).tensor_shapes()
    assert all(t.dtype == torch.float32 for t in first.values())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
