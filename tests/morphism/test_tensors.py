from __future__ import annotations

import math
from typing import Any

import pytest

from morphism import Inapplicable
from morphism.tensors import (
    EXPRESSIONS,
    Constant,
    Crop,
    Dense,
    Difference,
    Dirac,
    Factored,
    Folded,
    Gather,
    Measured,
    Merged,
    Noise,
    Pad,
    Part,
    Random,
    Ranked,
    Separated,
    Source,
    Spread,
    Stacked,
    Strided,
    TensorExpr,
    Times,
    from_json,
    substitute,
    to_json,
)

EXAMPLES: tuple[TensorExpr, ...] = (
    Source("a/b.weight"),
    Gather(Source("x"), 1, (0, 0, -1), share="split", new="random", seed=5, groups=3),
    Gather(Gather(Source("x"), 0, (1,), new="one"), 0, (0,)),
    Gather(Source("x"), 1, (0, -1, -2), new="opposite"),
    Source("x", donor=1),
    Pad(Source("x"), 1),
    Crop(Source("x"), 2),
    Spread(Source("x"), 2),
    Dense(Source("x"), 4),
    Part(Source("x"), 1, 2, 9),
    Merged(Source("x"), 1, (0, 0, 1)),
    Factored(Source("x"), "second"),
    Separated(Source("x"), "first"),
    Measured("a/norm", "deviation", 4),
    Ranked(Source("x"), 0, (0, -1, 1), Source("y"), 1),
    Strided(Source("x"), 2),
    Stacked(Source("x"), Source("y"), 0),
    Folded(Source("x"), Source("g"), Source("v"), 1e-5),
    Noise(Source("x"), 0.01, 3),
    Difference(Source("x"), Pad(Source("y"), 1)),
    Times(Source("x"), 0.5),
    Constant((3, 1), 1.0),
    Dirac((2, 2, 3, 3)),
    Random((2,), 0.1, 7),
)
DEEP: dict[str, Any] = {"kind": "source", "name": "x"}
for _ in range(400):
    DEEP = {"kind": "pad", "of": DEEP, "margin": 1}


@pytest.mark.parametrize("expression", EXAMPLES, ids=lambda e: e.kind)
def test_expressions_survive_json(expression: TensorExpr) -> None:
    assert from_json(to_json(expression)) == expression


def test_every_kind_has_an_example() -> None:
    assert {type(example) for example in EXAMPLES} == set(EXPRESSIONS.values())


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "source",
        {"kind": "magic"},
        {"kind": ["source"]},
        {"kind": "source"},
        {"kind": "source", "name": 3},
        {"kind": "source", "name": "x", "extra": 1},
        {"kind": "pad", "of": "x", "margin": 1},
        {"kind": "pad", "of": {"kind": "source", "name": "x"}, "margin": -1},
        {"kind": "pad", "of": {"kind": "source", "name": "x"}, "margin": True},
        {"kind": "pad", "of": {"kind": "source", "name": "x"}, "margin": 1.0},
        {"kind": "gather", "of": {"kind": "source", "name": "x"}, "axis": 0, "index": [-3]},
        {"kind": "gather", "of": {"kind": "source", "name": "x"}, "axis": 0, "index": 1},
        {"kind": "gather", "of": {"kind": "source", "name": "x"}, "axis": 0, "index": [0], "share": "half"},
        {"kind": "gather", "of": {"kind": "source", "name": "x"}, "axis": 0, "index": [0], "new": ["zero"]},
        {"kind": "gather", "of": {"kind": "source", "name": "x"}, "axis": 0, "index": [0], "groups": 0},
        {"kind": "times", "of": {"kind": "source", "name": "x"}, "factor": math.nan},
        {"kind": "constant", "shape": [0], "value": 1.0},
        {"kind": "random", "shape": [1], "deviation": "1", "seed": 0},
        DEEP,
    ],
    ids=lambda document: str(document)[:60],
)
def test_a_malformed_expression_is_refused(document: Any) -> None:
    with pytest.raises(Inapplicable):
        from_json(document)


def test_substitution_reaches_every_depth_and_leaves_strangers_alone() -> None:
    expression = Pad(Gather(Source("x"), 0, (0,)), 1)
    assert substitute(expression, {"x": Dirac((1, 1))}) == Pad(Gather(Dirac((1, 1)), 0, (0,)), 1)
    assert substitute(expression, {"y": Dirac((1, 1))}) == expression
    assert substitute(Constant((1,), 0.0), {"x": Dirac((1, 1))}) == Constant((1,), 0.0)
