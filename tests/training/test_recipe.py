from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from training import Recipe

WARM = st.floats(0.0, 0.9)
PROGRESS = st.floats(0.0, 1.0, exclude_max=True)


@given(WARM, PROGRESS)
def test_the_rate_stays_between_zero_and_its_peak(warmup: float, progress: float) -> None:
    assert 0 <= Recipe(learning_rate=0.3, warmup=warmup).rate(progress) <= 0.3


@given(WARM, PROGRESS, PROGRESS)
def test_the_rate_rises_then_falls(warmup: float, one: float, other: float) -> None:
    recipe, (first, second) = Recipe(warmup=warmup), sorted((one, other))
    if second < warmup:
        assert recipe.rate(first) <= recipe.rate(second)
    if first >= warmup:
        assert recipe.rate(first) >= recipe.rate(second)


def test_the_rate_is_a_line_then_a_cosine_to_zero() -> None:
    recipe = Recipe(learning_rate=2.0, warmup=0.2)
    assert recipe.rate(0.1) == pytest.approx(1.0)
    assert recipe.rate(0.2) == 2.0
    assert recipe.rate(0.6) == pytest.approx(1.0)
    assert recipe.rate(1.0) == pytest.approx(0.0, abs=1e-12)
    assert Recipe(learning_rate=2.0, warmup=0.0).rate(0.0) == 2.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 1),
        ("learning_rate", -0.1),
        ("learning_rate", math.nan),
        ("momentum", 1.0),
        ("weight_decay", math.inf),
        ("label_smoothing", 1.0),
        ("warmup", 1.0),
        ("crop", -1),
    ],
)
def test_a_value_outside_its_range_is_refused(name: str, value: float) -> None:
    given: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"recipe.{name} must be in"):
        Recipe(**given)


@pytest.mark.parametrize("document", [{"learning_rte": 0.1}, {"precision": "float16"}, {"batch_size": "many"}])
def test_a_configuration_with_a_mistake_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Recipe).validate_python(document)


def test_every_field_is_documented() -> None:
    assert Recipe.__doc__
    assert all(f"        {field.name}: " in Recipe.__doc__ for field in fields(Recipe))
