"""Bugs that others have had, or that one might have, seeded on purpose: each turns the checks that it names red.

A check is `measured` (the errors of certificates), `proved` (the static proof), or a test of another module.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any

import pytest
from torch import Tensor, nn

from genomes import Genome, Module
from genomes.operations import Conv, Flatten, GlobalPool, Input, Linear, MaxPool, Output, ReLU
from morphism import CATALOGUE, EXACT, Edit, Inapplicable, Morphism
from morphism import tensors as exprs
from morphism.certificate import TOLERANCES, certify
from morphism.fresh import fresh
from morphism.proof import proves
from morphism.realise import realise
from morphism.tensors import Factored, Gather, Pad, Source, TensorExpr
from tests.morphism import test_contract
from tests.morphism.samples import SHAPE, drawn, messy
from tests.training import test_network


@dataclass(frozen=True)
class Bug:
    """What is wrong with a rule, the module and the name in it that are replaced, by what, and which checks find it."""

    rule: str
    what: str
    module: str
    name: str
    by: Callable[..., Any]  # of the true one
    red: tuple[str, ...] = ("measured", "proved")


BUGS = (
    # width
    Bug("widen.split", "statistics not widened", "rewire", "_vector", lambda true: statistics_anew(true)),
    Bug("widen.split", "share forgotten", "widen", "rewire", lambda true: lambda *a: true(*a[:3], "copy")),
    Bug("widen.split", "appended, not in place", "rewire", "_positions", lambda true: appended(true)),
    Bug("widen.split", "multiplier taken as depthwise", "rewire", "depthwise", lambda _: single_input,
        ("measured_with_a_multiplier",)),
    Bug("widen.split", "equal shares", "widen", "rewire", lambda true: lambda *a: true(*a[:3], "equal"),
        ("test_copies_part_ways",)),
    Bug("widen.replicate", "share forgotten", "widen", "rewire", lambda true: lambda *a: true(*a[:3], "copy")),
    Bug("widen.pair", "no minus", "rewire", "Gather", lambda _: new_columns("opposite", "random")),
    Bug("widen.zero_fanout", "random columns", "rewire", "Gather", lambda _: new_columns("zero", "random")),
    Bug("widen.zero_fanout", "zero rows", "rewire", "Gather", lambda _: new_columns("random", "zero"),
        ("test_new_channels_get_a_gradient_within_two_steps",)),
    # depth
    Bug("deepen.residual", "last weight 1", "deepen", "constant", lambda true: valued(true, 1.0)),
    Bug("deepen.identity", "identity off centre", "values", "VALUES", lambda true: {**true, exprs.Dirac: off_centre},
        ("measured",)),
    Bug("deepen.prelu", "torch's slope, 0.25", "deepen", "constant", lambda true: valued(true, 0.25)),
    Bug("deepen.blend", "blend starts at the other end", "deepen", "constant", lambda true: valued(true, 0.0)),
    Bug("deepen.norm", "ε forgotten", "values", "VALUES", lambda true: {**true, exprs.Measured: without_epsilon(true)},
        ("measured",)),
    Bug("deepen.norm", "variance for deviation", "normalise", "STATISTICS",
        lambda true: {**true, "weight": "variance"}),
    Bug("deepen.factorise", "factors swapped", "factorise", "Factored", lambda _: swapped),
    # kernel and space
    Bug("kernel.grow", "padding not enlarged", "kernel", "replace", lambda _: without_padding),
    Bug("kernel.grow", "ring on one side", "values", "VALUES", lambda true: {**true, exprs.Pad: one_sided},
        ("measured",)),
    Bug("kernel.undilate", "padded, not spread", "kernel", "Spread", lambda _: lambda of, step: Pad(of, step - 1)),
    Bug("conv.dense", "blocks off the diagonal", "values", "VALUES", lambda true: {**true, exprs.Dense: mirrored(true)},
        ("measured",)),
    Bug("pool.depthwise", "1 / k for 1 / k²", "spatial", "Constant", lambda true: lambda s, value: true(s, value**0.5)),
    Bug("stride.subsample", "pool as wide as its stride", "spatial", "MaxPool", lambda _: lambda _, s: MaxPool(s, s)),
    # connections
    Bug("skip.add", "convolution not zero", "skip", "constant", lambda _: lambda *_: {}),
    Bug("skip.concat", "columns not zero", "skip", "Gather", lambda true: lambda *a: true(*a, new="random")),
    Bug("skip.gate", "gate starts at 0", "skip", "constant", lambda true: valued(true, 0.0)),
    Bug("head.pyramid", "columns not zero", "pyramid", "Gather", lambda true: lambda *a: true(*a, new="random")),
    Bug("branch.replicate", "copies not divided", "branch", "Part", lambda _: lambda of, *_: of),
    Bug("branch.replicate", "copies share memory", "realise", "_made", lambda _: without_clone,
        ("test_parents_are_not_modified_and_untouched_tensors_are_the_same_objects",)),
    Bug("branch.split", "halves stacked the wrong way", "branch", "_halves", lambda true: exchanged(true)),
    # activation and attention
    Bug("act.blend", "blend starts at the other end", "activation", "constant", lambda true: valued(true, 0.0)),
    Bug("se.insert", "σ(0) = 1/2 not doubled", "attention", "constant", lambda true: never_two(true)),
    Bug("attention.insert", "outer map not zero", "attention", "constant", lambda _: lambda *_: {}),
    Bug("attention.head", "divides by √d' where it divided by √d", "attention", "replace", lambda _: without_dimension),
    # calls and memory
    Bug("inline", "weights drawn anew", "inline", "Edit",
        lambda true: lambda rule, site, child, *_: true(rule, site, child, fresh(child, 0), EXACT)),
    Bug("every edit", "shared tensors trained in place", "training.network", "_filled", lambda _: filled_in_place,
        ("test_training_a_child_never_changes_the_parents_tensors",)),
)  # fmt: skip
TABLE: Mapping[str, Morphism] = {morphism.name: morphism for morphism in CATALOGUE}
APPLICATIONS, MOST_GENOMES = 24, 600
FEW = 4  # edits show that a check is green without a bug; `test_contract` asks it of sixty


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> Any:
    forget()
    yield
    forget()


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.rule}: {bug.what}")
def test_a_seeded_bug_turns_its_checks_red(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in bug.red:
        passes(name, bug.rule)
    forget()
    module = importlib.import_module(bug.module if "." in bug.module else f"morphism.{bug.module}")
    monkeypatch.setattr(module, bug.name, bug.by(getattr(module, bug.name)))
    for name in bug.red:
        with pytest.raises((AssertionError, ValueError)):
            CHECKS[name](bug.rule)


def test_no_rule_is_without_a_bug() -> None:
    drawn_ones = {morphism.name for morphism in CATALOGUE if morphism.weight}
    assert drawn_ones <= {bug.rule for bug in BUGS}


def measured(rule: str, count: int = APPLICATIONS) -> None:
    """Checks what certificates measure, on random genomes with messy weights."""
    for seed, genome, edit in applications(rule, count):
        weights = messy(genome, seed)
        errors = certify(genome, edit, weights, realise(edit, weights), seed).errors
        assert all(errors[mode] <= TOLERANCES[mode] for mode in edit.modes), f"genome {seed}: {edit.site}: {errors}"


def measured_with_a_multiplier(rule: str, _: int = 0) -> None:
    """Checks what certificates measure beside a convolution that makes two channels of each one."""
    nodes = {"x": Input(0, SHAPE), "a": Conv(4, 1), "m": Conv.same(8, 3, groups=4), "r": ReLU(), "c": Conv(4, 1),
             "g": GlobalPool(), "f": Flatten(), "h": Linear(3), "y": Output()}  # fmt: skip
    genome = Genome.of({"net": Module.of(nodes, list(pairwise(nodes)))})
    weights = messy(genome, 0)
    for site in TABLE[rule].sites(genome):
        edit = TABLE[rule].plan(genome, site, random.Random(0))
        errors = certify(genome, edit, weights, realise(edit, weights), 0).errors
        assert all(errors[mode] <= TOLERANCES[mode] for mode in edit.modes), f"{edit.site}: {errors}"


def proved(rule: str, count: int = APPLICATIONS) -> None:
    """Checks that each claimed mode is proven."""
    for seed, genome, edit in applications(rule, count):
        assert all(proves(genome, edit, mode) for mode in edit.modes), f"genome {seed}: {edit.site}"


def applications(rule: str, count: int) -> list[tuple[int, Genome, Edit]]:
    """Returns edits at random sites of random genomes."""
    found: list[tuple[int, Genome, Edit]] = []
    for seed in range(MOST_GENOMES):
        genome, rng = drawn(seed), random.Random(seed)
        if sites := TABLE[rule].sites(genome):
            with suppress(Inapplicable):
                found.append((seed, genome, TABLE[rule].plan(genome, rng.choice(sites), rng)))
        if len(found) == count:
            return found
    raise AssertionError(f"{rule} must be planned {count} times in {MOST_GENOMES} genomes, got {len(found)}")


CHECKS: Mapping[str, Callable[..., None]] = {
    "measured": measured,
    "measured_with_a_multiplier": measured_with_a_multiplier,
    "proved": proved,
    "test_copies_part_ways": test_contract.test_copies_part_ways,
    "test_new_channels_get_a_gradient_within_two_steps": (
        test_contract.test_new_channels_get_a_gradient_within_two_steps
    ),
    "test_parents_are_not_modified_and_untouched_tensors_are_the_same_objects": lambda rule: (
        test_contract.test_parents_are_not_modified_and_untouched_tensors_are_the_same_objects(TABLE[rule])
    ),
    "test_training_a_child_never_changes_the_parents_tensors": lambda _: (
        test_network.test_training_a_child_never_changes_the_parents_tensors()
    ),
}


@cache
def passes(name: str, rule: str) -> None:
    """Checks, once, that a check is green without a bug; a test of another module shows that itself."""
    if not name.startswith("test_"):
        CHECKS[name](rule, FEW)


def forget() -> None:
    """Empties the caches that what is replaced has filled."""
    for module in ("genomes.expansion", "morphism.channels", "morphism.proof", "tests.morphism.test_contract"):
        for value in vars(importlib.import_module(module)).values():
            if isinstance(value, type(lru_cache(forget))):
                value.cache_clear()


def statistics_anew(true: Callable[..., TensorExpr]) -> Callable[..., TensorExpr]:
    def vector(name: str, kept: Any) -> TensorExpr:
        if "running" not in name:
            return true(name, kept)
        index = tuple(-1 if i in kept.sources[:k] else i for k, i in enumerate(kept.sources))
        return Gather(Source(name), 0, index, new="one" if name.endswith("var") else "zero")

    return vector


def appended(true: Callable[..., Any]) -> Callable[..., Any]:
    def positions(entries: Any, copies: Any) -> Any:
        if (found := true(entries, copies)) is None:
            return None
        order = sorted(range(len(found.index)), key=lambda k: found.index[k] in (-1, -2, *found.index[:k]))
        return replace(
            found, sources=tuple(found.sources[k] for k in order), index=tuple(found.index[k] for k in order)
        )

    return positions


def single_input(expansion: Any, module: str, node: str) -> bool:
    primitives = [expansion.primitives[path] for path in expansion.instances[module, node]]
    return all(getattr(p.operation, "groups", 1) == p.in_shapes[0][0] > 1 for p in primitives)


def new_columns(usual: str, wrong: Any) -> Callable[..., Gather]:
    def gather(of: TensorExpr, axis: int, index: tuple[int, ...], **fields: Any) -> Gather:
        made = Gather(of, axis, index, **fields)
        mixes = axis == 1 or made.new == "random"  # columns, or rows of a layer
        return replace(made, new=wrong) if mixes and made.new == usual else made

    return gather


def valued(true: Callable[..., Any], value: float) -> Callable[..., Any]:
    return lambda child, module, node, parameter, *_: true(child, module, node, parameter, value)


def never_two(true: Callable[..., Any]) -> Callable[..., Any]:
    return lambda child, module, node, parameter, value=0.0: true(child, module, node, parameter, min(value, 1.0))


def off_centre(e: exprs.Dirac, origin: Any) -> Tensor:
    made = origin.like.new_zeros(e.shape)
    (made[..., 0, 0] if len(e.shape) == 4 else made.roll(1, 0)).fill_diagonal_(1)
    return made


def without_epsilon(true: Mapping[Any, Callable[..., Tensor]]) -> Callable[..., Tensor]:
    def value(e: exprs.Measured, origin: Any) -> Tensor:
        if e.statistic != "deviation":
            return true[exprs.Measured](e, origin)
        return true[exprs.Measured](replace(e, statistic="variance"), origin).sqrt()

    return value


def swapped(of: TensorExpr, factor: str) -> Factored:
    return Factored(of, "second" if factor == "first" else "first")


def without_padding(operation: Any, *, padding: int = 0, **fields: int) -> Any:
    return replace(operation, **fields)


def without_dimension(operation: Any, **fields: int) -> Any:
    return replace(operation, **{name: value for name, value in fields.items() if name != "dimension"})


def one_sided(e: Pad, origin: Any) -> Tensor:
    values = importlib.import_module("morphism.values")
    return nn.functional.pad(values.value(e.of, origin), [0, 2 * e.margin, 0, 2 * e.margin])


def mirrored(true: Mapping[Any, Callable[..., Tensor]]) -> Callable[..., Tensor]:
    return lambda e, origin: true[exprs.Dense](e, origin).flip(1)


def exchanged(true: Callable[..., dict[str, TensorExpr]]) -> Callable[..., dict[str, TensorExpr]]:
    def halves(expansion: Any, module: str, node: str, twin: str, border: int) -> dict[str, TensorExpr]:
        made = true(expansion, module, node, twin, border)
        names = list(made)
        return {name: made[names[k ^ 1]] for k, name in enumerate(names)}

    return halves


def without_clone(edit: Edit, name: str, shape: Any, origin: Any) -> Tensor:
    values = importlib.import_module("morphism.values")
    made: Tensor = values.value(edit.tensors.get(name, Source(name)), origin)
    return made


def filled_in_place(module: nn.Module, path: str, weights: Mapping[str, Tensor]) -> nn.Module:
    for name, _ in list(module.named_parameters()):
        setattr(module, name, nn.Parameter(weights[f"{path}.{name}"]))
    for name, _ in list(module.named_buffers()):
        setattr(module, name, weights[f"{path}.{name}"])
    return module
