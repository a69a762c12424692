"""What is particular to branches; what they share with all morphisms is in test_contract."""

from __future__ import annotations

import random

import pytest
import torch

from genomes import Genome, cost, expand
from genomes.operations import BatchNorm, Concat, Conv, Flatten, GlobalPool, Input, Linear, ReLU, Slice
from morphism import Edit, Inapplicable
from morphism.branch import SplitLayer
from morphism.interpreter import run
from morphism.realise import realise
from tests.morphism.samples import SHAPE, messy, probes
from tests.morphism.test_channels import chain


def genome_of(conv: Conv) -> Genome:
    genome = chain(a=Conv(6, 1), c=conv, b=BatchNorm(), r=ReLU(), g=GlobalPool(), f=Flatten(), l=Linear(5), h=Linear(3))
    return genome.changed({"net": genome["net"].changed({"x": Input(0, SHAPE)})})


def split(genome: Genome, node: str = "c") -> Edit:
    return SplitLayer().plan(genome, {"module": "net", "node": node}, random.Random(0))


LAYERS = {
    "dense": Conv(5, 3, 2, 1, 2, bias=True),
    "depthwise": Conv.same(6, 3, groups=6, bias=True),
    "multiplied": Conv.same(12, 3, groups=6),
    "grouped": Conv.same(9, 3, groups=3, bias=True),
    "of two groups": Conv.same(4, 1, groups=2),
}


@pytest.mark.parametrize("conv", LAYERS.values(), ids=LAYERS)
def test_two_halves_are_the_whole_without_a_number_more(conv: Conv) -> None:
    genome = genome_of(conv)
    edit, weights = split(genome), messy(genome, 0)
    child = realise(edit, weights)
    for train in (False, True):
        before, after = run(genome, weights, probes(0), train), run(edit.genome, child, probes(0), train)
        torch.testing.assert_close(before, after, rtol=1e-12, atol=1e-13)
    assert cost(edit.genome).parameters == cost(genome).parameters
    assert cost(edit.genome).macs == cost(genome).macs
    assert Concat() in edit.genome["net"].operations.values()


def test_rows_and_bias_are_cut_in_the_middle() -> None:
    genome = genome_of(LAYERS["dense"])
    edit, weights = split(genome), messy(genome, 0)
    child = realise(edit, weights)
    (twin,) = (node for node in edit.genome["net"].operations if node.startswith("conv_"))
    for parameter in ("weight", "bias"):
        assert torch.equal(child[f"c.{parameter}"], weights[f"c.{parameter}"][:2])
        assert torch.equal(child[f"{twin}.{parameter}"], weights[f"c.{parameter}"][2:])


def test_a_grouped_convolution_is_cut_between_groups_and_reads_slices() -> None:
    edit = split(genome_of(LAYERS["grouped"]))
    net = edit.genome["net"]
    first, second = (op for node, op in net.nodes if isinstance(op, Conv) and node.startswith("c") and op.kernel == 3)
    assert {(op.out_channels, op.groups) for op in (first, second)} == {(3, 1), (6, 2)}
    assert {op for op in net.operations.values() if isinstance(op, Slice)} == {Slice(0, 2), Slice(2, 6)}


def test_a_linear_map_is_cut_too() -> None:
    edit = split(genome_of(LAYERS["dense"]), "l")
    assert sorted(op.out_features for op in edit.genome["net"].operations.values() if isinstance(op, Linear)) == [
        2,
        3,
        3,
    ]
    assert expand(edit.genome).shape("h") == (3,)


def test_the_halves_get_the_gradients_that_the_whole_had() -> None:
    genome = genome_of(LAYERS["dense"])
    edit, weights = split(genome), messy(genome, 0)
    child = realise(edit, weights)
    (twin,) = (node for node in edit.genome["net"].operations if node.startswith("conv_"))
    whole, *halves = weights["c.weight"].clone(), child["c.weight"], child[f"{twin}.weight"]
    for tensor in (whole, *halves):
        tensor.requires_grad_(True)
    run(genome, {**weights, "c.weight": whole}, probes(0), train=True).square().sum().backward()
    run(edit.genome, child, probes(0), train=True).square().sum().backward()
    assert whole.grad is not None
    grads = [half.grad for half in halves if half.grad is not None]
    torch.testing.assert_close(whole.grad, torch.cat(grads))


def test_the_halves_may_change_alone() -> None:
    genome = split(genome_of(LAYERS["dense"])).genome
    again = split(genome, "c").genome
    assert sum(isinstance(op, Concat) for op in again["net"].operations.values()) == 2
    assert expand(again).shape("b") == expand(genome).shape("b")


def test_what_makes_one_channel_is_not_cut() -> None:
    genome = genome_of(Conv(1, 1))
    assert {site["node"] for site in SplitLayer().sites(genome)} == {"a", "l", "h"}
    for node in ("c", "b"):
        with pytest.raises(Inapplicable, match="two channels"):
            split(genome, node)
