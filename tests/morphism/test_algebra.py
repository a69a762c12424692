"""Normal forms of tensor expressions, and composed lineages."""

from __future__ import annotations

import json
import random

import pytest
import torch
from torch import Tensor

from genomes import Genome, InvalidGenome, Limits, check, expand
from morphism import CATALOGUE, EXACT, Edit, Inapplicable, compose, undo
from morphism.algebra import shape_of, simplified, vanishes
from morphism.certificate import relative_error
from morphism.realise import realise
from morphism.tensors import (
    Constant,
    Crop,
    Dense,
    Difference,
    Gather,
    Merged,
    Pad,
    Part,
    Source,
    Spread,
    Stacked,
    Strided,
    TensorExpr,
    Times,
    substitute,
)
from morphism.values import Origin, value
from tests.morphism.samples import drawn, messy

W = Source("w")
KNOWN = {"w": (4, 6, 3, 3)}


@pytest.mark.parametrize(
    ("expression", "normal"),
    [
        (Gather(W, 0, (0, 1, 2, 3)), W),
        (Gather(W, 1, (0, 1, 2, 0, 1, 2), groups=2), Gather(W, 1, (0, 1, 2, 0, 1, 2), groups=2)),
        (Gather(W, 1, (*range(6), *range(6)), groups=2), W),
        (Gather(Gather(W, 0, (3, 1, 0)), 0, (2, 0)), Gather(W, 0, (0, 3))),
        (Gather(Gather(W, 0, (0, -1, 1, 2, 3), new="random", seed=5), 0, (0, 2, 3, 4)), W),
        (Gather(Gather(W, 0, (0, -1), new="random", seed=5), 0, (1, 0)), Gather(W, 0, (-1, 0), "copy", "random", 5)),
        (Gather(Gather(W, 0, (0, -1)), 0, (1, -1, 0)), Gather(W, 0, (-1, -1, 0))),
        (Gather(Gather(W, 1, (0, 0, 1)), 1, (1, 2, 2), "split", seed=7), Gather(W, 1, (0, 1, 1), "split", seed=7)),
        (Gather(W, 1, (0, -1, -2), "split", "zero", 9), Gather(W, 1, (0, -1, -1))),
        (Merged(Gather(W, 1, (0, 0, 1, 2, 3, 4, 5), "split", seed=3), 1, (0, 0, 1, 2, 3, 4, 5)), W),
        (Merged(Gather(W, 1, (0, 0, 1, -1, 2, 3, 4, 5), "equal"), 1, (0, 0, 1, -1, 2, 3, 4, 5)), W),
        (Merged(Gather(W, 1, (0, -1, -2), new="opposite", seed=3), 1, (-1, 0, 0)), Constant((4, 1, 3, 3), 0.0)),
        (Crop(Pad(W, 2), 2), W),
        (Crop(Pad(W, 2), 1), Pad(W, 1)),
        (Crop(Pad(W, 1), 2), Crop(W, 1)),
        (Pad(Pad(W, 1), 2), Pad(W, 3)),
        (Crop(Crop(W, 1), 0), Crop(W, 1)),
        (Strided(Spread(W, 2), 2), W),
        (Gather(Dense(W, 2), 1, tuple(range(12)), groups=2), W),
        (Stacked(Gather(W, 0, (0, 1)), Gather(W, 0, (2, 3)), 0), W),
        (Times(Times(W, 2.0), 0.3), Times(W, 0.6)),
        (Times(Times(W, 3.0), 1 / 3.0), W),
        (Difference(Part(W, 0, 2, 8), Times(Part(W, 1, 2, 8), -1.0)), W),
        (Difference(Pad(W, 1), Pad(Crop(Pad(W, 1), 1), 1)), Constant((4, 6, 5, 5), 0.0)),
        (Difference(W, Times(Constant((4, 6, 3, 3), 0.0), 2.0)), W),
        (Pad(Constant((1, 1, 3, 3), 0.0), 1), Constant((1, 1, 5, 5), 0.0)),
        (Gather(Constant((2,), 1.0), 0, (0, -1, 1), new="one"), Constant((3,), 1.0)),
    ],
    ids=str,
)
def test_an_expression_has_a_normal_form(expression: TensorExpr, normal: TensorExpr) -> None:
    assert simplified(expression, KNOWN) == normal
    assert simplified(normal, KNOWN) == normal


@pytest.mark.parametrize(
    "expression",
    [
        Gather(W, 0, (0, 1, 2)),  # not all that there are
        Gather(Gather(W, 0, (0, -1, -1), new="random", seed=5), 0, (0, 1)),  # other numbers would be drawn
        Gather(Gather(W, 0, (0, 1, 1)), 0, (0, -1), new="random", seed=5),  # of another root mean square
        Gather(Gather(W, 1, (0, 0, 1), "split", seed=3), 1, (1, 1, 2), "split", seed=4),  # parts of a part
        Gather(Gather(W, 1, (0, 0)), 1, (0, 1, 1), "split", seed=4),
        Gather(Gather(W, 0, (1, 0)), 1, (1, 0)),  # another axis
        Merged(Gather(W, 1, (0, 0, 1)), 1, (0, 0, 1)),  # copies, not parts
        Merged(Gather(W, 1, (0, -1, -2), new="random", seed=3), 1, (-1, 0, 0)),  # twice the same, not its negative
        Merged(Gather(W, 1, (0, 0, 1), "split", seed=3), 1, (0, 0, 1)),  # slices are lost
        Times(Times(W, 0.3), 0.7),  # would round differently
    ],
    ids=str,
)
def test_what_would_change_a_number_stays(expression: TensorExpr) -> None:
    assert simplified(expression, KNOWN) == expression


def test_without_shapes_only_what_is_certain_is_an_identity() -> None:
    assert simplified(Gather(W, 0, (0, 1, 2, 3))) == Gather(W, 0, (0, 1, 2, 3))
    assert simplified(Crop(Pad(W, 1), 1)) == W
    assert vanishes(simplified(Difference(W, W)))


def test_normal_forms_of_random_expressions_compute_the_same_numbers() -> None:
    rng, changed = random.Random(0), 0
    weights = {"w": torch.randn(4, 6, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)}
    origin = Origin(weights, {}, drawn(0))
    for _ in range(3000):
        expression: TensorExpr = W
        for _ in range(rng.randint(2, 4)):
            expression = _grown(rng, expression)
        normal = simplified(expression, KNOWN)
        wanted = value(expression, origin)
        assert tuple(wanted.shape) == shape_of(expression, KNOWN)
        assert torch.equal(wanted, value(normal, origin)), f"{expression} is not {normal}"
        changed += normal != expression
    assert changed >= 1000


def _grown(rng: random.Random, of: TensorExpr) -> TensorExpr:
    shape = shape_of(of, KNOWN)
    assert shape is not None
    axis = rng.choice((0, 1))
    groups = 2 if axis and shape[0] % 2 == 0 and rng.random() < 0.3 else 1
    index = [rng.choice((*range(shape[axis]), -1, -1)) for _ in range(rng.randint(1, 5) * groups)]
    news = [k for k, i in enumerate(index) if i == -1]
    if groups == 1 and len(news) > 1 and rng.random() < 0.5:
        index[news[-1]] = -2
    match rng.randrange(6):
        case 0:
            return Pad(of, rng.randint(0, 2))
        case 1 if min(shape[2:]) > 2:
            return Crop(of, rng.randint(0, 1))
        case 2:
            return Times(of, rng.choice((0.5, 2.0, 4.0)))
        case _:
            share, new = rng.choice(("copy", "split", "equal")), rng.choice(("zero", "one", "random", "opposite"))
            return Gather(of, axis, tuple(index), share, new, rng.randrange(9), groups)  # type: ignore[arg-type]


def lineage(seed: int, length: int, *, undoing: float = 0.0) -> tuple[Genome, dict[str, Tensor], list[Edit]]:
    """Returns a genome with weights, and edits that follow each other; some are undone at once."""
    rng, first = random.Random(seed), drawn(seed)
    genome, edits = first, list[Edit]()
    while len(edits) < length:
        morphism = rng.choice(CATALOGUE)
        try:
            edit = morphism.plan(genome, rng.choice(list(morphism.sites(genome)) or [{}]), rng)
            check(edit.genome, Limits(parameters=100_000, macs=4_000_000))
            back = [undo(genome, edit)] if rng.random() < undoing and edit.modes == EXACT else []
        except (Inapplicable, InvalidGenome):
            continue
        edits.extend([edit, *back])
        genome = edits[-1].genome
    return first, messy(first, seed), edits


def test_a_lineage_is_realised_at_once_bit_for_bit() -> None:
    for seed in range(6):
        first, weights, edits = lineage(seed, 30)
        child = weights
        for edit in edits:
            child = realise(edit, child)
        composed = compose(*edits, parent=first)
        at_once = realise(composed, weights)
        assert composed.genome == edits[-1].genome
        assert composed.rule == ", ".join(edit.rule for edit in edits)
        assert composed.site == {"edits": [dict(edit.site) for edit in edits]}
        assert composed.modes == frozenset.intersection(*(edit.modes for edit in edits))
        assert Edit.from_json(json.loads(json.dumps(composed.to_json()))) == composed
        assert set(at_once) == set(child)
        assert all(torch.equal(at_once[name], child[name]) for name in child)


def test_a_lineage_with_detours_is_realised_to_the_last_place() -> None:
    for seed in range(4):
        first, weights, edits = lineage(seed, 20, undoing=0.5)
        straight, child = compose(*edits, parent=first), weights
        try:
            for edit in edits:
                child = realise(edit, child)
        except Inapplicable:
            continue  # rounding, which composing avoids
        at_once = realise(straight, weights)
        assert all(relative_error(child[name], at_once[name]) <= 1e-14 for name in child)


def test_a_lineage_and_its_way_back_is_nothing() -> None:
    for seed in range(6):
        rng, genome = random.Random(seed), drawn(seed)
        first, edits, backs = genome, list[Edit](), list[Edit]()
        while len(edits) < 8:
            morphism = rng.choice(CATALOGUE)
            try:
                edit = morphism.plan(genome, rng.choice(list(morphism.sites(genome)) or [{}]), rng)
                back = undo(genome, edit)
            except Inapplicable:
                continue
            edits.append(edit)
            backs.insert(0, back)
            genome = edit.genome
        both = compose(*edits, *backs, parent=first)
        assert both.genome == first
        assert not both.tensors
        assert not both.zeros


def test_the_order_of_composing_does_not_matter_for_the_numbers() -> None:
    first, weights, edits = lineage(2, 9)
    left = compose(compose(*edits[:4], parent=first), compose(*edits[4:]), parent=first)
    right = compose(*edits, parent=first)
    assert left.genome == right.genome
    one, other = realise(left, weights), realise(right, weights)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_conditions_are_carried_over_and_those_that_hold_vanish() -> None:
    genome = drawn(0)
    grow = next(m for m in CATALOGUE if m.name == "kernel.grow")
    edit = grow.plan(genome, grow.sites(genome)[0], random.Random(0))
    crop = undo(genome, edit)
    assert crop.zeros
    assert not compose(edit, crop, parent=genome).zeros
    assert compose(crop, edit, parent=edit.genome).zeros == crop.zeros


def test_one_edit_composed_is_itself() -> None:
    _, _, edits = lineage(1, 1)
    assert compose(*edits) is edits[0]


def test_many_widenings_of_one_layer_nest_within_the_limit() -> None:
    genome = first = drawn(3)
    widen = next(m for m in CATALOGUE if m.name == "widen.zero_fanout")
    site, edits = widen.sites(genome)[0], list[Edit]()
    for number in range(12):
        try:
            edits.append(widen.plan(genome, site, random.Random(number)))
        except Inapplicable:
            break
        genome = edits[-1].genome
    assert len(edits) >= 5
    composed = compose(*edits, parent=first)
    assert Edit.from_json(composed.to_json()) == composed
    shapes = expand(first).tensor_shapes()
    assert all(shape_of(e, shapes) is not None for e in composed.tensors.values())
    assert all(simplified(substitute(e, {}), shapes) == e for e in composed.tensors.values())
