"""A bounded genome is the genome itself, but refuses changes that lead over limits."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genomes import Bounded, Genome, InvalidGenome, Limits, Stored, allowed, check, cost, expand
from genomes.operations import Conv, ReLU
from tests.drawing import genomes
from tests.genomes.flat import chain, changes

SETTINGS = settings(deadline=None, max_examples=40)


@SETTINGS
@given(genomes())
def test_it_is_the_genome(genome: Genome) -> None:
    for one in (genome, Stored(genome.to_json())):
        bounded = Bounded(one, Limits(parameters=1))
        assert (bounded, genome, hash(bounded)) == (genome, bounded, hash(genome))
        assert bounded.modules == genome.modules
        assert bounded.to_json() == genome.to_json()
        assert expand(bounded) == expand(genome)


@SETTINGS
@given(genomes(), st.randoms(use_true_random=False))
def test_what_it_refuses_is_not_allowed_and_what_it_lets_pass_is_the_same(genome: Genome, rng: random.Random) -> None:
    spent = cost(genome)
    limits = Limits(spent.parameters, spent.macs, spent.activation_bytes)
    for child in changes(genome, rng):
        try:
            made = Bounded(genome, limits).changed({**dict.fromkeys(dict(genome.modules)), **dict(child.modules)})
        except InvalidGenome:
            assert not allowed(child, limits)
        else:
            assert made == child
            assert type(made) is Genome
            assert expand(made) == expand(child)
            with suppress(InvalidGenome):
                check(child)
                assert cost(child).parameters <= spent.parameters
                assert cost(child).macs <= spent.macs


def test_a_limit_holds_at_exactly_the_cost() -> None:
    genome = chain(Conv(4, 1), ReLU())
    wider = {"net": genome["net"].changed({"n0": Conv(6, 1)})}
    assert Bounded(genome, Limits(parameters=12, macs=192)).changed(wider) == genome.changed(wider)
    with pytest.raises(InvalidGenome, match="parameters must be at most 11, got 12"):
        Bounded(genome, Limits(parameters=11)).changed(wider)
    with pytest.raises(InvalidGenome, match="macs must be at most 191, got 192"):
        Bounded(genome, Limits(macs=191)).changed(wider)


def test_a_genome_over_the_limits_may_become_one_within() -> None:
    genome = chain(Conv(4, 1), ReLU())
    narrower = {"net": genome["net"].changed({"n0": Conv(2, 1)})}
    assert Bounded(genome, Limits(parameters=4)).changed(narrower) == genome.changed(narrower)
