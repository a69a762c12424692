from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch

from genomes import Genome, check, expand
from genomes.operations import BatchNorm, Conv, Flatten, GlobalPool, Linear, ReLU
from morphism import EXACT, Edit, Inapplicable
from morphism.certificate import certify, relative_error
from morphism.channels import Symbol, channels
from morphism.interpreter import run
from morphism.realise import realise
from morphism.rewire import NEW, OLD, Copies, Marker, balanced, rewire
from tests.morphism.samples import drawn, messy, probes
from tests.morphism.test_channels import chain


def grouped() -> Genome:
    return chain(
        a=Conv(4, 1, bias=True),
        b=BatchNorm(),
        g=Conv.same(6, 3, groups=2),
        r=ReLU(),
        m=Conv.same(12, 3, groups=6, bias=True),
        d=Conv.same(12, 3, groups=12),
        p=GlobalPool(),
        f=Flatten(),
        h=Linear(3),
    )


def edited(genome: Genome, copies: Copies, seed: int = 0) -> Edit:
    child, tensors = rewire(genome, copies, seed)
    return Edit("rewire", {}, child, tensors, EXACT)


def choices(rng: random.Random, genome: Genome) -> Iterator[tuple[Symbol, ...]]:
    """Yields random sets of free classes, one for each node."""
    table = channels(genome)
    for made in table.made.values():
        if free := sorted(set(made) - table.frozen - set().union(*table.coupled)):
            yield tuple(rng.sample(free, rng.randint(1, len(free))))


@pytest.mark.parametrize("marker", [OLD, NEW])
def test_any_request_is_met_exactly_once_the_groups_are_balanced(marker: Marker) -> None:
    done = 0
    for seed in range(80):
        genome, rng = drawn(seed), random.Random(seed)
        weights = messy(genome, seed)
        for chosen in choices(rng, genome):
            wanted = {s: (OLD, *[marker] * rng.randint(1, 2)) for s in chosen}
            try:
                edit = edited(genome, balanced(genome, wanted, (marker,)), seed)
            except Inapplicable as refusal:
                if "slice" not in str(refusal):  # one slice cannot cut differently in two calls
                    raise
                continue
            check(edit.genome)
            assert certify(genome, edit, weights, realise(edit, weights), seed).verdict, f"genome {seed}: {wanted}"
            done += 1
    assert done >= 200


def test_replicas_and_new_channels_may_be_mixed() -> None:
    genome = grouped()
    table = channels(genome)
    wanted = dict.fromkeys(table.made["net", "a"], (NEW, OLD, OLD, NEW, OLD))
    edit = edited(genome, wanted)
    weights = messy(genome, 0)
    assert certify(genome, edit, weights, realise(edit, weights), 0).verdict


def test_pruning_what_was_grown_gives_back_every_bit() -> None:
    done = 0
    for seed in range(60):
        genome, rng = drawn(seed), random.Random(seed)
        weights = messy(genome, seed)
        for chosen in choices(rng, genome):
            copies = balanced(genome, dict.fromkeys(chosen, (OLD, NEW)), (NEW,))
            try:
                grow = edited(genome, copies, seed)
            except Inapplicable as refusal:
                if "slice" not in str(refusal):
                    raise
                continue
            prune = edited(grow.genome, _new_channels(genome, grow.genome, copies), seed)
            assert prune.genome == genome
            back = realise(prune, realise(grow, weights))
            assert all(torch.equal(back[name], weights[name]) for name in weights)
            done += 1
    assert done >= 150


def test_pruning_is_what_zeroed_channels_would_give() -> None:
    genome = chain(a=Conv.same(4, 3), r=ReLU(), b=Conv.same(4, 3), p=GlobalPool(), f=Flatten(), h=Linear(3))
    weights, images = messy(genome, 0), probes(0)[:, [0, 1, 0]]
    gone = Symbol("net", "a", 2)
    edit = edited(genome, {gone: ()})
    zeroed = {**weights, "a.weight": weights["a.weight"].clone()}
    zeroed["a.weight"][2] = 0
    pruned = run(edit.genome, realise(edit, weights), images)
    assert relative_error(run(genome, zeroed, images), pruned) < 1e-14
    assert edit.genome["net"].operations["a"] == Conv.same(3, 3)


def test_groups_follow_their_constraint() -> None:
    genome = grouped()
    one = {channels(genome).made["net", "a"][0]: (OLD, OLD)}
    with pytest.raises(Inapplicable, match="equally wide"):
        rewire(genome, one)
    child, _ = rewire(genome, balanced(genome, one))
    operations = child["net"].operations
    assert operations["a"] == Conv(6, 1, bias=True)
    assert operations["g"] == Conv.same(6, 3, groups=2)


def test_a_depthwise_convolution_keeps_one_group_a_channel_and_a_multiplying_one_its_groups() -> None:
    genome = grouped()
    table = channels(genome)
    child, _ = rewire(genome, balanced(genome, {table.made["net", "m"][0]: (OLD, OLD)}))
    assert child["net"].operations["m"] == Conv.same(18, 3, groups=6, bias=True)
    assert child["net"].operations["d"] == Conv.same(18, 3, groups=18)


def test_pruning_balances_by_pruning() -> None:
    genome = grouped()
    gone = {channels(genome).made["net", "a"][0]: ()}
    child, _ = rewire(genome, balanced(genome, gone, None))
    assert child["net"].operations["a"] == Conv(2, 1, bias=True)
    expand(child)


def test_a_new_channel_takes_its_place_beside_the_old_one() -> None:
    genome = chain(a=Conv(2, 1), f=Flatten(), h=Linear(3))
    edit = edited(genome, {Symbol("net", "a", 0): (OLD, NEW)})
    weights = messy(genome, 0)
    child = realise(edit, weights)
    assert torch.equal(child["h.weight"][:, :16], weights["h.weight"][:, :16])
    assert not child["h.weight"][:, 16:32].any()
    assert torch.equal(child["h.weight"][:, 32:], weights["h.weight"][:, 16:])
    assert torch.equal(child["a.weight"][[0, 2]], weights["a.weight"])


def test_a_new_channel_starts_with_the_running_statistics_of_its_elder() -> None:
    genome = chain(a=Conv(2, 1), b=BatchNorm(), f=Flatten(), h=Linear(3))
    weights = messy(genome, 0)
    child = realise(edited(genome, {Symbol("net", "a", 1): (OLD, NEW)}), weights)
    for name in ("b.running_mean", "b.running_var"):
        assert torch.equal(child[name], weights[name][[0, 1, 1]])
    assert torch.equal(child["b.weight"][2], torch.ones(()).double())
    assert not child["b.bias"][2].any()


def test_frozen_unknown_and_exhausted_classes_are_refused() -> None:
    genome = grouped()
    table = channels(genome)
    for copies, reason in (
        ({Symbol("net", "h", 0): (OLD, OLD)}, "frozen"),
        ({Symbol("net", "x", 0): (OLD, OLD)}, "frozen"),
        ({Symbol("net", "nowhere", 0): (OLD, OLD)}, "represent"),
        (dict.fromkeys(table.made["net", "a"], ()), "channels"),
        (dict.fromkeys(table.made["net", "a"], (OLD,) * 2000), "channels"),
    ):
        with pytest.raises(Inapplicable, match=reason):
            rewire(genome, copies)


def test_copies_that_change_nothing_change_nothing() -> None:
    genome = grouped()
    assert rewire(genome, dict.fromkeys(channels(genome).classes, (OLD,))) == (genome, {})


def _new_channels(parent: Genome, child: Genome, copies: Copies) -> Copies:
    """Returns the request that prunes every channel of `child` which `copies` added as new."""
    before, after = channels(parent), channels(child)
    gone: dict[Symbol, tuple[()]] = {}
    for node, made in before.made.items():
        markers = [marker for symbol in made for marker in copies.get(symbol, (OLD,))]
        gone.update({s: () for s, marker in zip(after.made[node], markers, strict=True) if marker == NEW})
    return gone
