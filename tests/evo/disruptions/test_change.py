"""What changing an operation does."""

from __future__ import annotations

import random

import pytest

from genomes import expand
from genomes.operations import GELU, AvgPool, Blend, MaxPool, ReLU, SiLU
from morphism import Inapplicable
from tests.evo.disruptions.samples import example, named


def test_an_activation_becomes_another_one() -> None:
    found = set()
    for seed in range(20):
        edit = named("change.activation").plan(example(), {"module": "block", "node": "act"}, random.Random(seed))
        found.add(edit.genome["block"].operations["act"])
        assert edit.tensors == {}
    assert found == {GELU(), SiLU()}


def test_a_pool_takes_the_mean_instead_and_back() -> None:
    site = {"module": "net", "node": "pool"}
    once = named("change.pool").plan(example(), site, random.Random(0)).genome
    assert once["net"].operations["pool"] == AvgPool(2, 2)
    assert named("change.pool").plan(once, site, random.Random(0)).genome == example()


def test_a_stride_is_doubled_and_halved_where_extents_allow_it() -> None:
    rule, site = named("change.stride"), {"module": "net", "node": "stem"}
    once = rule.plan(example(), site, random.Random(0)).genome
    assert expand(once).shape("stem") == (4, 6, 6)
    assert rule.plan(once, site, random.Random(0)).genome == example()
    with pytest.raises(Inapplicable, match="one shape"):
        rule.plan(example(), {"module": "block", "node": "mix"}, random.Random(0))


def test_a_blend_becomes_one_activation_again() -> None:
    genome = example()
    blended = genome.changed({"block": genome["block"].changed({"act": Blend("relu", "silu")})})
    edits = [
        named("change.activation").plan(blended, {"module": "block", "node": "act"}, random.Random(seed))
        for seed in range(20)
    ]
    assert {edit.genome["block"].operations["act"] for edit in edits} == {ReLU(), GELU(), SiLU()}
    assert "one/act.weight" not in expand(edits[0].genome).tensor_shapes()


def test_another_pool_rounds_as_the_old_one_does() -> None:
    genome, site = example(), {"module": "net", "node": "pool"}
    up = genome.changed({"net": genome["net"].changed({"pool": MaxPool(3, 2, 0, ceil=True)})})
    edit = named("change.pool").plan(up, site, random.Random(0))
    assert edit.genome["net"].operations["pool"] == AvgPool(3, 2, 0, ceil=True)
