"""What is particular to single morphisms; what they share is in test_contract."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

from genomes import Genome, Module, expand
from genomes.operations import (
    Add,
    AvgPool,
    BatchNorm,
    Call,
    Conv,
    Flatten,
    GlobalPool,
    Input,
    Linear,
    MaxPool,
    Output,
    ReLU,
    SiLU,
)
from morphism import CATALOGUE, Edit, Inapplicable, Morphism
from morphism.interpreter import run
from morphism.realise import realise
from tests.morphism.samples import drawn, messy, probes
from tests.morphism.test_channels import chain, net

TABLE: dict[str, Morphism] = {morphism.name: morphism for morphism in CATALOGUE}
PLAIN = chain(
    c=Conv.same(8, 3), b=BatchNorm(), r=ReLU(), p=MaxPool(), d=Conv.same(8, 3), s=SiLU(), g=GlobalPool(), f=Flatten(),
    h=Linear(4),
)  # fmt: skip


def plan(name: str, genome: Genome, seed: int = 0, **site: str) -> Edit:
    return TABLE[name].plan(genome, {"module": "net", **site}, random.Random(seed))


def kinds(genome: Genome) -> Counter[str]:
    return Counter(operation.kind for operation in genome["net"].operations.values())


@pytest.mark.parametrize("name", ["deepen.residual", "deepen.identity", "skip.add", "inline"])
def test_what_starts_at_zero_or_as_the_identity_keeps_every_bit(name: str) -> None:
    compared = 0
    for seed in range(40):
        genome = drawn(seed)
        weights = messy(genome, seed)
        for site in TABLE[name].sites(genome)[:2]:
            edit = TABLE[name].plan(genome, site, random.Random(seed))
            child = realise(edit, weights)
            for train in (False, True):
                compared += 1
                before, after = run(genome, weights, probes(seed), train), run(edit.genome, child, probes(seed), train)
                assert torch.equal(before, after)
    assert compared >= 40


def test_widening_grows_the_width_by_a_quarter_to_the_double() -> None:
    genome, widths = chain(c=Conv(16, 1), r=ReLU(), g=GlobalPool(), f=Flatten(), h=Linear(4)), set()
    for seed in range(40):
        edit = plan("widen.split", genome, seed, node="c")
        operation = edit.genome["net"].operations["c"]
        assert isinstance(operation, Conv)
        assert edit.site["channels"] == operation.out_channels
        widths.add(operation.out_channels)
    assert min(widths) in (20, 21)
    assert max(widths) in (31, 32)
    assert len(widths) >= 8


def test_one_channel_can_be_widened() -> None:
    genome = chain(c=Conv(1, 1), r=ReLU(), g=GlobalPool(), f=Flatten(), h=Linear(4))
    for name in ("widen.split", "widen.zero_fanout"):
        assert plan(name, genome, node="c").genome["net"].operations["c"] == Conv(2, 1)


def test_the_logits_and_the_input_cannot_be_widened() -> None:
    for name in ("widen.split", "widen.zero_fanout"):
        assert [site["node"] for site in TABLE[name].sites(PLAIN)] == ["c", "d"]
        for node in ("h", "x"):
            with pytest.raises(Inapplicable):
                plan(name, PLAIN, node=node)


def test_channels_that_change_together_are_one_site() -> None:
    for seed in range(40):
        genome = plan("deepen.residual", PLAIN, seed, node="r").genome
        nodes = [site["node"] for site in TABLE["widen.split"].sites(genome)]
        assert len(nodes) == 3  # the stem with the branch's end, the branch's middle, and d


def test_a_residual_branch_ends_in_a_norm_of_zero_weight_and_may_be_put_in_again() -> None:
    once = plan("deepen.residual", PLAIN, node="r")
    assert kinds(once.genome) - kinds(PLAIN) == Counter(conv=2, batch_norm=2, relu=1, add=1)
    weights = realise(once, messy(PLAIN, 0))
    zeros = [name for name, tensor in weights.items() if name.endswith("weight") and not tensor.any()]
    assert len(zeros) == 1
    twice = plan("deepen.residual", once.genome, node="r")
    assert len(twice.genome["net"].nodes) == len(PLAIN["net"].nodes) + 12


def test_identity_layers_stand_only_behind_relu() -> None:
    assert [site["node"] for site in TABLE["deepen.identity"].sites(PLAIN)] == ["r"]
    with pytest.raises(Inapplicable):
        plan("deepen.identity", PLAIN, node="s")
    vector = chain(f=Flatten(), l=Linear(6), r=ReLU(), h=Linear(2))
    assert kinds(plan("deepen.identity", vector, node="r").genome)["linear"] == 3


@pytest.mark.parametrize("conv", [Conv(4, 1), Conv(4, 3, 2, 0, 2), Conv(4, 5, 1, 1), Conv(4, 3, 2, 3, 1, 2)])
def test_a_kernel_grows_around_its_centre_whatever_its_stride_padding_and_dilation(conv: Conv) -> None:
    genome = chain(a=Conv(4, 1), c=conv, g=GlobalPool(), f=Flatten(), h=Linear(4))
    genome = genome.changed({"net": genome["net"].changed({"x": drawn(0)["net"].operations["in0"]})})
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


def test_a_skip_averages_where_extents_have_a_whole_ratio() -> None:
    edit = plan("skip.add", PLAIN, source="r", node="s")
    assert kinds(edit.genome) - kinds(PLAIN) == Counter(conv=1, avg_pool=1, add=1)
    assert AvgPool(2, 2) in edit.genome["net"].operations.values()


def test_no_skip_makes_a_cycle() -> None:
    for name, source, node in (("skip.add", "s", "r"), ("skip.add", "r", "r"), ("skip.concat", "s", "d")):
        with pytest.raises(Inapplicable):
            plan(name, PLAIN, source=source, node=node)
    for seed in range(20):
        for name in ("skip.add", "skip.concat"):
            for site in TABLE[name].sites(drawn(seed)):
                expand(TABLE[name].plan(drawn(seed), site, random.Random(0)).genome)


def test_a_ratio_of_extents_that_differs_between_calls_is_refused() -> None:
    cell = Module.of(
        {"i": Input(0), "k": Input(1), "r": ReLU(), "s": ReLU(), "g": GlobalPool(), "l": GlobalPool(), "j": Add(),
         "o": Output()},
        [("i", "r"), ("k", "s"), ("r", "g"), ("s", "l"), ("g", "j", 0), ("l", "j", 1), ("j", "o")],
    )  # fmt: skip
    edges = [("x", "p"), ("x", "one", 0), ("x", "one", 1), ("x", "two", 0), ("p", "two", 1)]
    genome = net(
        {"p": MaxPool(), "one": Call("cell"), "two": Call("cell"), "a": Add()},
        [*edges, ("one", "a", 0), ("two", "a", 1), ("a", "y")],
        cell=cell,
    )
    assert {"module": "cell", "source": "r", "node": "s"} not in TABLE["skip.add"].sites(genome)
    with pytest.raises(Inapplicable, match="fitting extent"):
        TABLE["skip.add"].plan(genome, {"module": "cell", "source": "r", "node": "s"}, random.Random(0))


def test_only_a_dense_consumer_may_read_more() -> None:
    genome = net(
        {"a": Conv(4, 1), "r": ReLU(), "c": Conv.same(4, 3, groups=2), "e": Conv.same(4, 3)},
        [("x", "a"), ("a", "r"), ("r", "c"), ("c", "e"), ("e", "y")],
    )
    assert {site["node"] for site in TABLE["skip.concat"].sites(genome)} == {"e"}
    with pytest.raises(Inapplicable):
        plan("skip.concat", genome, source="x", node="c")


def test_a_branch_takes_its_norm_along_if_nobody_else_reads_the_convolution() -> None:
    assert kinds(plan("branch.replicate", PLAIN, node="c").genome) - kinds(PLAIN) == Counter(
        conv=1, batch_norm=1, add=1
    )
    assert kinds(plan("branch.replicate", PLAIN, node="d").genome) - kinds(PLAIN) == Counter(conv=1, add=1)
