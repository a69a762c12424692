"""What is particular to single morphisms; what they share is in test_contract."""

from __future__ import annotations

import random
from collections import Counter

import pytest

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
from tests.morphism.samples import drawn
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


def test_a_child_that_no_file_can_hold_is_refused() -> None:
    genome = chain(**{f"r{number}": ReLU() for number in range(252)})  # with input and output 254 nodes
    full = plan("deepen.identity", genome, node="r0").genome
    assert len(full["net"].nodes) == 256
    with pytest.raises(Inapplicable, match="at most 256 nodes"):
        plan("deepen.identity", full, node="r1")
