"""The space of residual networks: founders, random members, limits."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest

from genomes import InvalidGenome, check, cost, expand, fingerprint
from genomes.operations import Call, Conv, Input
from genomes.spaces.residual import FULL, SIZES, ResidualLimits, ResidualSpace

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 48), (3, 224, 224), (1, 4, 4)]


@pytest.mark.parametrize("shape", SHAPES)
def test_starters_are_valid_different_and_classify(shape: tuple[int, int, int]) -> None:
    space = ResidualSpace(shape, 7)
    starters = space.starters()
    assert 2 <= len(starters) <= 4
    assert len({fingerprint(genome) for genome in starters}) == len(starters)
    for genome in starters:
        check(genome, space.limits.budgets)
        expansion = expand(genome)
        assert expansion.primitives["image"].operation == Input(0, shape)
        assert expansion.shape(expansion.output) == (7,)


@pytest.mark.parametrize(
    ("shape", "low", "high"), [((1, 8, 8), 1e3, 5e3), ((1, 28, 28), 5e3, 2e4), ((3, 32, 32), 5e3, 2e4)]
)
def test_starters_are_small(shape: tuple[int, int, int], low: float, high: float) -> None:
    assert all(low <= cost(genome).parameters <= high for genome in ResidualSpace(shape, 10).starters())


def test_a_starter_calls_one_module_twice() -> None:
    last = ResidualSpace((1, 8, 8), 10).starters()[-1]
    assert [op.module for _, op in last["net"].nodes if isinstance(op, Call)] == ["block", "block"]


@pytest.mark.parametrize("shape", SHAPES)
def test_founders_are_the_starters_and_then_networks_of_rising_size_up_to_the_limit(
    shape: tuple[int, int, int],
) -> None:
    limits = ResidualLimits(parameters=40_000)
    space = ResidualSpace(shape, 10, limits)
    founders = space.founders(3)
    count = len(space.starters())
    assert founders[:count] == space.starters()
    for genome in founders:
        check(genome, limits.budgets)
    sizes = [cost(genome).parameters for genome in founders[count:]]
    shares = [limits.parameters * 2 ** (-halves / 2) for halves in range(SIZES - 1, -1, -1)]
    assert [len([s for s in shares if FULL * s <= size <= s]) for size in sizes] == [1] * len(sizes)
    assert sizes == sorted(sizes)
    assert len(sizes) >= SIZES - 2
    assert space.founders(3) == founders
    assert space.founders(4)[count:] != founders[count:]


def test_more_founders_are_further_series_of_shapes() -> None:
    space = ResidualSpace((1, 28, 28), 10)
    first, more = space.founders(3), space.founders(3, 40)
    assert more[: len(first)] == first
    assert 32 <= len(more) <= 44
    assert len({fingerprint(genome) for genome in more}) >= 0.9 * len(more)
    sizes = [cost(genome).parameters for genome in more[len(first) :]]
    assert sum(one > other for one, other in pairwise(sizes)) == 3  # each series begins small again


def test_a_founder_can_be_no_wider_within_its_share() -> None:
    space = ResidualSpace((1, 28, 28), 10, ResidualLimits(parameters=50_000))
    drawn, shape = space._drawn(random.Random(1))
    share = cost(shape(drawn)).parameters + 0.5
    assert space._widest(shape, share) == shape(drawn)


def test_sizes_that_no_shape_has_are_left_out() -> None:
    narrow = ResidualSpace((1, 28, 28), 10, ResidualLimits(width=(4, 4), stages=3, blocks=0, parameters=100_000))
    founders = narrow.founders(0)
    assert len(founders) < len(narrow.starters()) + SIZES
    assert len(set(founders)) == len(founders)


@pytest.mark.parametrize("shape", SHAPES)
def test_random_members_are_valid_varied_and_repeatable(shape: tuple[int, int, int]) -> None:
    space = ResidualSpace(shape, 10)
    members = [space.sample(random.Random(seed)) for seed in range(40)]
    for genome in members:
        check(genome, space.limits.budgets)
    assert len({fingerprint(genome) for genome in members}) >= 25
    assert [space.sample(random.Random(seed)) for seed in range(40)] == members


def test_random_members_have_strides_pools_and_separable_blocks() -> None:
    space = ResidualSpace((3, 32, 32), 10)
    found = {
        (op.kind, isinstance(op, Conv) and op.stride > 1, isinstance(op, Conv) and op.groups > 1)
        for seed in range(40)
        for _, op in space.sample(random.Random(seed))["net"].nodes
    }
    assert {("conv", True, False), ("conv", False, True), ("max_pool", False, False)} <= found


@pytest.mark.parametrize(
    ("shape", "classes", "words"),
    [
        ((1, 1, 1), 10, r"H and W of 4 or more, got \[1, 1, 1\]"),
        ((0, 8, 8), 10, "images must be"),
        ((1, 8), 10, "images must be"),
        ((3, 8, 8, 8), 10, r"images must be \[C, H, W\]"),
        ((1, 8, 8), 0, "two classes or more, got 0"),
        ((1, 8, 8), 1, "two classes or more, got 1"),
    ],
)
def test_impossible_tasks_are_refused(shape: Any, classes: int, words: str) -> None:
    with pytest.raises(InvalidGenome, match=words):
        ResidualSpace(shape, classes)


@pytest.mark.parametrize(
    "fields",
    [{"width": (8, 4)}, {"width": (0, 4)}, {"width": (1, 9999)}, {"stages": 0}, {"blocks": -1}, {"parameters": 0}],
)
def test_impossible_limits_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidGenome, match=next(iter(fields))):
        ResidualLimits(**fields)


def test_limits_that_no_network_meets_are_named() -> None:
    space = ResidualSpace((3, 32, 32), 10, ResidualLimits(macs=100))
    with pytest.raises(InvalidGenome, match=r"no starter .* macs must be at most 100, got"):
        space.starters()
    with pytest.raises(InvalidGenome, match="raise a limit or lower the width"):
        space.sample(random.Random(0))
