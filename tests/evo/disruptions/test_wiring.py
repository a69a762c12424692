"""What taking out and rewiring do."""

from __future__ import annotations

import random

import pytest

from genomes import Module, check, expand
from genomes.operations import Add, Call, Conv, Flatten, Gate, GlobalPool, Input, Linear, Mul, Output, ReLU, Sigmoid
from morphism import Inapplicable
from morphism.realise import realise
from tests.evo.disruptions.samples import example, named
from tests.morphism.samples import messy
from tests.morphism.test_channels import net


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


def test_a_dropped_branch_goes_with_all_that_nothing_else_reads() -> None:
    genome, site = example(), {"module": "block", "node": "sum", "port": 0}
    edit = named("branch.drop").plan(genome, site, random.Random(0))
    check(edit.genome)
    assert set(expand(genome).primitives) - set(expand(edit.genome).primitives) == {
        f"{call}/{node}" for call in ("one", "two") for node in ("conv", "norm", "act", "mix", "sum")
    }
    assert set(edit.genome["block"].operations) == {"x", "out"}


def test_dropping_the_shortcut_leaves_the_branch() -> None:
    edit = named("branch.drop").plan(example(), {"module": "block", "node": "sum", "port": 1}, random.Random(0))
    assert edit.genome["block"].sources["out"] == ("mix",)
    weights = messy(example(), 0)
    assert all(realise(edit, weights)[name] is weights[name] for name in expand(edit.genome).tensor_shapes())


def test_of_three_addends_two_stay_in_order() -> None:
    genome = net(
        {"a": Conv(2, 1), "b": Conv(2, 1), "c": Conv(2, 1), "s": Add()},
        [("x", "a"), ("x", "b"), ("x", "c"), ("a", "s", 0), ("b", "s", 1), ("c", "s", 2), ("s", "y")],
    )
    edit = named("branch.drop").plan(genome, {"module": "net", "node": "s", "port": 1}, random.Random(0))
    check(edit.genome)
    assert edit.genome["net"].sources["s"] == ("a", "c")
    assert "b" not in edit.genome["net"].operations


def test_a_gate_and_an_excitation_can_be_dropped_but_not_what_they_scale() -> None:
    genome = net(
        {"a": Conv(2, 1), "p": GlobalPool(), "e": Conv(2, 1), "g": Sigmoid(), "m": Mul(), "t": Gate(), "f": Flatten(),
         "h": Linear(2)},
        [("x", "a"), ("a", "p"), ("p", "e"), ("e", "g"), ("a", "m", 0), ("g", "m", 1), ("m", "t", 0), ("a", "t", 1),
         ("t", "f"), ("f", "h"), ("h", "y")],
    )  # fmt: skip
    sites = [(site["node"], site["port"]) for site in named("branch.drop").sites(genome)]
    assert sites == [("m", 1), ("t", 0), ("t", 1)]
    edit = named("branch.drop").plan(genome, {"module": "net", "node": "m", "port": 1}, random.Random(0))
    assert set(edit.genome["net"].operations) == {"x", "a", "t", "f", "h", "y"}
    assert edit.genome["net"].sources["t"] == ("a", "a")


def test_a_module_that_nothing_calls_any_more_goes_too_and_inputs_stay() -> None:
    inner = Module.of({"i": Input(0), "r": ReLU(), "o": Output()}, [("i", "r"), ("r", "o")])
    cell = Module.of(
        {"i": Input(0), "k": Input(1), "c": Call("inner"), "s": Add(), "o": Output()},
        [("i", "c"), ("c", "s", 0), ("k", "s", 1), ("s", "o")],
    )
    genome = net(
        {"a": Call("cell"), "b": Call("inner2"), "t": Add()},
        [("x", "a", 0), ("x", "a", 1), ("x", "b"), ("a", "t", 0), ("b", "t", 1), ("t", "y")],
        cell=cell, inner=inner, inner2=inner,
    )  # fmt: skip
    check(genome)
    assert {(site["module"], site["node"], site["port"]) for site in named("branch.drop").sites(genome)} == {
        ("net", "t", 0),
        ("net", "t", 1),
    }
    edit = named("branch.drop").plan(genome, {"module": "net", "node": "t", "port": 0}, random.Random(0))
    check(edit.genome)
    assert [name for name, _ in edit.genome.modules] == ["inner2", "net"]
    with pytest.raises(Inapplicable, match="spared"):
        named("branch.drop").plan(genome, {"module": "cell", "node": "s", "port": 1}, random.Random(0))
