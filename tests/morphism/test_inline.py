from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch

from genomes import Genome, Module, check, expand, fingerprint
from genomes.operations import Call, Conv, Flatten, GlobalPool, Input, Linear, Output, ReLU
from morphism import CATALOGUE, Inapplicable, inline
from morphism.interpreter import run
from morphism.realise import realise
from tests.morphism.samples import drawn, messy, probes

CELL = Module.of(
    {"i": Input(0), "c": Conv.same(2, 3), "r": ReLU(), "o": Output()}, [("i", "c"), ("c", "r"), ("r", "o")]
)


def twice() -> Genome:
    nodes = {
        "x": Input(0, (2, 12, 12)),
        "one": Call("cell"),
        "two": Call("cell"),
        "p": GlobalPool(),
        "f": Flatten(),
        "h": Linear(3),
        "y": Output(),
    }
    chain = list(nodes)
    edges = list(pairwise(chain))
    return Genome.of({"net": Module.of(nodes, edges), "cell": CELL})


def test_inlining_changes_no_tensor_and_no_fingerprint() -> None:
    genome = twice()
    edit = inline(genome, "net", "two")
    check(edit.genome)
    assert edit.tensors == {}
    assert expand(edit.genome).tensor_shapes() == expand(genome).tensor_shapes()
    assert fingerprint(edit.genome) == fingerprint(genome)
    weights = messy(genome, 0)
    assert torch.equal(run(edit.genome, realise(edit, weights), probes(0)), run(genome, weights, probes(0)))


def test_afterwards_an_edit_acts_on_one_call_only() -> None:
    child = inline(twice(), "net", "two").genome
    copy = child["net"].operations["two"]
    assert isinstance(copy, Call)
    (grow,) = (morphism for morphism in CATALOGUE if morphism.name == "kernel.grow")
    edit = grow.plan(child, {"module": copy.module, "node": "c"}, random.Random(0))
    assert set(edit.tensors) == {"two/c.weight"}
    both = grow.plan(twice(), {"module": "cell", "node": "c"}, random.Random(0))
    assert set(both.tensors) == {"one/c.weight", "two/c.weight"}


def test_the_last_call_of_a_module_and_what_is_no_call_are_refused() -> None:
    child = inline(twice(), "net", "two").genome
    for module, node in (("net", "one"), ("net", "h"), ("net", "nowhere"), ("nowhere", "one")):
        with pytest.raises(Inapplicable):
            inline(child, module, node)


def test_sites_are_the_calls_of_shared_modules() -> None:
    (morphism,) = (morphism for morphism in CATALOGUE if morphism.name == "inline")
    assert list(morphism.sites(twice())) == [{"module": "net", "node": "one"}, {"module": "net", "node": "two"}]
    assert sum(len(morphism.sites(drawn(seed))) for seed in range(40)) > 20
