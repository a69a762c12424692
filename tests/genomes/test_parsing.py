"""The loader trusts nothing: a corpus of malformed files, random damage, and bombs."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from genomes import Genome, InvalidGenome, expand, fingerprint, load_genome, parsing
from genomes.operations import BatchNorm, Conv, Dropout, Flatten, Linear, MaxPool, ReLU
from tests.drawing import genomes, seeded_genome
from tests.genomes.flat import chain

GOOD = chain(Conv(4, 3), BatchNorm(), ReLU(), MaxPool(2, 2), Dropout(0.5), Flatten(), Linear(3), shape=(2, 6, 6))
Edit = Callable[[dict[str, Any]], object]


def node(document: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns the entry of a node of the only module."""
    found: dict[str, Any] = next(entry for entry in document["modules"]["net"]["nodes"] if entry["id"] == name)
    return found


def edges(document: dict[str, Any]) -> list[Any]:
    """Returns the edges of the only module."""
    found: list[Any] = document["modules"]["net"]["edges"]
    return found


STRUCTURES: dict[str, tuple[Edit, str]] = {
    "no schema": (lambda d: d.pop("schema"), "exactly the keys"),
    "schema of the future": (lambda d: d.update(schema=2), r"schema must be an integer in \[1, 1\], got 2"),
    "schema is true": (lambda d: d.update(schema=True), "schema must be an integer"),
    "schema is a float": (lambda d: d.update(schema=1.0), "schema must be an integer"),
    "unknown key": (lambda d: d.update(weights=[]), "exactly the keys"),
    "root is a number": (lambda d: d.update(root=3), "root must be"),
    "root is not defined": (lambda d: d.update(root="network"), "root module network is not defined"),
    "modules are an array": (lambda d: d.update(modules=[]), "modules must be an object, got list"),
    "no modules": (lambda d: d.update(modules={}), "not defined"),
    "module name with a slash": (lambda d: d["modules"].update({"a/b": d["modules"]["net"]}), "module name must be"),
    "module name with two underscores": (lambda d: d["modules"].update(a__b=d["modules"]["net"]), "module name must"),
    "module name too long": (lambda d: d["modules"].update({"a" * 49: d["modules"]["net"]}), "at most 48"),
    "module without edges": (lambda d: d["modules"]["net"].pop("edges"), "exactly the keys"),
    "nodes are an object": (lambda d: d["modules"]["net"].update(nodes={}), "array of at most 256"),
    "node is null": (lambda d: d["modules"]["net"]["nodes"].append(None), "must be an object, got NoneType"),
    "node without id": (lambda d: node(d, "n0").pop("id"), "id must be"),
    "node id is empty": (lambda d: node(d, "n0").update(id=""), "id must be"),
    "node id with a lone surrogate": (lambda d: node(d, "n0").update(id="\ud800"), "id must be"),
    "node id twice": (lambda d: node(d, "n0").update(id="n1"), "n1 must be unique"),
    "no operation": (lambda d: node(d, "n0").pop("op"), "op must be one of"),
    "unknown operation": (lambda d: node(d, "n0").update(op="eval"), "op must be one of .* got 'eval'"),
    "operation is a list": (lambda d: node(d, "n0").update(op=[]), "op must be one of"),
    "unknown field": (lambda d: node(d, "n0").update(command="x"), "conv has no field 'command'"),
    "missing field": (lambda d: node(d, "n0").pop("out_channels"), "conv needs out_channels"),
    "no channels": (lambda d: node(d, "n0").update(out_channels=0), r"out_channels must be an integer in \[1, 4096\]"),
    "too many channels": (lambda d: node(d, "n0").update(out_channels=4097), "got 4097"),
    "channels are true": (lambda d: node(d, "n0").update(out_channels=True), "got True"),
    "channels are a float": (lambda d: node(d, "n0").update(out_channels=4.0), "got 4.0"),
    "channels are text": (lambda d: node(d, "n0").update(out_channels="4"), "got '4'"),
    "stride of nothing": (lambda d: node(d, "n0").update(stride=None), "stride must be an integer"),
    "bias is a number": (lambda d: node(d, "n0").update(bias=1), "bias must be true or false, got 1"),
    "groups do not divide": (lambda d: node(d, "n0").update(groups=3), "groups must divide"),
    "window too large": (lambda d: node(d, "n0").update(kernel=9), "a window of 9 does not fit an extent of 6"),
    "padding over half a window": (lambda d: node(d, "n3").update(padding=2), "at most half"),
    "rate of one": (lambda d: node(d, "n4").update(rate=1), r"rate must be a number in \[0.0, 0.99\], got 1"),
    "rate is true": (lambda d: node(d, "n4").update(rate=True), "rate must be a number"),
    "shape of four axes": (lambda d: node(d, "x").update(shape=[1, 2, 3, 4]), "at most 3 entries"),
    "shape of two axes": (lambda d: node(d, "x").update(shape=[6, 6]), "one input with a shape"),
    "shape is empty": (lambda d: node(d, "x").update(shape=[]), "one input with a shape"),
    "extent of zero": (lambda d: node(d, "x").update(shape=[2, 0, 6]), r"in \[1, 4096\], got 0"),
    "input of port 1": (lambda d: node(d, "x").update(port=1), "ports 0, 1"),
    "edge of two": (lambda d: edges(d)[0].pop(), "exactly 3 entries"),
    "edge is text": (lambda d: edges(d).append("x-y"), "exactly 3 entries"),
    "edge to nowhere": (lambda d: edges(d).append(["n0", "n99", 0]), "must join nodes .* got 'n99'"),
    "edge from a list": (lambda d: edges(d).append([[], "n0", 0]), "must join nodes"),
    "edge to port -1": (lambda d: edges(d)[0].__setitem__(2, -1), "port of edge"),
    "edge twice": (lambda d: edges(d).append(edges(d)[0]), "one edge into each port"),
    "no edges": (lambda d: edges(d).clear(), "one edge into each port"),
    "cycle": (lambda d: edges(d).append(["n2", "n1", 1]), "no cycle, got"),
    "output twice": (lambda d: d["modules"]["net"]["nodes"].append({"id": "z", "op": "output"}), "one output, got 2"),
    "two inputs of one": (lambda d: edges(d).append(["n0", "n2", 1]), "needs exactly one input, got 2"),
    "linear of an image": (lambda d: node(d, "n5").update(op="identity"), "flatten it first"),
}
BYTES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "UTF-8 JSON"),
    "not JSON": (b"genome: {}", "UTF-8 JSON"),
    "not UTF-8": (b"\xff\xfe{}", "UTF-8 JSON"),
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD.to_json(), "UTF-8 JSON"),
    "cut off": (GOOD.to_json()[:-9], "UTF-8 JSON"),
    "two documents": (GOOD.to_json() * 2, "UTF-8 JSON"),
    "an array": (b"[]", "genome must be an object, got list"),
    "null": (b"null", "genome must be an object"),
    "a key twice": (GOOD.to_json().replace(b'"root"', b'"schema":1,"root"'), "keys must be unique, got 'schema' twice"),
    "NaN": (GOOD.to_json().replace(b"0.5", b"NaN"), "numbers must be finite, got NaN"),
    "infinity": (GOOD.to_json().replace(b"0.5", b"-Infinity"), "numbers must be finite"),
    "a float that overflows": (GOOD.to_json().replace(b"0.5", b"1e999"), "numbers must be finite, got 1e999"),
    "a huge integer": (GOOD.to_json().replace(b'"kernel":3', b'"kernel":' + b"9" * 400), "kernel must be an integer"),
    "an integer of 9,999 digits": (GOOD.to_json().replace(b"0.5", b"9" * 9999), "genome JSON: "),
    "deep nesting": (b"[" * 100_000, "nest at most 64"),
    "nesting behind an open string": (b'{"' + b'\\"' * 60_000 + b"[" * 100, "UTF-8 JSON"),
    "too long": (b" " * 262_145, "at most 262144 bytes, got 262145"),
}


def damaged(edit: Edit) -> bytes:
    """Returns the good genome's JSON after an edit."""
    document = json.loads(GOOD.to_json())
    edit(document)
    return json.dumps(document).encode()


CORPUS = {name: (damaged(edit), words) for name, (edit, words) in STRUCTURES.items()} | BYTES


def test_the_undamaged_file_loads() -> None:
    assert load_genome(damaged(len)) == GOOD
    assert len(CORPUS) >= 60


@pytest.mark.parametrize("name", CORPUS)
def test_each_malformed_file_is_refused_in_one_readable_line(name: str) -> None:
    data, words = CORPUS[name]
    with pytest.raises(InvalidGenome, match=words) as caught:
        load_genome(data)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 1000


BITS = st.lists(
    st.tuples(st.integers(0, 10**6), st.sampled_from([*b'"{}[],:0123456789-.eE\\ntruefalsx\xff\x00'])), max_size=6
)


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 30), BITS, st.integers(0, 10**6), st.integers(0, 3))
def test_random_damage_raises_nothing_but_invalid_genome(
    seed: int, bits: list[tuple[int, int]], cut: int, dropped: int
) -> None:
    data = bytearray(seeded_genome(seed).to_json())
    for place, byte in bits:
        data[place % len(data)] = byte
    place = cut % len(data)
    del data[place : place + dropped]
    survives(bytes(data))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
)


@settings(deadline=None, max_examples=200)
@given(genomes(), st.randoms(use_true_random=False), JUNK)
@example(GOOD, random.Random(0), [])
def test_any_value_in_any_place_raises_nothing_but_invalid_genome(
    genome: Genome, rng: random.Random, junk: Any
) -> None:
    document = json.loads(genome.to_json())
    holder: Any = document
    while True:
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        if not isinstance(holder[key], dict | list) or not holder[key] or rng.random() < 0.15:
            break
        holder = holder[key]
    holder[key] = junk
    survives(json.dumps(document).encode())


def survives(data: bytes) -> None:
    """Loads what may be broken; also expands what only the rules would refuse."""
    start = time.perf_counter()
    with suppress(InvalidGenome):
        genome = Genome.from_json(data)
        expand(genome)
        fingerprint(genome)
        load_genome(data)
    assert time.perf_counter() - start < 20


def bomb(depth: int, calls: int, inner: list[dict[str, Any]], inner_edges: list[Any]) -> bytes:
    """Returns modules that each call the next one several times in a row."""
    modules: dict[str, Any] = {f"m{depth}": {"nodes": inner, "edges": inner_edges}}
    for level in range(depth):
        start = {"id": "x", "op": "input", "port": 0, "shape": [1, 4, 4] if level == 0 else []}
        ids = ["x", *(f"c{number}" for number in range(calls)), "y"]
        nodes = [
            start,
            {"id": "y", "op": "output"},
            *({"id": i, "op": "call", "module": f"m{level + 1}"} for i in ids[1:-1]),
        ]
        modules[f"m{level}"] = {"nodes": nodes, "edges": [[*pair, 0] for pair in pairwise(ids)]}
    return json.dumps({"schema": 1, "root": "m0", "modules": modules}).encode()


RELU: list[dict[str, Any]] = [
    {"id": "x", "op": "input", "shape": []},
    {"id": "r", "op": "relu"},
    {"id": "y", "op": "output"},
]
EMPTY: list[dict[str, Any]] = [{"id": "x", "op": "input", "shape": []}, {"id": "y", "op": "output"}]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bomb(40, 10, RELU, [["x", "r", 0], ["r", "y", 0]]), "expand to at most 2000 primitives, got 1"),
        (bomb(40, 10, EMPTY, [["x", "y", 0]]), "expand to at most 2000 calls"),
        (bomb(40, 10, [], []), "one output, got 0"),
        (bomb(200, 1, EMPTY, [["x", "y", 0]]), "at most 64 deep"),
    ],
)
def test_call_bombs_are_refused_at_once(data: bytes, words: str) -> None:
    start = time.perf_counter()
    with pytest.raises(InvalidGenome, match=words):
        load_genome(data)
    with pytest.raises(InvalidGenome):
        expand(Genome.from_json(data))
    assert time.perf_counter() - start < 10


def test_calls_nested_as_deep_as_allowed_load() -> None:
    assert len(expand(load_genome(bomb(63, 1, RELU, [["x", "r", 0], ["r", "y", 0]]))).primitives) == 2


def test_a_value_of_too_many_numbers_is_refused() -> None:
    with pytest.raises(InvalidGenome, match="at most 268,435,456 numbers"):
        load_genome(chain(Conv(4096, 1), shape=(1, 4096, 4096)).to_json())


def test_what_is_written_alike_is_read_once() -> None:
    one, other = (parsing.operation({"id": name, "op": "conv", "out_channels": 7}, "node") for name in ("a", "b"))
    assert one is other


@pytest.mark.parametrize("value", [False, 0.0, "0", None])
def test_what_was_read_before_is_not_taken_for_its_equal_of_another_type(value: object) -> None:
    assert parsing.operation({"id": "a", "op": "conv", "out_channels": 7, "padding": 0}, "node")
    with pytest.raises(InvalidGenome, match="node b: padding must be an integer"):
        parsing.operation({"id": "b", "op": "conv", "out_channels": 7, "padding": value}, "node b")
