"""Genomes are values: JSON both ways, equality by bytes, edits that make new values."""

from __future__ import annotations

import itertools
import json
import random
from contextlib import suppress
from dataclasses import asdict

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genomes import Genome, InvalidGenome, Module, check, load_genome
from genomes.operations import Add, Call, Conv, Dropout, Input, Linear, Output, ReLU
from tests.drawing import genomes
from tests.genomes.flat import afresh, chain, changes

SETTINGS = settings(deadline=None, max_examples=60)


@SETTINGS
@given(genomes())
def test_json_round_trips_byte_for_byte(genome: Genome) -> None:
    data = genome.to_json()
    again = load_genome(data)
    assert again.to_json() == data
    assert again == genome
    assert hash(again) == hash(genome)
    assert again.modules == genome.modules


@SETTINGS
@given(genomes())
def test_json_is_canonical(genome: Genome) -> None:
    data = genome.to_json().decode()
    assert data == json.dumps(json.loads(data), sort_keys=True, separators=(",", ":"))
    table = {name: dict(module.nodes) for name, module in genome.modules}
    for name, module in json.loads(data)["modules"].items():
        for entry in module["nodes"]:
            operation = table[name][entry.pop("id")]
            assert entry.pop("op") == operation.kind
            assert entry == json.loads(json.dumps(asdict(operation)))


def test_a_name_with_a_quote_is_escaped() -> None:
    assert json.loads(Genome.of({'a"b': Module.of({'"id":""': Call('"id":""')}, [])}, 'a"b').to_json()) == {
        "schema": 1,
        "root": 'a"b',
        "modules": {'a"b': {"nodes": [{"id": '"id":""', "op": "call", "module": '"id":""'}], "edges": []}},
    }


@SETTINGS
@given(genomes())
def test_the_order_is_that_of_the_graph_with_ties_by_id(genome: Genome) -> None:
    for _, module in genome.modules:
        assert module.order == tuple(nx.lexicographical_topological_sort(module.graph))


@SETTINGS
@given(genomes())
def test_json_in_any_order_makes_the_same_genome(genome: Genome) -> None:
    rng, document = random.Random(genome.digest), json.loads(genome.to_json())
    for module in document["modules"].values():
        rng.shuffle(module["nodes"])
        rng.shuffle(module["edges"])
    names = list(document["modules"])
    document["modules"] = {name: document["modules"][name] for name in rng.sample(names, len(names))}
    assert load_genome(json.dumps(document, indent=1).encode()) == genome


def test_fields_left_out_take_their_defaults() -> None:
    document = json.loads(chain(Conv(4, 3)).to_json())
    for node in document["modules"]["net"]["nodes"]:
        if node["op"] == "conv":
            node.pop("stride")
            node.pop("bias")
    assert load_genome(json.dumps(document).encode()) == chain(Conv(4, 3))


def test_minus_zero_is_zero() -> None:
    assert chain(Dropout(0.0)).to_json().replace(b"0.0", b"-0.0") != chain(Dropout(0.0)).to_json()
    assert Genome.from_json(chain(Dropout(0.0)).to_json().replace(b"0.0", b"-0.0")) == chain(Dropout(0.0))


def test_a_field_of_another_type_than_declared_is_refused_since_its_json_differs() -> None:
    with pytest.raises(InvalidGenome, match="numbers must be of their field's type"):
        check(chain(Dropout(0)))


def test_a_genome_differs_from_everything_else() -> None:
    assert chain(ReLU()) != chain(ReLU(), ReLU())
    assert chain(ReLU()) != "net"


def test_changes_make_new_values_and_leave_the_old_one_alone() -> None:
    genome = chain(Conv(2, 1), ReLU())
    before = genome.to_json()
    net = genome["net"]
    wider = net.changed({"n0": Conv(3, 1), "skip": Add()}, [("n1", "skip"), ("n0", "skip", 1)], [("n1", "y", 0)])
    child = genome.changed({"net": wider.changed(add=[("skip", "y")])})
    check(child)
    assert genome.to_json() == before
    assert child["net"].sources["skip"] == ("n1", "n0")
    assert child.changed({"net": net}) == genome
    assert "other" in genome.changed({"other": net})
    assert "other" not in genome.changed({"other": net}).changed({"other": None})


@SETTINGS
@given(genomes(), st.randoms(use_true_random=False))
def test_a_changed_module_knows_what_a_fresh_one_finds_out(genome: Genome, rng: random.Random) -> None:
    assert all(module.order and module.text for _, module in genome.modules)
    for child in changes(genome, rng):
        for name, fresh in afresh(child).modules:
            assert child[name].sources == fresh.sources
            assert child[name].text == fresh.text
            with suppress(InvalidGenome):  # a cycle, of which both know
                assert child[name].order == fresh.order


@pytest.mark.parametrize("values", [*itertools.permutations((0, 0.0, -0.0, False), 2)])
def test_equal_numbers_of_other_types_are_other_text(values: tuple[float, float]) -> None:
    one, other = (Dropout(value).text for value in values)
    assert one != other


def test_a_module_knows_its_order_inputs_and_sources() -> None:
    module = Module.of(
        {"b": Input(0), "a": Input(1), "sum": Add(), "y": Output()}, [("a", "sum", 1), ("b", "sum", 0), ("sum", "y")]
    )
    assert module.inputs == ("b", "a")
    assert module.output == "y"
    assert module.order == ("a", "b", "sum", "y")
    assert module.sources["sum"] == ("b", "a")


def test_a_module_names_its_cycle_and_its_missing_output() -> None:
    with pytest.raises(InvalidGenome, match="no cycle"):
        _ = Module.of({"a": ReLU(), "b": ReLU()}, [("a", "b"), ("b", "a")]).order
    with pytest.raises(InvalidGenome, match="one output, got 0"):
        _ = Module.of({"a": Linear(2)}, []).output
