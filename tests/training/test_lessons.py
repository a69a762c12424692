from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genomes import Cost, cost
from genomes.spaces.residual import ResidualSpace
from training.lessons import Lesson, Lessons

SPACE = ResidualSpace((1, 8, 8), 4)
SMALL, MIDDLE, LARGE = (SPACE.member(width, [1]) for width in (4, 8, 16))
COSTS = st.builds(Cost, *[st.integers(0, 4)] * 3)


def test_what_needs_as_much_or_more_is_refused_and_says_who_taught_it() -> None:
    lessons = Lessons()
    lessons.learn(7, "cuda", MIDDLE)
    counted, wider = cost(MIDDLE), cost(LARGE)
    assert lessons.refusal("cuda", MIDDLE)
    assert lessons.refusal("cuda", LARGE) == (
        "must be smaller than candidate 7, which ran out of memory alone on its device "
        f"({counted.parameters:,} parameters, {counted.activation_bytes:,} activation bytes): "
        f"this one has {wider.parameters:,} parameters, {wider.activation_bytes:,} activation bytes"
    )


def test_what_needs_less_or_runs_elsewhere_is_tried() -> None:
    lessons = Lessons()
    assert lessons.refusal("cpu", LARGE) is None
    lessons.learn(7, "cuda", MIDDLE)
    assert lessons.refusal("cuda", SMALL) is None
    assert lessons.refusal("cpu", LARGE) is None


@pytest.mark.parametrize("order", [(2, 5, 9), (9, 2, 5)])
def test_the_first_candidate_is_named_in_whatever_order_they_were_learned(order: tuple[int, ...]) -> None:
    lessons = Lessons()
    for number in order:
        lessons.learn(number, "cpu", SMALL)
    assert "candidate 2," in str(lessons.refusal("cpu", LARGE))


@given(COSTS, COSTS, COSTS)
def test_a_lesson_covers_upwards_only(taught: Cost, one: Cost, other: Cost) -> None:
    lesson = Lesson(0, "cpu", taught)
    assert lesson.covers(taught)
    if lesson.covers(one) and Lesson(1, "cpu", one).covers(other):
        assert lesson.covers(other)
    if taught.parameters > one.parameters or taught.activation_bytes > one.activation_bytes:
        assert not lesson.covers(one)
