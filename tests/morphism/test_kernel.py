"""What is particular to morphisms of windows, groups, pools and strides; what all share is in test_contract."""

from __future__ import annotations

import pytest
import torch

from genomes import Genome, Module, expand
from genomes.operations import AvgPool, Conv, Flatten, GlobalPool, Input, Linear, MaxPool, ReLU
from morphism import Inapplicable
from morphism.interpreter import run
from morphism.realise import realise
from tests.morphism.samples import SHAPE, messy, probes, uneven_calls
from tests.morphism.test_channels import chain
from tests.morphism.test_families import TABLE, plan


def between(**nodes: Conv | AvgPool) -> Genome:
    genome = chain(a=Conv(4, 1), **nodes, r=ReLU(), g=GlobalPool(), f=Flatten(), h=Linear(3))
    return genome.changed({"net": genome["net"].changed({"x": Input(0, SHAPE)})})


def preserved(genome: Genome, name: str, **site: str) -> Module:
    """Returns the child's module after checking its function and extents."""
    edit, weights = plan(name, genome, **site), messy(genome, 0)
    before, after = run(genome, weights, probes(0)), run(edit.genome, realise(edit, weights), probes(0))
    torch.testing.assert_close(before, after, rtol=1e-13, atol=1e-13)
    assert expand(edit.genome).shape("r") == expand(genome).shape("r")
    return edit.genome["net"]


@pytest.mark.parametrize("conv", [Conv(4, 1), Conv(4, 3, 2, 0, 2), Conv(4, 5, 1, 1), Conv(4, 3, 2, 3, 1, 2)])
def test_a_kernel_grows_around_its_centre_whatever_its_stride_padding_and_dilation(conv: Conv) -> None:
    genome = chain(a=Conv(4, 1), c=conv, g=GlobalPool(), f=Flatten(), h=Linear(4))
    genome = genome.changed({"net": genome["net"].changed({"x": Input(0, SHAPE)})})
    edit = plan("kernel.grow", genome, node="c")
    grown = edit.genome["net"].operations["c"]
    assert isinstance(grown, Conv)
    assert (grown.kernel, grown.padding) == (conv.kernel + 2, conv.padding + conv.dilation)
    assert expand(edit.genome).shape("c") == expand(genome).shape("c")
    weights = messy(genome, 0)
    before, after = run(genome, weights, probes(0)), run(edit.genome, realise(edit, weights), probes(0))
    torch.testing.assert_close(before, after, rtol=1e-13, atol=1e-13)


def test_kernels_do_not_grow_where_the_ring_would_see_only_padding() -> None:
    genome = chain(c=Conv.same(4, 3), g=GlobalPool(), e=Conv(4, 1), k=Conv(4, 1), f=Flatten(), h=Linear(4))
    assert [site["node"] for site in TABLE["kernel.grow"].sites(genome)] == ["c"]
    for operation in (Conv(4, 2), Conv.same(4, 7)):
        changed = genome.changed({"net": genome["net"].changed({"c": operation})})
        assert not TABLE["kernel.grow"].sites(changed)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("kernel", "dilation", "window"), [(3, 2, 5), (3, 3, 7), (2, 2, 3), (2, 5, 6)])
def test_a_dilated_kernel_becomes_its_window(kernel: int, dilation: int, window: int, groups: int) -> None:
    genome = between(c=Conv(4, kernel, 2, 1, dilation, groups))
    assert preserved(genome, "kernel.undilate", node="c").operations["c"] == Conv(4, window, 2, 1, 1, groups)
    edit = plan("kernel.undilate", genome, node="c")
    weights = messy(genome, 0)
    spread = realise(edit, weights)["c.weight"]
    assert torch.equal(spread[:, :, ::dilation, ::dilation], weights["c.weight"])
    assert spread.count_nonzero() == weights["c.weight"].numel()


def test_windows_above_seven_stay_dilated() -> None:
    for conv in (Conv.same(4, 3, dilation=4), Conv.same(4, 5, dilation=2), Conv.same(4, 3), Conv(4, 1, dilation=2)):
        assert not TABLE["kernel.undilate"].sites(between(c=conv))
        with pytest.raises(Inapplicable):
            plan("kernel.undilate", between(c=conv), node="c")


@pytest.mark.parametrize(
    "conv", [Conv.same(4, 3, groups=4), Conv.same(6, 3, groups=2), Conv(8, 1, groups=4, bias=True)]
)
def test_a_grouped_convolution_becomes_dense_with_zeros_across_groups(conv: Conv) -> None:
    genome, weights = between(c=conv), messy(between(c=conv), 0)
    child = preserved(genome, "conv.dense", node="c")
    assert child.operations["c"] == Conv(conv.out_channels, conv.kernel, 1, conv.padding, bias=conv.bias)
    dense = realise(plan("conv.dense", genome, node="c"), weights)["c.weight"]
    assert dense.count_nonzero() == weights["c.weight"].numel() == dense.numel() // conv.groups


def test_groups_stay_where_the_dense_weight_would_be_too_large() -> None:
    genome = chain(a=Conv(2048, 1), c=Conv.same(2048, 3, groups=2048), g=GlobalPool(), f=Flatten(), h=Linear(3))
    assert not TABLE["conv.dense"].sites(genome)
    with pytest.raises(Inapplicable):
        plan("conv.dense", genome, node="c")


def test_a_kernel_does_not_grow_beyond_the_padding_that_there_may_be() -> None:
    for padding, grows in ((48, True), (49, False)):
        genome = between(c=Conv(4, 3, 1, padding, 16))
        genome = genome.changed({"net": genome["net"].changed({"x": Input(0, (2, 40, 40))})})
        assert ({"module": "net", "node": "c"} in TABLE["kernel.grow"].sites(genome)) == grows


@pytest.mark.parametrize("pool", [AvgPool(), AvgPool(3, 1, 1), AvgPool(3, 2, 1), AvgPool(4, 3, 2)])
def test_an_average_pool_becomes_a_depthwise_convolution(pool: AvgPool) -> None:
    child = preserved(between(p=pool), "pool.depthwise", node="p")
    assert child.operations["p"] == Conv(4, pool.kernel, pool.stride, pool.padding, groups=4)


def test_pools_with_partial_windows_maxima_or_several_widths_stay() -> None:
    for genome in (between(p=AvgPool(2, 2, 0, ceil=True)), chain(a=Conv(4, 1), p=MaxPool(), f=Flatten(), h=Linear(3))):
        assert not TABLE["pool.depthwise"].sites(genome)
        with pytest.raises(Inapplicable):
            plan("pool.depthwise", genome, node="p")
    uneven = uneven_calls()
    cell = uneven["cell"].changed({"p": AvgPool(3, 1, 1)})  # reads 4 channels in one call, 6 in the other
    assert {site["node"] for site in TABLE["pool.depthwise"].sites(uneven.changed({"cell": cell}))} == {"a"}


@pytest.mark.parametrize(
    "conv", [Conv(4, 3, 2, 1), Conv(4, 1, 3), Conv(4, 2, 2), Conv(4, 3, 5, 0, 2), Conv(4, 3, 2, 1, 1, 2)]
)
def test_a_stride_becomes_a_pool_of_single_positions(conv: Conv) -> None:
    genome = between(c=conv)
    child = preserved(genome, "stride.subsample", node="c")
    (added,) = set(child.operations) - set(genome["net"].operations)
    assert child.operations[added] == MaxPool(1, conv.stride)
    assert not plan("stride.subsample", genome, node="c").tensors
