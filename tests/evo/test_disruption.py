"""What every disruption promises, and what each of them does; a newcomer joins by being in `DISRUPTIONS`."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch

from evo import DISRUPTIONS
from genomes import Genome, InvalidGenome, Module, check, cost, expand
from genomes.operations import (
    GELU,
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
from morphism import Edit, Inapplicable, Morphism
from morphism.interpreter import run
from morphism.realise import realise
from tests.morphism.samples import drawn, messy, probes

GENOMES = 50
LEAST_APPLICATIONS = 25  # of each disruption, else a test proves nothing

each = pytest.mark.parametrize("disruption", DISRUPTIONS, ids=lambda disruption: disruption.name)


def planned(disruption: Morphism) -> Iterator[tuple[int, Genome, Edit]]:
    """Yields random genomes with edits at random sites."""
    for seed in range(GENOMES):
        genome, rng = drawn(seed), random.Random(seed)
        sites = list(disruption.sites(genome))
        for site in rng.sample(sites, min(3, len(sites))):
            try:
                yield seed, genome, disruption.plan(genome, site, rng)
            except Inapplicable:
                continue


def named(name: str) -> Morphism:
    return next(disruption for disruption in DISRUPTIONS if disruption.name == name)


def example() -> Genome:
    """Returns a network whose residual block is called twice; its second calls' values are 6 x 6."""
    block = Module.of(
        {
            "x": Input(),
            "conv": Conv.same(4, 5),
            "norm": BatchNorm(),
            "act": ReLU(),
            "mix": Conv.same(4, 3),
            "sum": Add(),
            "out": Output(),
        },
        [
            ("x", "conv"),
            ("conv", "norm"),
            ("norm", "act"),
            ("act", "mix"),
            ("mix", "sum"),
            ("x", "sum", 1),
            ("sum", "out"),
        ],
    )
    layers = {
        "image": Input(0, (2, 12, 12)),
        "stem": Conv.same(4, 3),
        "one": Call("block"),
        "pool": MaxPool(),
        "two": Call("block"),
        "mean": GlobalPool(),
        "flat": Flatten(),
        "head": Linear(3),
        "logits": Output(),
    }
    chain = list(layers)
    net = Module.of(layers, list(pairwise(chain)))
    genome = Genome.of({"net": net, "block": block})
    check(genome)
    return genome


@each
def test_a_child_is_valid_and_gets_every_tensor_in_its_shape(disruption: Morphism) -> None:
    applied = 0
    for seed, genome, edit in planned(disruption):
        check(edit.genome)
        assert edit.rule == disruption.name
        assert edit.genome != genome
        weights = realise(edit, messy(genome, seed))
        shapes = expand(edit.genome).tensor_shapes()
        assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == shapes
        assert run(edit.genome, weights, probes(seed)).shape == (8, 3)
        applied += 1
    assert applied >= LEAST_APPLICATIONS


@each
def test_no_promise_is_made(disruption: Morphism) -> None:
    assert disruption.modes == frozenset()
    assert disruption.weight > 0
    assert all(edit.modes == frozenset() for _, _, edit in planned(disruption))


@each
def test_edits_survive_json(disruption: Morphism) -> None:
    for _, _, edit in planned(disruption):
        again = Edit.from_json(json.loads(json.dumps(edit.to_json())))
        assert again == edit
        assert again.digest == edit.digest


@each
def test_the_same_generator_plans_the_same_edit(disruption: Morphism) -> None:
    assert [edit.digest for _, _, edit in planned(disruption)] == [edit.digest for _, _, edit in planned(disruption)]


@each
def test_most_offered_sites_can_be_planned(disruption: Morphism) -> None:
    outcomes: Counter[bool] = Counter()
    for seed in range(GENOMES):
        genome = drawn(seed)
        for site in disruption.sites(genome):
            try:
                check(disruption.plan(genome, site, random.Random(seed)).genome)
            except (Inapplicable, InvalidGenome):
                outcomes[False] += 1
            else:
                outcomes[True] += 1
    assert outcomes[False] <= 0.15 * outcomes[True]  # a stride inside a sum, the last channel of a group


@each
def test_a_site_that_does_not_exist_is_refused(disruption: Morphism) -> None:
    genome = example()
    for site in ({"module": "net", "node": "nowhere", "port": 0}, {"module": "net", "node": "image", "port": 0}, {}):
        with pytest.raises(Inapplicable):
            disruption.plan(genome, site, random.Random(0))


@each
def test_parents_and_their_weights_stay_as_they_are(disruption: Morphism) -> None:
    for seed, genome, edit in planned(disruption):
        weights, digest = messy(genome, seed), genome.digest
        copies = {name: tensor.clone() for name, tensor in weights.items()}
        child = realise(edit, weights)
        assert all(torch.equal(weights[name], copies[name]) for name in copies)
        kept = [name for name in child if name not in edit.tensors]
        assert all(child[name] is weights[name] for name in kept)
        assert Genome.from_json(genome.to_json()).digest == digest


def test_removing_acts_on_every_call_and_keeps_the_other_weights() -> None:
    genome = example()
    edit = named("remove").plan(genome, {"module": "block", "node": "norm"}, random.Random(0))
    assert {"one/norm", "two/norm"} == set(expand(genome).primitives) - set(expand(edit.genome).primitives)
    assert expand(edit.genome).primitives["two/act"].inputs == ("two/conv",)
    assert edit.tensors == {}


def test_only_nodes_that_keep_the_shape_are_removed() -> None:
    sites = named("remove").sites(example())
    assert {site["node"] for site in sites} == {"conv", "norm", "act", "mix"}
    for node in ("stem", "pool", "head", "sum"):
        with pytest.raises(Inapplicable):
            named("remove").plan(
                example(), {"module": "net" if node != "sum" else "block", "node": node}, random.Random(0)
            )


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


def test_a_smaller_kernel_inherits_the_inner_taps_in_every_call() -> None:
    genome = example()
    edit = named("shrink.kernel").plan(genome, {"module": "block", "node": "conv"}, random.Random(0))
    weights = messy(genome, 0)
    child = realise(edit, weights)
    for call in ("one", "two"):
        assert torch.equal(child[f"{call}/conv.weight"], weights[f"{call}/conv.weight"][:, :, 1:-1, 1:-1])
    assert expand(edit.genome).shape("two/conv") == expand(genome).shape("two/conv")


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


def test_rewiring_moves_one_input_and_leaves_nothing_unread() -> None:
    genome, found = example(), set()
    rule = named("rewire")
    assert list(rule.sites(genome)) == [{"module": "block", "node": "sum", "port": 1}]
    for seed in range(40):
        child = rule.plan(genome, rule.sites(genome)[0], random.Random(seed)).genome
        check(child)
        found.add(child["block"].sources["sum"])
    assert found == {("mix", other) for other in ("conv", "norm", "act", "mix")}
    with pytest.raises(Inapplicable, match="another value"):
        rule.plan(genome, {"module": "block", "node": "sum", "port": 0}, random.Random(0))
