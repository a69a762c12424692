"""One look finds every reason why a genome is not valid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import given, settings

from genomes import Edge, Genome, InvalidGenome, Limits, Module, allowed, check, cost, load_genome, rules
from genomes.operations import Add, Call, Conv, Dropout, Input, Linear, Operation, Output, ReLU
from tests.drawing import genomes
from tests.genomes.flat import chain


def reasons(genome: Genome, limits: Limits | None = None) -> str:
    """Returns why a genome is refused."""
    with pytest.raises(InvalidGenome) as caught:
        check(genome, limits)
    assert list(caught.value.reasons) == str(caught.value).split("; ")
    return str(caught.value)


def calling(inner: Module, *more: tuple[str, Module]) -> Genome:
    """Returns a genome that calls a module."""
    net = Module.of({"x": Input(0, (2, 4, 4)), "c": Call("inner"), "y": Output()}, [("x", "c"), ("c", "y")])
    return Genome.of({"net": net, "inner": inner, **dict(more)})


def test_several_faults_are_all_named() -> None:
    nodes: dict[str, Operation] = {"x": Input(0, (2, 4, 4)), "dead": ReLU(), "sum": Add(), "y": Output()}
    broken = Module.of(nodes, [("x", "sum", 0), ("x", "sum", 2), ("sum", "y"), ("x", "dead")])
    lonely = Module.of({"x": Input(), "y": Output()}, [("x", "y")])
    found = reasons(Genome.of({"net": broken, "lonely": lonely}))
    assert "module lonely is never called" in found
    assert "module net: node sum must have one edge into each port 0, 1, …, got [0, 2]" in found
    assert "module net: node dead must lie on a way from an input to the output" in found


def test_several_shapes_that_do_not_fit_are_all_named_once() -> None:
    nodes: dict[str, Operation] = {"x": Input(), "a": Linear(3), "b": Conv(3, 9), "sum": Add(), "y": Output()}
    inner = Module.of(nodes, [("x", "a"), ("x", "b"), ("a", "sum", 0), ("b", "sum", 1), ("sum", "y")])
    net = Module.of(
        {"x": Input(0, (2, 4, 4)), "c": Call("inner"), "d": Call("inner"), "sum": Add(), "y": Output()},
        [("x", "c"), ("x", "d"), ("c", "sum", 0), ("d", "sum", 1), ("sum", "y")],
    )
    found = reasons(Genome.of({"net": net, "inner": inner}))
    assert found.count("module inner: node a: linear needs an input [F]") == 1
    assert found.count("module inner: node b: a window of 9 does not fit an extent of 4") == 1


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        (Module.of({"x": Input(0, (2, 4, 4)), "y": Output()}, [("x", "y")]), "only the root's input has a shape"),
        (Module.of({"x": Input(1), "y": Output()}, [("x", "y")]), r"must have the ports 0, 1"),
        (Module.of({"y": Output()}, []), "its inputs must have the ports"),
        (Module.of({"x": Input(), "z": Input(1), "y": Output()}, [("x", "y")]), "node z must lie on a way"),
        (Module.of({"x": Input(), "z": Input(1), "s": Add(), "y": Output()}, [("x", "s"), ("z", "s", 1), ("s", "y")]),
         "module inner has 2 inputs, call c gives 1"),
        (Module.of({"x": Input(), "c": Call("inner"), "y": Output()}, [("x", "c"), ("c", "y")]), "must not call them"),
        (Module.of({"x": Input(), "c": Call("net"), "y": Output()}, [("x", "c"), ("c", "y")]), "net -> inner -> net"),
        (Module.of({"x": Input(), "c": Call("ghost"), "y": Output()}, [("x", "c"), ("c", "y")]), "ghost is called"),
        (Module.of({"x": Input(), "s": Add(), "y": Output()}, [("x", "s"), ("s", "y")]), "needs two inputs or more"),
        (Module.of({"x": Input(), "r": ReLU(), "y": Output()}, [("x", "r"), ("r", "x"), ("r", "y")]), "no edge into"),
    ],
)  # fmt: skip
def test_each_broken_module_is_refused(inner: Module, words: str) -> None:
    with pytest.raises(InvalidGenome, match=words):
        check(calling(inner))


def test_a_root_with_two_inputs_is_refused() -> None:
    nodes: dict[str, Operation] = {"x": Input(0, (3,)), "z": Input(1, (3,)), "s": Add(), "y": Output()}
    assert "the root must have one input" in reasons(
        Genome.of({"net": Module.of(nodes, [("x", "s"), ("z", "s", 1), ("s", "y")])})
    )


def test_genomes_made_in_code_are_held_to_the_loaders_limits() -> None:
    assert "out_channels must be an integer in [1, 4096], got 5000" in reasons(chain(Conv(5000, 1)))
    assert "must be" in reasons(chain(Conv(4, 1), shape=(2, 4, 0)))
    many = chain(*[ReLU()] * 300)
    assert "array of at most 256 entries" in reasons(many)


def strange() -> Iterator[Genome]:
    """Yields genomes made in code that their JSON would not bring back, each for one reason."""
    one = chain(Conv(4, 1), Dropout(0.5))
    (name, net), nodes, edges = one.modules[0], one["net"].nodes, one["net"].edges
    operations: list[Operation] = [
        Conv(5000, 1), Conv(4, True), Conv(4, 1, bias=0), Conv(4, 1.0), Conv("4", 1),  # type: ignore[arg-type]
        Dropout(0), Dropout(-0.0), Dropout(math.nan), Dropout(True), Call(""), Call("a__b"), Input(0, (True, 4, 4)),
        Alien(),
    ]  # fmt: skip
    for operation in operations:
        yield one.changed({name: net.changed({"n0": operation})})
    for node in ("A", "a__b", "", "a" * 49, 'a"', 1):
        yield Genome.of({"net": Module((*nodes, (node, Conv(4, 1))), edges)})  # type: ignore[arg-type]
    yield Genome.of({"net": Module(nodes[::-1], edges)})
    yield Genome.of({"net": Module((nodes[0], *nodes), edges)})
    yield Genome.of({"net": Module(nodes, edges[::-1])})
    for edge in (Edge("n0", "ghost"), Edge("ghost", "n0"), Edge("x", "n1", True), Edge("x", "n1", -1)):
        yield Genome.of({"net": Module(nodes, tuple(sorted([*edges, edge])))})
    yield Genome.of({"net": net}, "Net")
    yield Genome.of({"net": net, "b__c": net})
    yield Genome.of({})
    yield chain(*[ReLU()] * 300)
    yield Genome.of({f"m{number}": net for number in range(257)}, "m0")


@dataclass(frozen=True)
class Alien(Operation):
    """An operation that the loader does not know."""

    kind: ClassVar[str] = "alien"


@pytest.mark.parametrize("genome", [*strange()])
def test_what_the_quick_look_is_content_with_is_read_back(genome: Genome) -> None:
    """The quick look spares a reading, so it must never be content with what a reading refuses or changes."""
    assert not rules._reproduced(genome)
    with pytest.raises(InvalidGenome):
        check(genome)


@settings(deadline=None, max_examples=60)
@given(genomes())
def test_the_quick_look_is_content_with_every_genome_that_is_read_back(genome: Genome) -> None:
    assert rules._reproduced(genome)
    assert Genome.from_json(genome.to_json()) == genome


@settings(deadline=None, max_examples=30)
@given(genomes())
def test_budgets_hold_at_exactly_the_cost(genome: Genome) -> None:
    spent = cost(genome)
    check(genome, Limits(spent.parameters, spent.macs, spent.activation_bytes))
    found = reasons(genome, Limits(spent.parameters - 1, spent.macs - 1, spent.activation_bytes - 1))
    for name in ("parameters", "macs", "activation_bytes"):
        assert f"{name} must be at most {getattr(spent, name) - 1:,}, got {getattr(spent, name):,}" in found


@settings(deadline=None, max_examples=30)
@given(genomes())
def test_what_is_allowed_is_what_is_valid_and_within_the_limits(genome: Genome) -> None:
    spent = cost(genome)
    assert allowed(genome, Limits(spent.parameters, spent.macs, spent.activation_bytes))
    assert not allowed(genome, Limits(activation_bytes=spent.activation_bytes - 1))
    assert not allowed(genome.changed({"lonely": genome[genome.root]}), Limits())


def test_loading_checks_the_budget() -> None:
    data = chain(Conv(4, 1)).to_json()
    load_genome(data, Limits(parameters=8))
    with pytest.raises(InvalidGenome, match="parameters must be at most 7, got 8"):
        load_genome(data, Limits(parameters=7))
