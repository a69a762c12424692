"""Drawings are well-formed, self-contained and honest, and no edge crosses a box."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genomes import Genome, Module, expand
from genomes.drawing import draw
from genomes.labels import label, short
from genomes.layout import OUTPUT, layout
from genomes.operations import (
    Add,
    AvgPool,
    BatchNorm,
    Blend,
    Call,
    ChannelShuffle,
    Concat,
    Conv,
    GroupNorm,
    Input,
    LayerNorm,
    MaxPool,
    Operation,
    Output,
    ReLU,
    Select,
    Slice,
)
from genomes.spaces.residual import ResidualSpace
from tests.drawing import genomes
from tests.genomes.flat import chain

SVG = "{http://www.w3.org/2000/svg}"
SETTINGS = settings(deadline=None, max_examples=60)


@SETTINGS
@given(genomes(), st.text(max_size=20))
def test_drawings_are_well_formed_whatever_the_title(genome: Genome, title: str) -> None:
    picture = ET.fromstring(draw(genome, title))
    assert picture.tag == f"{SVG}svg"
    shown = {element.text for element in picture.iter(f"{SVG}text")}
    for members in layout(expand(genome)).boxes.values():
        assert label(members) in shown


def test_drawings_ask_nothing_of_the_network_and_run_nothing() -> None:
    text = draw(chain(Conv(4, 3), ReLU()), "<script>alert(1)</script>")
    assert "<script" not in text
    assert re.findall(r"https?://[^\"]*", text) == ["http://www.w3.org/2000/svg"]
    assert "prefers-color-scheme: dark" in text.replace("scheme:dark", "scheme: dark")


@SETTINGS
@given(genomes())
def test_every_primitive_has_one_box_and_every_other_edge_a_line(genome: Genome) -> None:
    expansion = expand(genome)
    plan = layout(expansion)
    assert sorted(p.path for members in plan.boxes.values() for p in members) == sorted(expansion.primitives)
    folded = sum(len(members) - 1 for members in plan.boxes.values() if members)
    reads = sum(len(p.inputs) for p in expansion.primitives.values())
    assert sum(plan.edges.values()) == reads - folded + 1
    for source, target in plan.edges:
        assert plan.layers[source] < plan.layers[target]


def curve(path: str) -> list[tuple[float, float]]:
    """Returns points along a path of M, C and V commands."""
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", path)]
    kinds, at = re.findall("[MCV]", path), 0
    points: list[tuple[float, float]] = []
    for kind in kinds:
        size = {"M": 2, "C": 6, "V": 1}[kind]
        given_ = numbers[at : at + size]
        at += size
        if kind == "M":
            points.append((given_[0], given_[1]))
            continue
        start = points[-1]
        ends = [(start[0], start[1]), (start[0], given_[0]), (start[0], given_[0]), (start[0], given_[0])]
        if kind == "C":
            ends = [start, *zip(given_[::2], given_[1::2], strict=True)]
        for step in range(1, 41):
            t = step / 40
            weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
            points.append((sum(w * e[0] for w, e in zip(weights, ends, strict=True)),
                           sum(w * e[1] for w, e in zip(weights, ends, strict=True))))  # fmt: skip
    return points


@SETTINGS
@given(genomes())
def test_no_edge_crosses_a_box_and_nothing_leaves_the_picture(genome: Genome) -> None:
    picture = ET.fromstring(draw(genome))
    left, top, width, height = map(float, picture.attrib["viewBox"].split())
    rectangles = [
        tuple(float(element.attrib[key]) for key in ("x", "y", "width", "height"))
        for element in picture.iter(f"{SVG}rect")
        if element.attrib["class"] not in ("ground", "call")
    ]
    for x, y, w, h in rectangles:
        assert left <= x
        assert x + w <= left + width
        assert top <= y
        assert y + h <= top + height
        for a, b, c, d in rectangles:
            assert (a, b) == (x, y) or a + c <= x or x + w <= a or b + d <= y or y + h <= b
    for element in picture.iter(f"{SVG}path"):
        if element.attrib["class"] == "edge":
            for px, py in curve(element.attrib["d"]):
                assert left <= px <= left + width
                assert not any(x + 1 < px < x + w - 1 and y + 1 < py < y + h - 1 for x, y, w, h in rectangles)


def test_chains_are_folded_into_one_readable_box() -> None:
    genome = chain(Conv.same(16, 3, stride=2), BatchNorm(), ReLU(), MaxPool(3, 2, 1), Conv.same(16, 3, groups=16))
    plan = layout(expand(genome))
    words = [label(members) for members in plan.boxes.values()]
    assert words == ["input", "conv 3×3, 16, /2 · bn · relu", "max pool 3×3, /2", "conv 3×3, 16, depthwise", "output"]


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (GroupNorm(2), "conv 1×1, 4 · gn, 2 groups"),
        (LayerNorm(), "conv 1×1, 4 · ln"),
        (Blend("relu", "gelu"), "conv 1×1, 4 · blend relu, gelu"),
        (ChannelShuffle(2), "shuffle, 2 groups"),
        (Slice(1, 3), "channels 1 to 2"),
        (Select(5), "position 5"),
        (AvgPool(2, 2, ceil=True), "avg pool 2×2, /2"),
    ],
)
def test_an_operation_says_what_sets_it_apart(operation: Operation, words: str) -> None:
    boxes = layout(expand(chain(Conv(4, 1), operation))).boxes.values()
    assert words in [label(members) for members in boxes]


def test_a_value_that_is_read_twice_is_not_folded_away() -> None:
    nodes: dict[str, Operation] = {
        "x": Input(0, (2, 4, 4)),
        "conv": Conv(2, 1),
        "relu": ReLU(),
        "sum": Add(),
        "y": Output(),
    }
    edges: list[tuple[str, str] | tuple[str, str, int]] = [
        ("x", "conv"), ("conv", "relu"), ("relu", "sum"), ("conv", "sum", 1), ("sum", "y")
    ]  # fmt: skip
    plan = layout(expand(Genome.of({"net": Module.of(nodes, edges)})))
    assert list(plan.boxes) == ["x", "conv", "relu", "sum", OUTPUT]
    assert plan.lanes == {"conv": 1}


def test_calls_are_framed_and_named() -> None:
    genome = ResidualSpace((1, 8, 8), 10).starters()[-1]
    picture = ET.fromstring(draw(genome))
    assert [e.text for e in picture.iter(f"{SVG}text") if e.attrib.get("class") == "name"] == ["block", "block"]


def test_a_value_read_twice_by_one_box_is_counted() -> None:
    nodes: dict[str, Operation] = {"x": Input(0, (2, 4, 4)), "c": Concat(), "y": Output()}
    module = Module.of(nodes, [("x", "c"), ("x", "c", 1), ("c", "y")])
    assert ">2×<" in draw(Genome.of({"net": module}))


def test_a_genome_of_the_largest_size_is_drawn() -> None:
    leaf = chain(*[ReLU(), Conv(1, 1)] * 95, shape=(1, 2, 2))["net"].changed({"x": Input()})
    names = ["x", *(f"c{number}" for number in range(10)), "y"]
    nodes = {"x": Input(0, (1, 2, 2)), **{name: Call("leaf") for name in names[1:-1]}, "y": Output()}
    net = Module.of(nodes, list(zip(names, names[1:], strict=False)))  # noqa: RUF007
    assert draw(Genome.of({"net": net, "leaf": leaf})).count("<rect") > 900


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1 k"),
        (12_345, "12.3 k"),
        (999_999, "1000 k"),
        (4_560_000, "4.56 M"),
        (2 * 10**9, "2 G"),
    ],
)
def test_counts_are_short(number: int, words: str) -> None:
    assert short(number) == words
