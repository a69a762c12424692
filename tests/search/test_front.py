"""A front kept up to date is the one that comparing each with each finds."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from search import Evaluation
from search.front import Front, non_dominated

FEW = st.integers(0, 6)


def success(number: int, error: float, parameters: float) -> Evaluation:
    return Evaluation(number, "ok", {"error": error, "parameters": parameters})


def compared(points: list[tuple[float, float]]) -> list[int]:
    """Returns who is beaten by none, by the definition; the first of equals; the least error first."""
    found = [
        number
        for number, (error, size) in enumerate(points)
        if not any(
            e <= error and s <= size and ((e, s) != (error, size) or other < number)
            for other, (e, s) in enumerate(points)
        )
    ]
    return sorted(found, key=lambda number: points[number])


@given(st.lists(st.tuples(FEW, FEW), max_size=30))
def test_it_holds_whom_none_beats_after_each_result(points: list[tuple[float, float]]) -> None:
    front = Front()
    for number, point in enumerate(points):
        front.add(success(number, *point))
        assert [member.number for member in front.members] == compared(points[: number + 1])


@given(st.lists(st.tuples(FEW, FEW), max_size=30))
def test_all_at_once_are_the_same_as_one_by_one(points: list[tuple[float, float]]) -> None:
    assert non_dominated(dict(enumerate(points))) == compared(points)


@given(st.lists(st.tuples(FEW, FEW, FEW), max_size=20))
def test_of_more_objectives_each_that_is_left_out_is_beaten_or_equalled(points: list[tuple[float, ...]]) -> None:
    kept = non_dominated(dict(enumerate(points)))
    for number, point in enumerate(points):
        others = [other for other in kept if other != number]
        matched = any(all(a <= b for a, b in zip(points[other], point, strict=True)) for other in others)
        assert matched != (number in kept)


def test_it_is_of_the_objective_that_it_is_asked_for() -> None:
    front = Front("latency_seconds")
    for number, (size, seconds) in enumerate(((1.0, 3.0), (2.0, 2.0), (3.0, 1.0))):
        objectives = {"error": 0.1 * number, "parameters": size, "latency_seconds": seconds}
        front.add(Evaluation(number, "ok", objectives))
    front.add(success(3, 0.9, 0.0))  # not timed
    assert [member.number for member in front.members] == [0, 1, 2]


def test_a_front_of_hundreds_is_the_same() -> None:
    rng, front = random.Random(0), Front()
    points = [(x := rng.random(), (1 - x) + 0.002 * rng.random()) for _ in range(600)]
    for number, point in enumerate(points):
        front.add(success(number, *point))
    assert [member.number for member in front.members] == compared(points)
    assert len(front.members) > 100


def test_what_was_not_measured_decides_nothing() -> None:
    front = Front()
    for evaluation in (
        Evaluation(0, "ok", {"parameters": 5.0}),
        Evaluation(1, "ok", {"parameters": 4.0}),
        Evaluation(2, "ok", {"parameters": 4.0}),
    ):
        front.add(evaluation)
    assert [member.number for member in front.members] == [1]
    front.add(success(3, 0.5, 9.0))
    assert [member.number for member in front.members] == [3, 1]
