"""Which channels pruning removes."""

from __future__ import annotations

import random

import pytest
import torch

from genomes import cost, expand
from genomes.operations import (
    Add,
    BatchNorm,
    ChannelShuffle,
    Concat,
    Conv,
    Flatten,
    GlobalPool,
    GroupNorm,
    Linear,
    Operation,
    ReLU,
    Slice,
)
from morphism import Inapplicable
from morphism.interpreter import run
from morphism.realise import realise
from tests.evo.disruptions.samples import example, named
from tests.morphism.samples import messy, probes
from tests.morphism.test_channels import chain, net


def test_pruned_channels_leave_every_call_and_every_reader() -> None:
    genome = example()
    edit = named("prune.channels").plan(genome, {"module": "block", "node": "conv"}, random.Random(0))
    shapes = expand(edit.genome).tensor_shapes()
    for call in ("one", "two"):
        assert shapes[f"{call}/conv.weight"] == (3, 4, 5, 5)
        assert shapes[f"{call}/norm.running_var"] == (3,)
        assert shapes[f"{call}/mix.weight"] == (4, 3, 3, 3)
    assert cost(edit.genome).parameters < cost(genome).parameters


def test_channels_of_the_network_s_own_input_and_output_are_not_pruned() -> None:
    sites = named("prune.channels").sites(example())
    assert {site["node"] for site in sites} == {"conv", "mix"}
    with pytest.raises(Inapplicable, match="free"):
        named("prune.channels").plan(example(), {"module": "net", "node": "head"}, random.Random(0))


def test_the_smallest_gammas_go_in_each_call_for_itself() -> None:
    genome = example()
    weights = messy(genome, 0)
    weights["one/norm.weight"] = torch.tensor([0.5, -2.0, 0.1, 1.0], dtype=torch.float64)
    weights["two/norm.weight"] = torch.tensor([-0.2, 0.3, 5.0, -4.0], dtype=torch.float64)
    edit = named("prune.gamma").plan(genome, {"module": "block", "node": "conv"}, random.Random(0))
    child = realise(edit, weights)
    for call, kept in (("one", [0, 1, 3]), ("two", [1, 2, 3])):
        assert torch.equal(child[f"{call}/conv.weight"], weights[f"{call}/conv.weight"][kept])
        for parameter in ("weight", "bias", "running_mean", "running_var"):
            assert torch.equal(child[f"{call}/norm.{parameter}"], weights[f"{call}/norm.{parameter}"][kept])
        assert torch.equal(child[f"{call}/mix.weight"], weights[f"{call}/mix.weight"][:, kept])


def test_channels_with_gamma_and_beta_of_zero_leave_nothing_behind() -> None:
    genome = example()
    weights = messy(genome, 0)
    for call, gone in (("one", 1), ("two", 3)):
        for parameter in ("weight", "bias"):
            weights[f"{call}/norm.{parameter}"][gone] = 0
    edit = named("prune.gamma").plan(genome, {"module": "block", "node": "conv"}, random.Random(0))
    for train in (False, True):
        before = run(genome, weights, probes(0), train)
        torch.testing.assert_close(before, run(edit.genome, realise(edit, weights), probes(0), train))


def test_the_child_of_a_ranking_does_not_depend_on_weights_and_realises_on_any() -> None:
    genome = example()
    edit = named("prune.gamma").plan(genome, {"module": "block", "node": "conv"}, random.Random(0))
    shapes = expand(edit.genome).tensor_shapes()
    for seed in range(5):
        child = realise(edit, messy(genome, seed))
        assert {name: tuple(tensor.shape) for name, tensor in child.items()} == shapes


def test_calls_that_share_channels_rank_them_alike() -> None:
    genome = example()
    block = genome["block"].changed({"last": BatchNorm()}, [("sum", "last"), ("last", "out")], [("sum", "out")])
    shared = genome.changed({"block": block})
    weights = messy(shared, 0)
    for call in ("one", "two"):
        weights[f"{call}/last.weight"] = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    weights["two/last.weight"][3] = 0.0  # the first norm decides
    edit = named("prune.gamma").plan(shared, {"module": "net", "node": "stem"}, random.Random(0))
    child = realise(edit, weights)
    assert torch.equal(child["stem.weight"], weights["stem.weight"][[1, 2, 3]])
    assert torch.equal(child["two/last.weight"], weights["two/last.weight"][[1, 2, 3]])
    assert torch.equal(child["two/mix.weight"], weights["two/mix.weight"][[1, 2, 3]])


@pytest.mark.parametrize("operation", [Slice(0, 4), Conv.same(4, 3, groups=2), GroupNorm(2), ChannelShuffle(2)])
def test_channels_whose_place_matters_are_not_ranked(operation: Operation) -> None:
    free = chain(c=Conv(4, 1), b=BatchNorm(), r=ReLU(), d=Conv(4, 1), g=GlobalPool(), f=Flatten(), h=Linear(2))
    fixed = chain(c=Conv(4, 1), b=BatchNorm(), s=operation, d=Conv(4, 1), g=GlobalPool(), f=Flatten(), h=Linear(2))
    assert [site["node"] for site in named("prune.gamma").sites(free)] == ["c"]
    assert not named("prune.gamma").sites(fixed)
    with pytest.raises(Inapplicable, match="ranking"):
        named("prune.gamma").plan(fixed, {"module": "net", "node": "c"}, random.Random(0))


def test_halves_that_are_pruned_together_are_not_ranked() -> None:
    genome = net(
        {"a": Conv(2, 1), "b": Conv(2, 1), "j": Concat(), "c": Conv(4, 1), "s": Add(), "n": BatchNorm(),
         "f": Flatten(), "h": Linear(2)},
        [("x", "a"), ("x", "b"), ("a", "j", 0), ("b", "j", 1), ("x", "c"), ("j", "s", 0), ("c", "s", 1), ("s", "n"),
         ("n", "f"), ("f", "h"), ("h", "y")],
    )  # fmt: skip
    assert not named("prune.gamma").sites(genome)  # how many rows a loses would depend on weights


@pytest.mark.parametrize("name", ["prune.channels", "prune.gamma"])
def test_a_quarter_of_the_channels_goes(name: str) -> None:
    genome = chain(c=Conv(8, 1), b=BatchNorm(), r=ReLU(), d=Conv(4, 1), g=GlobalPool(), f=Flatten(), h=Linear(2))
    edit = named(name).plan(genome, {"module": "net", "node": "c"}, random.Random(0))
    assert edit.genome["net"].operations["c"] == Conv(6, 1)
    assert edit.site["channels"] == -2
