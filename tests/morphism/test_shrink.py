"""Exact inverses, and the way back of each edit of the catalogue."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from genomes import Genome, Module, check, expand
from genomes.operations import Add, BatchNorm, Conv, Flatten, GlobalPool, Input, Linear, Mean, Output, ReLU
from morphism import CATALOGUE, EXACT, INVERSES, Edit, Inapplicable, Morphism, compose, undo
from morphism.certificate import TOLERANCES, relative_error
from morphism.interpreter import run
from morphism.realise import realise
from morphism.tensors import Source, within
from tests.morphism.samples import CLASSES, SHAPE, drawn, messy, probes

Weights = dict[str, Tensor]
LOST = {"deepen.norm", "deepen.factorise"}  # statistics are measured anew, factors are not multiplied
ROUNDED = {"widen.split", "widen.replicate", "branch.replicate"}  # unequal parts, thirds
ULPS = 4 * torch.finfo(torch.float64).eps
BY_NAME = {inverse.name: inverse for inverse in INVERSES}
INVERTIBLE = [morphism for morphism in CATALOGUE if morphism.name not in LOST]
# may be undone at any time: nothing was added, maps are summed, or replicas stay equal
UNCONDITIONAL = {"inline", "stride.subsample", "branch.split", "branch.replicate", "widen.replicate"}
way_back = pytest.mark.parametrize("morphism", INVERTIBLE, ids=lambda m: m.name)


def planned(morphism: Morphism, genomes: int = 30) -> Iterator[tuple[int, Genome, Edit]]:
    """Yields random genomes with an edit at a random site."""
    for seed in range(genomes):
        genome, rng = drawn(seed), random.Random(seed)
        sites = list(morphism.sites(genome))
        for site in rng.sample(sites, min(2, len(sites))):
            try:
                yield seed, genome, morphism.plan(genome, site, rng)
            except Inapplicable:
                continue


def same_function(parent: tuple[Genome, Weights], child: tuple[Genome, Weights], edit: Edit, seed: int) -> bool:
    """Says whether two networks agree in the modes that an edit claims."""
    assert edit.modes
    return all(
        relative_error(*(run(*network, probes(seed), mode == "train") for network in (parent, child)))
        <= TOLERANCES[mode]
        for mode in edit.modes
    )


def small() -> Genome:
    """Returns a network with a convolution of kernel 3 and norm, a branch that joins a sum, and a head."""
    nodes = {
        "x": Input(0, SHAPE),
        "a": Conv.same(4, 3, bias=True),
        "n": BatchNorm(),
        "r": ReLU(),
        "b": Conv.same(4, 3),
        "m": BatchNorm(),
        "s": Add(),
        "g": GlobalPool(),
        "f": Flatten(),
        "h": Linear(CLASSES),
        "y": Output(),
    }
    chain = ["x", "a", "n", "r", "b", "m"]
    edges = [*pairwise(chain), ("s", "g"), ("g", "f"), ("f", "h"), ("h", "y")]
    genome = Genome.of({"net": Module.of(nodes, [*edges, ("r", "s", 0), ("m", "s", 1)])})
    check(genome)
    return genome


@way_back
def test_an_edit_and_its_undoing_give_the_parent_back(morphism: Morphism) -> None:
    undone = refused = 0
    for seed, genome, edit in planned(morphism):
        back = undo(genome, edit)
        assert back.genome == genome
        assert back.modes == edit.modes
        assert Edit.from_json(back.to_json()) == back
        weights = messy(genome, seed)
        child = realise(edit, weights)
        try:
            found = realise(back, child)
        except Inapplicable:  # a layer that reads the channels that are split in it: rounding
            assert morphism.name == "widen.split"
            refused += 1
            continue
        assert set(found) == set(weights)
        if morphism.name in ROUNDED:
            assert all(relative_error(weights[name], found[name]) <= ULPS for name in weights)
        else:
            assert all(torch.equal(weights[name], found[name]) for name in weights)
        assert same_function((edit.genome, child), (genome, found), back, seed)
        undone += 1
    assert undone >= 4
    assert refused <= undone / 20


@way_back
def test_done_and_undone_is_nothing(morphism: Morphism) -> None:
    for _, genome, edit in planned(morphism, genomes=20):
        both = compose(edit, undo(genome, edit), parent=genome)
        assert both.genome == genome
        assert not both.tensors
        assert not both.zeros


@way_back
def test_what_is_undone_after_training_of_what_is_free_is_exact(morphism: Morphism) -> None:
    # noise on each tensor that the edit or its way back reads, and on all others at once: exact, or refused
    allowed = 0
    for seed, genome, edit in planned(morphism, genomes=8):
        back, weights = undo(genome, edit), realise(edit, messy(genome, seed))
        parts = [part for made in (*back.tensors.values(), *back.zeros) for part in within(made)]
        concerned = {part.name for part in parts if isinstance(part, Source)}.union(edit.tensors) & weights.keys()
        for names in (*([name] for name in sorted(concerned)), sorted(weights.keys() - concerned)):
            generator = torch.Generator().manual_seed(seed)
            noise = {n: torch.rand(weights[n].shape, generator=generator, dtype=torch.float64) for n in names}
            trained = {**weights, **{name: weights[name] + noise[name] for name in names}}
            try:
                found = realise(back, trained)
            except Inapplicable:
                continue
            allowed += len(names)
            assert same_function((edit.genome, trained), (genome, found), back, seed), f"{seed}: {edit.site}, {names}"
    assert allowed >= 20


@pytest.mark.parametrize("morphism", [m for m in INVERTIBLE if m.name not in UNCONDITIONAL], ids=lambda m: m.name)
def test_what_was_trained_is_not_undone(morphism: Morphism) -> None:
    refused = tried = 0
    for seed, genome, edit in planned(morphism, genomes=12):
        child = realise(edit, messy(genome, seed))
        trained = descended(edit.genome, child, seed, 2)
        tried += 1
        try:
            realise(undo(genome, edit), trained)
        except Inapplicable:
            refused += 1
    assert refused >= 0.8 * tried > 0  # dead channels are not trained


def descended(genome: Genome, weights: Weights, seed: int, steps: int) -> Weights:
    """Returns the weights after a few steps of gradient descent."""
    current = {name: tensor.clone() for name, tensor in weights.items()}
    names = [name for name in current if "running" not in name]
    for _ in range(steps):
        for name in names:
            current[name].requires_grad_(True)
        loss = torch.nn.functional.cross_entropy(run(genome, current, probes(seed), train=True), torch.arange(8) % 3)
        gradients = torch.autograd.grad(loss, [current[n] for n in names])
        current.update({n: (current[n] - 0.05 * g).detach() for n, g in zip(names, gradients, strict=True)})
    return current


@pytest.mark.parametrize("name", sorted(LOST))
def test_what_has_no_inverse_is_refused_with_the_reason(name: str) -> None:
    morphism = next(m for m in CATALOGUE if m.name == name)
    _, genome, edit = next(planned(morphism))
    with pytest.raises(Inapplicable, match=f"{name} has no inverse"):
        undo(genome, edit)


def test_an_edit_that_loses_slices_has_no_inverse() -> None:
    genome = small()
    weights = messy(genome, 0)
    edit = BY_NAME["narrow.zero_fanout"].plan(genome, {"module": "net", "node": "a", "channels": [1]}, random.Random(0))
    with pytest.raises(Inapplicable, match="it loses"):
        undo(genome, edit)
    assert weights


def checked(name: str, site: dict[str, Any], zeroed: dict[str, Any], seed: int = 0) -> Edit:
    """Plans an inverse on the small network; it must be refused as it is, and exact when `zeroed` is done."""
    genome, weights = small(), messy(small(), seed)
    edit = BY_NAME[name].plan(genome, {"module": "net", **site}, random.Random(0))
    check(edit.genome)
    with pytest.raises(Inapplicable, match="zero"):
        realise(edit, weights)
    for left in zeroed:  # each condition is needed, whatever the others say
        some = messy(small(), seed)
        for tensor, change in zeroed.items():
            if tensor != left:
                change(some[tensor])
        with pytest.raises(Inapplicable, match="zero"):
            realise(edit, some)
    for tensor, change in zeroed.items():
        change(weights[tensor])
    assert same_function((genome, weights), (edit.genome, realise(edit, weights)), edit, seed)
    assert Edit.from_json(edit.to_json()) == edit
    return edit


def test_a_kernel_loses_a_ring_of_zeros() -> None:
    def ring(weight: Tensor) -> None:
        centre = weight[..., 1, 1].clone()
        weight.zero_()
        weight[..., 1, 1] = centre

    edit = checked("kernel.crop", {"node": "b"}, {"b.weight": ring})
    assert edit.genome["net"].operations["b"] == Conv(4, 1)


def test_channels_that_nobody_reads_go() -> None:
    columns = {"b.weight": lambda w: w[:, ::2].zero_(), "h.weight": lambda w: w[:, ::2].zero_()}
    edit = checked("narrow.zero_fanout", {"node": "a", "channels": [0, 2]}, columns)
    assert edit.genome["net"].operations["a"] == Conv.same(2, 3, bias=True)


def test_twins_become_one_and_their_columns_are_summed() -> None:
    def same(tensor: Tensor) -> None:
        tensor[3] = tensor[1]

    names = [f"{n}.{p}" for n in "nm" for p in ("weight", "bias", "running_mean", "running_var")]
    equal = dict.fromkeys(["a.weight", "a.bias", "b.weight", *names], same)
    edit = checked("narrow.merge", {"node": "a", "channels": [1, 3]}, equal)
    assert edit.genome["net"].operations["a"] == Conv.same(3, 3, bias=True)


@pytest.mark.parametrize("tensor", ["m.weight", "m.bias"])
def test_a_branch_of_zeros_is_dropped_and_no_other(tensor: str) -> None:
    zero = dict.fromkeys(("m.weight", "m.bias"), Tensor.zero_)
    edit = checked("branch.drop_zero", {"node": "s", "branch": "m"}, zero)
    assert set(edit.genome["net"].operations) == {"x", "a", "n", "r", "g", "f", "h", "y"}
    weights = messy(small(), 0)
    weights[tensor].zero_()
    with pytest.raises(Inapplicable):
        realise(edit, weights)


def test_a_dropped_branch_is_what_a_residual_layer_or_a_skip_added() -> None:
    for name in ("deepen.residual", "skip.add"):
        morphism = next(m for m in CATALOGUE if m.name == name)
        for seed, genome, edit in planned(morphism, genomes=20):
            (module,) = (m for m, content in edit.genome.modules if content != genome[m])
            sites = [s for s in BY_NAME["branch.drop_zero"].sites(edit.genome) if s["module"] == module]
            new = [s for s in sites if s["node"] not in genome[module].operations]
            drops = [BY_NAME["branch.drop_zero"].plan(edit.genome, site, random.Random(0)) for site in new]
            assert genome in [drop.genome for drop in drops]
            weights = messy(genome, seed)
            drop = next(drop for drop in drops if drop.genome == genome)
            found = realise(drop, realise(edit, weights))
            assert all(torch.equal(found[n], weights[n]) for n in weights)


def test_a_cropped_kernel_is_what_grew() -> None:
    for seed, genome, edit in planned(next(m for m in CATALOGUE if m.name == "kernel.grow")):
        crop = BY_NAME["kernel.crop"].plan(edit.genome, edit.site, random.Random(0))
        assert crop.genome == genome
        weights = messy(genome, seed)
        found = realise(crop, realise(edit, weights))
        assert all(torch.equal(found[n], weights[n]) for n in weights)


def test_norms_are_folded_exactly_in_eval_mode() -> None:
    fold, folded = BY_NAME["bn.fold"], 0
    for seed in range(30):
        genome = first = drawn(seed)
        weights = started = messy(genome, seed)
        while sites := fold.sites(genome):
            edit = fold.plan(genome, sites[0], random.Random(0))
            assert edit.modes == {"eval"}
            genome, weights = edit.genome, realise(edit, weights)
            folded += 1
        check(genome)
        assert relative_error(run(first, started, probes(seed)), run(genome, weights, probes(seed))) <= 1e-12
        layers = {p.path for p in expand(genome).primitives.values() if isinstance(p.operation, (Conv, Linear))}
        norms = [p for p in expand(genome).primitives.values() if isinstance(p.operation, BatchNorm)]
        read = [source for p in expand(genome).primitives.values() for source in p.inputs]
        assert not any(norm.inputs[0] in layers and read.count(norm.inputs[0]) == 1 for norm in norms)
    assert folded >= 30


def test_inverses_at_random_sites_are_valid() -> None:
    planned_at: dict[str, int] = {}
    for seed in range(40):
        genome, rng = drawn(seed), random.Random(seed)
        for inverse in INVERSES:
            sites = list(inverse.sites(genome))
            for site in rng.sample(sites, min(2, len(sites))):
                try:
                    edit = inverse.plan(genome, site, rng)
                except Inapplicable:
                    assert inverse.name.startswith("narrow")  # groups, or twins that go apart
                    continue
                check(edit.genome)
                weights = {name: torch.zeros_like(tensor) for name, tensor in messy(genome, seed).items()}
                realise(edit, weights)
                planned_at[inverse.name] = planned_at.get(inverse.name, 0) + 1
    assert set(planned_at) == set(BY_NAME)


def test_twins_of_random_networks_merge_exactly() -> None:
    merge, merged = BY_NAME["narrow.merge"], 0
    for seed in range(60):
        genome, rng = drawn(seed), random.Random(seed)
        for site in merge.sites(genome)[:3]:
            try:
                edit = merge.plan(genome, site, rng)
            except Inapplicable:
                continue
            weights = messy(genome, seed)
            for condition in edit.zeros:  # make the rows equal
                one, other = condition.of, condition.less  # type: ignore[attr-defined]
                weights[one.of.name][list(one.index)] = weights[one.of.name][list(other.index)]
            child = realise(edit, weights)
            assert same_function((genome, weights), (edit.genome, child), edit, seed), f"{seed}: {edit.site}"
            merged += 1
    assert merged >= 40


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("kernel.crop", {"node": "h"}),
        ("narrow.zero_fanout", {"node": "h"}),
        ("narrow.zero_fanout", {"node": "a", "channels": [4]}),
        ("narrow.zero_fanout", {"node": "a", "channels": [0, 1, 2, 3]}),
        ("narrow.merge", {"node": "a", "channels": [1, 1]}),
        ("narrow.merge", {"node": "a", "channels": [0, 1, 2]}),
        ("branch.drop_zero", {"node": "s", "branch": "r"}),
        ("branch.drop_zero", {"node": "n", "branch": "a"}),
        ("bn.fold", {"node": "a"}),
    ],
)
def test_a_place_without_an_inverse_is_refused(name: str, site: dict[str, Any]) -> None:
    with pytest.raises(Inapplicable):
        BY_NAME[name].plan(small(), {"module": "net", **site}, random.Random(0))


def test_an_operand_of_a_mean_is_none_of_a_sum() -> None:
    genome = small()
    mean = genome.changed({"net": genome["net"].changed({"s": Mean()})})
    assert [site for site in BY_NAME["branch.drop_zero"].sites(genome) if site["node"] == "s"]
    assert not [site for site in BY_NAME["branch.drop_zero"].sites(mean) if site["node"] == "s"]
    with pytest.raises(Inapplicable):
        BY_NAME["branch.drop_zero"].plan(mean, {"module": "net", "node": "s", "branch": "m"}, random.Random(0))


def test_inverses_are_never_drawn_by_themselves() -> None:
    assert all(inverse.weight == 0 for inverse in INVERSES)
    assert {inverse.modes for inverse in INVERSES} == {EXACT, frozenset({"eval"})}
    assert not {inverse.name for inverse in INVERSES} & {morphism.name for morphism in CATALOGUE}
