"""Expansion: one flat graph of primitives with paths and shapes."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genomes import Expansion, Genome, InvalidGenome, Module, check, cost, expand
from genomes.cost import BYTES_PER_NUMBER
from genomes.expansion import counted, derived
from genomes.operations import Add, BatchNorm, Call, Concat, Conv, Input, Operation, Output, ReLU
from tests.drawing import genomes
from tests.genomes.flat import afresh, changes

BLOCK = Module.of(
    {"x": Input(0), "skip": Input(1), "conv": Conv(2, 1, bias=True), "norm": BatchNorm(), "add": Add(), "y": Output()},
    [("x", "conv"), ("conv", "norm"), ("norm", "add"), ("skip", "add", 1), ("add", "y")],
)
PAIR = Module.of(
    {"x": Input(), "first": Call("block"), "second": Call("block"), "y": Output()},
    [("x", "first"), ("x", "first", 1), ("first", "second"), ("x", "second", 1), ("second", "y")],
)
NET = Module.of(
    {"image": Input(0, (2, 4, 4)), "a": Call("pair"), "b": Call("pair"), "join": Concat(), "y": Output()},
    [("image", "a"), ("a", "b"), ("a", "join"), ("b", "join", 1), ("join", "y")],
)
GENOME = Genome.of({"net": NET, "pair": PAIR, "block": BLOCK})


def test_every_call_has_paths_and_tensors_of_its_own() -> None:
    check(GENOME)
    expansion = expand(GENOME)
    assert expansion.instances["block", "conv"] == ("a/first/conv", "a/second/conv", "b/first/conv", "b/second/conv")
    assert expansion.instances["net", "join"] == ("join",)
    assert expansion.tensor_shapes()["b/second/conv.weight"] == (2, 2, 1, 1)
    assert len(expansion.tensor_shapes()) == 4 * 6
    assert expansion.output == "join"
    assert expansion.primitives["join"].shape == (4, 4, 4)


def test_values_of_calls_inputs_and_outputs_lead_to_primitives() -> None:
    expansion = expand(GENOME)
    assert expansion.values["a"] == expansion.values["a/second/y"] == "a/second/add"
    assert expansion.values["b/x"] == expansion.values["b/second/skip"] == "a/second/add"
    assert expansion.primitives["b/second/add"].inputs == ("b/second/norm", "a/second/add")
    assert expansion.shape("b/first/y") == (2, 4, 4)


def test_consumers_are_named_as_often_as_they_read() -> None:
    assert expand(GENOME).consumers["image"] == ("a/first/conv", "a/first/add", "a/second/add")
    twice = Module.of({"x": Input(0, (2,)), "c": Concat(), "y": Output()}, [("x", "c"), ("x", "c", 1), ("c", "y")])
    assert expand(Genome.of({"net": twice})).consumers["x"] == ("c", "c")


@settings(deadline=None, max_examples=60)
@given(genomes())
def test_expansions_are_whole(genome: Genome) -> None:
    expansion = expand(genome)
    seen: set[str] = set()
    for path, primitive in expansion.primitives.items():
        assert primitive.path == path
        assert set(primitive.inputs) <= seen
        assert primitive.in_shapes == tuple(expansion.primitives[source].shape for source in primitive.inputs)
        assert primitive.shape == primitive.operation.out_shape(primitive.in_shapes)
        assert genome[primitive.module].operations[primitive.id] == primitive.operation
        assert path in expansion.instances[primitive.module, primitive.id]
        seen.add(path)
    assert len(seen) == counted(genome)
    assert {path for path, readers in expansion.consumers.items() if not readers} <= {expansion.output}


def test_a_genome_of_too_many_primitives_is_not_expanded() -> None:
    names = [f"c{number}" for number in range(200)]
    row = ["x", *names, "y"]

    def calls(module: str, start: Input) -> Module:
        nodes = {"x": start, **{name: Call(module) for name in names}, "y": Output()}
        return Module.of(nodes, list(zip(row, row[1:], strict=False)))  # noqa: RUF007

    relu = Module.of({"x": Input(), "relu": ReLU(), "y": Output()}, [("x", "relu"), ("relu", "y")])
    genome = Genome.of({"net": calls("many", Input(0, (1, 2, 2))), "many": calls("relu", Input()), "relu": relu})
    with pytest.raises(InvalidGenome, match="at most 2000 primitives, got 40,001"):
        expand(genome)


def outcome(expanded: Callable[[], Expansion]) -> object:
    """Returns all that an expansion is, in its order, or why there is none."""
    try:
        found = expanded()
    except InvalidGenome as error:
        return str(error)
    tables = (found.primitives, found.values, found.instances, found.calls)
    return found.output, [list(table.items()) for table in tables]


@settings(deadline=None, max_examples=60)
@given(genomes(), st.randoms(use_true_random=False))
def test_an_expansion_made_from_the_parents_is_the_one_made_from_nothing(genome: Genome, rng: random.Random) -> None:
    for child in changes(genome, rng):
        made = outcome(partial(derived, child, genome))
        assert made == outcome(partial(expand.__wrapped__, afresh(child)))
        assert made == outcome(partial(expand.__wrapped__, child))


def test_what_a_child_shares_with_its_parent_is_the_same_object() -> None:
    expand.cache_clear()  # primitives are remembered less long than an expansion may be
    child = GENOME.changed({"block": BLOCK.changed({"conv": Conv(2, 1, bias=False)})})
    before, after = expand(GENOME).primitives, expand(child).primitives
    other = {path for path in after if after[path] is not before[path]}
    assert other == set(expand(child).instances["block", "conv"])
    assert before["a/first/conv"].tensor_shapes() != after["a/first/conv"].tensor_shapes()


def test_an_extent_that_only_equals_an_integer_is_refused() -> None:
    nodes: dict[str, Operation] = {"image": Input(0, (True, 4, 4)), "norm": BatchNorm(), "y": Output()}
    with pytest.raises(InvalidGenome, match=r"extents must be integers, got \[True, 4, 4\]"):
        expand(Genome.of({"net": Module.of(nodes, [("image", "norm"), ("norm", "y")])}))


@settings(deadline=None, max_examples=60)
@given(genomes())
def test_the_canonical_graph_has_all_parameters_and_multiplications(genome: Genome) -> None:
    counts = [primitive.counts for primitive in expand(genome).primitives.values()]
    parameters, macs, numbers = map(sum, zip(*counts, strict=True))
    assert (parameters, macs) == (cost(genome).parameters, cost(genome).macs)
    assert BYTES_PER_NUMBER * numbers >= cost(genome).activation_bytes
