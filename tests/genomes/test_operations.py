"""Operations know the shapes that torch makes."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings

from genomes import Genome, InvalidGenome, expand
from genomes.operations import (
    OPERATIONS,
    AvgPool,
    Call,
    Concat,
    Conv,
    GlobalPool,
    Linear,
    MaxPool,
    Mul,
    Operation,
    Trait,
)
from morphism.interpreter import run
from tests.drawing import SHAPE, genomes, messy_weights
from tests.genomes.flat import chain, flattened


@settings(deadline=None, max_examples=40)
@given(genomes())
def test_every_shape_is_what_torch_makes(genome: Genome) -> None:
    flat, names = flattened(expand(genome))
    weights = {names[name]: tensor for name, tensor in messy_weights(genome, 0).items()}
    for path, primitive in expand(flat).primitives.items():
        cut = flat["net"].changed({}, [(path, "y")], [(expand(flat).output, "y")])
        assert (
            run(Genome.of({"net": cut}), weights, torch.zeros(2, *SHAPE, dtype=torch.float64)).shape[1:]
            == primitive.shape
        )


@pytest.mark.parametrize(
    "operation",
    [
        Conv(4, 5, 3, 2, 2, 2),
        Conv.same(4, 3, stride=2),
        Conv.same(6, 3, groups=2, dilation=2),
        Conv(1, 7),
        MaxPool(3, 2, 1),
        MaxPool(2, 2),
        AvgPool(3, 3),
        GlobalPool(),
    ],
)
@pytest.mark.parametrize("extent", [(7, 7), (8, 11), (9, 31)])
def test_windows_slide_as_in_torch(operation: Operation, extent: tuple[int, int]) -> None:
    genome = chain(operation, shape=(2, *extent))
    made = run(genome, messy_weights(genome, 0), torch.zeros(1, 2, *extent, dtype=torch.float64))
    assert tuple(made.shape[1:]) == expand(genome).shape("y")


@pytest.mark.parametrize(
    ("operation", "shapes", "words"),
    [
        (Conv(4, 3), [(5,)], "conv needs an input"),
        (Conv(4, 3), [(1, 2, 9)], "a window of 3 does not fit an extent of 2"),
        (Conv(4, 3, groups=2), [(3, 9, 9)], "groups must divide its channels, got 2 groups for 3 -> 4"),
        (Linear(4), [(1, 2, 2)], "linear needs an input"),
        (Mul(), [(4, 3, 3), (2, 1, 1)], "mul needs inputs of one shape"),
        (Mul(), [(4, 3, 3), (4, 3, 1)], "mul needs inputs of one shape"),
        (Concat(), [(4, 3, 3), (4, 2, 2)], "concat needs inputs of one extent"),
        (Concat(), [(4096,), (1,)], "concat makes 4097 channels"),
        (OPERATIONS["add"](), [(4, 3, 3), (4, 1, 1)], "add needs inputs of one shape"),
        (OPERATIONS["mean"](), [(4,), (5,)], "mean needs inputs of one shape"),
        (OPERATIONS["input"](), [], "the network's input must have a shape"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(operation: Operation, shapes: list[tuple[int, ...]], words: str) -> None:
    with pytest.raises(InvalidGenome, match=words):
        operation.out_shape(shapes)


def test_every_kind_is_known_by_its_own_name_and_says_what_it_does_to_channels() -> None:
    for kind, operation in OPERATIONS.items():
        assert operation.kind == kind
        assert operation.trait in Trait
        assert operation.variadic == (operation.trait in (Trait.UNITES, Trait.STACKS) or kind == "attention")
        numbers = [field for field in fields(operation) if field.type in ("int", "float")]
        assert all({"low", "high"} <= set(field.metadata) for field in numbers)
    assert OPERATIONS["call"] is Call
