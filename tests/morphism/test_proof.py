"""The static proof refuses what is wrong, whatever probes say; test_contract shows that it accepts the catalogue."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import pytest

from genomes import Genome
from genomes.operations import BatchNorm, Conv, Flatten, GlobalPool, Linear, ReLU
from morphism import CATALOGUE, Edit
from morphism.proof import doubt, proves
from morphism.tensors import Constant, Gather, Pad, Source, TensorExpr
from tests.morphism.test_channels import chain

GENOME = chain(
    a=Conv.same(4, 3), n=BatchNorm(), r=ReLU(), b=Conv.same(4, 3), s=ReLU(), g=GlobalPool(), f=Flatten(), h=Linear(3)
)


def planned(name: str, genome: Genome = GENOME, **site: str) -> Edit:
    (morphism,) = (morphism for morphism in CATALOGUE if morphism.name == name)
    return morphism.plan(genome, {"module": "net", **site}, random.Random(0))


def wrong(edit: Edit, tensors: Mapping[str, TensorExpr]) -> Edit:
    return replace(edit, tensors={**edit.tensors, **tensors})


def columns(edit: Edit) -> Gather:
    found = edit.tensors["b.weight"]
    assert isinstance(found, Gather)
    return found


@pytest.mark.parametrize("name", ["widen.split", "widen.zero_fanout", "widen.pair", "widen.replicate"])
def test_widening_is_proven(name: str) -> None:
    edit = planned(name, node="a")
    assert proves(GENOME, edit, "eval")
    assert proves(GENOME, edit, "train")
    assert doubt(GENOME, edit, "eval") == ""


def test_a_forgotten_share_is_refused() -> None:
    edit = planned("widen.split", node="a")
    assert not proves(GENOME, wrong(edit, {"b.weight": replace(columns(edit), share="copy")}), "eval")


def test_columns_in_another_place_are_refused() -> None:
    edit = planned("widen.split", node="a")
    index = columns(edit).index
    moved = replace(columns(edit), index=(*index[1:], index[0]))
    assert not proves(GENOME, wrong(edit, {"b.weight": moved}), "eval")


def test_new_columns_that_are_not_zero_are_refused() -> None:
    edit = planned("widen.zero_fanout", node="a")
    assert not proves(GENOME, wrong(edit, {"b.weight": replace(columns(edit), new="random")}), "eval")


def test_statistics_of_another_channel_are_refused_in_eval_mode() -> None:
    edit = planned("widen.split", node="a")
    rows = edit.tensors["n.running_mean"]
    assert isinstance(rows, Gather)
    other = replace(rows, index=tuple((k + 1) % 4 for k in rows.index))
    assert not proves(GENOME, wrong(edit, {"n.running_mean": other}), "eval")


def test_a_branch_that_does_not_end_in_zero_is_refused() -> None:
    edit = planned("deepen.residual", node="r")
    (gamma,) = (n for n, e in edit.tensors.items() if isinstance(e, Constant) and not e.value and n.endswith("weight"))
    shape = edit.tensors[gamma].shape  # type: ignore[attr-defined]
    assert proves(GENOME, edit, "train")
    assert not proves(GENOME, wrong(edit, {gamma: Constant(shape, 1.0)}), "train")


def test_a_kernel_that_grows_without_its_padding_is_refused() -> None:
    edit = planned("kernel.grow", node="b")
    assert edit.tensors["b.weight"] == Pad(Source("b.weight"), 1)
    assert proves(GENOME, edit, "eval")
    shifted = GENOME.changed({"net": GENOME["net"].changed({"b": Conv(4, 5, padding=1)})})
    assert not proves(GENOME, replace(edit, genome=shifted), "eval")
