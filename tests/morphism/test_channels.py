from __future__ import annotations

from itertools import pairwise

from genomes import Genome, Module
from genomes.operations import (
    Add,
    BatchNorm,
    Call,
    Concat,
    Conv,
    Flatten,
    GlobalPool,
    Input,
    Linear,
    Mul,
    Operation,
    Output,
    ReLU,
    Shape,
)
from morphism.channels import Symbol, channels

IMAGE = (3, 4, 4)


def net(
    nodes: dict[str, Operation],
    edges: list[tuple[str, str] | tuple[str, str, int]],
    shape: Shape = IMAGE,
    **cells: Module,
) -> Genome:
    return Genome.of({"net": Module.of({"x": Input(0, shape), **nodes, "y": Output()}, edges), **cells})


def chain(**nodes: Operation) -> Genome:
    return net(nodes, list(pairwise(["x", *nodes, "y"])))


def symbols(genome: Genome, path: str) -> list[str]:
    """Returns the channels of a value as words such as `c1:0`, blocks above 1 behind a star."""
    entries = channels(genome).entries[path]
    return [f"{s.node}:{s.channel}" + (f"*{block}" if block > 1 else "") for s, block in entries]


def test_input_and_logits_are_frozen_and_what_lies_between_is_free() -> None:
    genome = chain(c=Conv.same(2, 3), b=BatchNorm(), r=ReLU(), f=Flatten(), h=Linear(5))
    table = channels(genome)
    assert {symbol.node for symbol in table.frozen} == {"x", "h"}
    assert table.made["net", "c"] == (Symbol("net", "c", 0), Symbol("net", "c", 1))
    assert symbols(genome, "r") == ["c:0", "c:1"]


def test_flatten_hands_on_blocks_of_positions() -> None:
    genome = chain(c=Conv.same(2, 3), f=Flatten(), b=BatchNorm(), h=Linear(5))
    assert symbols(genome, "b") == ["c:0*16", "c:1*16"]


def test_concat_joins_the_lists_in_the_order_of_its_ports() -> None:
    genome = net(
        {"a": Conv(1, 1), "b": Conv(2, 1), "j": Concat(), "c": Conv(1, 1)},
        [("x", "a"), ("x", "b"), ("b", "j", 0), ("a", "j", 1), ("j", "c"), ("c", "y")],
    )
    assert symbols(genome, "j") == ["b:0", "b:1", "a:0"]


def test_sums_and_gates_unite_position_by_position() -> None:
    for operation in (Add(), Mul()):
        genome = net(
            {"a": Conv(2, 1), "b": Conv(2, 1), "s": operation, "c": Conv(1, 1)},
            [("x", "a"), ("x", "b"), ("a", "s", 0), ("b", "s", 1), ("s", "c"), ("c", "y")],
        )
        assert symbols(genome, "a") == symbols(genome, "b") == symbols(genome, "s") == ["a:0", "a:1"]
        assert channels(genome).classes[Symbol("net", "a", 1)] == (Symbol("net", "a", 1), Symbol("net", "b", 1))


def test_a_sum_with_the_input_is_frozen() -> None:
    genome = net(
        {"a": Conv(3, 1), "s": Add(), "c": Conv(1, 1)},
        [("x", "a"), ("x", "s", 0), ("a", "s", 1), ("s", "c"), ("c", "y")],
    )
    assert set(symbols(genome, "a")) == {"x:0", "x:1", "x:2"}
    assert set(channels(genome).made["net", "a"]) <= channels(genome).frozen


def test_a_depthwise_convolution_hands_on_and_a_multiplying_one_does_not() -> None:
    genome = chain(
        a=Conv(4, 1), d=Conv.same(4, 3, groups=4), m=Conv.same(8, 3, groups=4), p=GlobalPool(), f=Flatten(), h=Linear(2)
    )
    assert symbols(genome, "d") == symbols(genome, "a") == ["a:0", "a:1", "a:2", "a:3"]
    assert symbols(genome, "m")[:2] == ["m:0", "m:1"]


def test_calls_share_the_channels_that_their_module_makes() -> None:
    cell = Module.of({"i": Input(0), "c": Conv.same(2, 3), "o": Output()}, [("i", "c"), ("c", "o")])
    genome = net(
        {"one": Call("cell"), "two": Call("cell"), "h": Conv(1, 1)},
        [("x", "one"), ("one", "two"), ("two", "h"), ("h", "y")],
        cell=cell,
    )
    assert symbols(genome, "one/c") == symbols(genome, "two/c") == ["c:0", "c:1"]


def test_a_depthwise_convolution_in_two_calls_ties_their_inputs_together() -> None:
    cell = Module.of({"i": Input(0), "d": Conv.same(2, 3, groups=2), "o": Output()}, [("i", "d"), ("d", "o")])
    genome = net(
        {"a": Conv(2, 1), "b": Conv(2, 1), "one": Call("cell"), "two": Call("cell"), "j": Concat(), "h": Conv(1, 1)},
        [
            ("x", "a"),
            ("x", "b"),
            ("a", "one"),
            ("b", "two"),
            ("one", "j", 0),
            ("two", "j", 1),
            ("j", "h"),
            ("h", "y"),
        ],
        cell=cell,
    )
    assert symbols(genome, "a") == symbols(genome, "b") == ["a:0", "a:1"]


def test_one_operation_that_is_depthwise_in_one_call_only_is_frozen() -> None:
    cell = Module.of({"i": Input(0), "d": Conv.same(2, 3, groups=2), "o": Output()}, [("i", "d"), ("d", "o")])
    genome = net(
        {"a": Conv(2, 1), "b": Conv(4, 1), "one": Call("cell"), "two": Call("cell"), "s": Add(), "h": Conv(1, 1)},
        [
            ("x", "a"),
            ("x", "b"),
            ("a", "one"),
            ("b", "two"),
            ("one", "s", 0),
            ("two", "s", 1),
            ("s", "h"),
            ("h", "y"),
        ],
        cell=cell,
    )
    table = channels(genome)
    assert set(table.made["cell", "d"]) | set(table.made["net", "a"]) <= table.frozen
    assert not set(table.made["net", "b"]) & table.frozen


def test_a_sum_of_a_flattened_image_and_a_linear_map_is_frozen() -> None:
    genome = net(
        {"c": Conv(1, 1), "f": Flatten(), "g": Flatten(), "l": Linear(16), "s": Add(), "h": Linear(2)},
        [
            ("x", "c"),
            ("c", "f"),
            ("x", "g"),
            ("g", "l"),
            ("f", "s", 0),
            ("l", "s", 1),
            ("s", "h"),
            ("h", "y"),
        ],
    )
    table = channels(genome)
    assert set(table.made["net", "c"]) | set(table.made["net", "l"]) <= table.frozen
