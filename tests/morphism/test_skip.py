"""What is particular to skips; what they share with all morphisms is in test_contract."""

from __future__ import annotations

import random

import pytest
import torch

from genomes import Genome, expand
from genomes.operations import Add, BatchNorm, Conv, Flatten, Gate, GlobalPool, Input, Linear, MaxPool, ReLU, SiLU
from morphism import Edit, Inapplicable
from morphism.interpreter import run
from morphism.realise import realise
from morphism.skip import SkipAdd, SkipConcat, SkipGate
from tests.morphism.samples import SHAPE, messy, probes, uneven_calls
from tests.morphism.test_channels import chain, net

DEEP = chain(
    a=Conv(4, 1), r=ReLU(), c=Conv.same(4, 3), b=BatchNorm(), s=SiLU(), p=MaxPool(), t=ReLU(), g=GlobalPool(),
    f=Flatten(), h=Linear(3),
)  # fmt: skip
DEEP = DEEP.changed({"net": DEEP["net"].changed({"x": Input(0, SHAPE)})})


def gated(source: str = "r", node: str = "s", genome: Genome = DEEP) -> Edit:
    return SkipGate().plan(genome, {"module": "net", "source": source, "node": node}, random.Random(0))


def test_a_gate_stands_between_a_value_and_all_that_read_it_and_is_open_for_it() -> None:
    edit = gated()
    (gate,) = (node for node, op in edit.genome["net"].nodes if isinstance(op, Gate))
    assert edit.genome["net"].sources[gate] == ("s", "r")
    assert edit.genome["net"].sources["p"] == (gate,)
    weights = messy(DEEP, 0)
    child = realise(edit, weights)
    assert child[f"{gate}.weight"].tolist() == [1.0]
    for train in (False, True):
        assert torch.equal(run(DEEP, weights, probes(0), train), run(edit.genome, child, probes(0), train))
    closed = {**child, f"{gate}.weight": torch.zeros(1, dtype=torch.float64)}
    assert not torch.equal(run(edit.genome, closed, probes(0)), run(DEEP, weights, probes(0)))


def test_a_gate_learns_at_once() -> None:
    edit = gated()
    child = realise(edit, messy(DEEP, 0))
    (name,) = set(edit.tensors)
    child[name].requires_grad_(True)
    run(edit.genome, child, probes(0), train=True).square().sum().backward()
    assert child[name].grad is not None
    assert child[name].grad.abs() > 0


def test_gates_join_only_earlier_values_of_one_shape() -> None:
    pairs = {(site["source"], site["node"]) for site in SkipGate().sites(DEEP)}
    assert pairs == {("r", "b"), ("r", "s"), ("p", "t")}
    for source, node in (("s", "r"), ("r", "r"), ("x", "s"), ("r", "t")):
        with pytest.raises(Inapplicable, match="shape"):
            gated(source, node)
    for site in SkipGate().sites(uneven_calls()):
        SkipGate().plan(uneven_calls(), site, random.Random(0))


def test_a_sum_with_an_earlier_value_reads_a_mean_where_that_is_larger_and_starts_at_nothing() -> None:
    edit = SkipAdd().plan(DEEP, {"module": "net", "source": "r", "node": "t"}, random.Random(0))
    weights = messy(DEEP, 0)
    child = realise(edit, weights)
    (new,) = (name for name in edit.tensors if name.endswith("weight"))
    for train in (False, True):
        assert torch.equal(run(DEEP, weights, probes(0), train), run(edit.genome, child, probes(0), train))
    child[new].requires_grad_(True)
    run(edit.genome, child, probes(0), train=True).square().sum().backward()
    assert child[new].grad is not None
    assert (child[new].grad.abs().sum((1, 2, 3)) > 0).any()


def test_no_norm_stands_between_a_zero_convolution_and_its_sum() -> None:
    for site in SkipAdd().sites(DEEP):
        edit = SkipAdd().plan(DEEP, site, random.Random(0))
        for name in edit.tensors:
            path = name.rpartition(".")[0]
            readers = expand(edit.genome).consumers[path]
            assert [type(expand(edit.genome).primitives[reader].operation) for reader in readers] == [Add]


def test_columns_of_a_concatenated_value_are_zero_and_learn_at_once() -> None:
    edit = SkipConcat().plan(DEEP, {"module": "net", "source": "x", "node": "c"}, random.Random(0))
    weights = messy(DEEP, 0)
    child = realise(edit, weights)
    assert torch.equal(child["c.weight"][:, :4], weights["c.weight"])
    assert not child["c.weight"][:, 4:].any()
    child["c.weight"].requires_grad_(True)
    run(edit.genome, child, probes(0), train=True).square().sum().backward()
    assert child["c.weight"].grad is not None
    assert child["c.weight"].grad[:, 4:].abs().sum() > 0


def test_a_skip_past_a_gate_is_found_too() -> None:
    genome = gated().genome
    (gate,) = (node for node, op in genome["net"].nodes if isinstance(op, Gate))
    for rule in (SkipAdd(), SkipGate()):
        assert {site["source"] for site in rule.sites(genome)} | {site["node"] for site in rule.sites(genome)} >= {gate}


def test_a_value_that_two_read_is_gated_for_both() -> None:
    genome = net(
        {"a": Conv(4, 1), "r": ReLU(), "c": Conv(4, 1), "s": ReLU(), "d": Conv(4, 1), "t": Add()},
        [("x", "a"), ("a", "r"), ("r", "c"), ("c", "s"), ("s", "d"), ("d", "t", 0), ("s", "t", 1), ("t", "y")],
    )
    edit = gated("r", "s", genome)
    (gate,) = (node for node, op in edit.genome["net"].nodes if isinstance(op, Gate))
    assert edit.genome["net"].sources["d"] == (gate,)
    assert edit.genome["net"].sources["t"] == ("d", gate)
