from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from search import Evaluation
from strategies.standing import fronts, ranked

AXES = ("error", "parameters")
points = st.integers(1, 3).flatmap(
    lambda objectives: st.lists(st.tuples(*[st.integers(0, 6).map(float)] * objectives), unique=True, max_size=30)
)


def result(number: int, error: float, parameters: float = 1.0, age: float = 100.0) -> Evaluation:
    return Evaluation(number, "ok", {"error": error, "parameters": parameters}, {"lineage_examples": age})


def test_with_one_objective_the_least_is_first_and_equals_stay_in_order() -> None:
    errors = {4: 0.3, 2: 0.1, 7: 0.2, 5: 0.1}
    assert ranked([result(n, e) for n, e in errors.items()], ["error"]) == [2, 5, 7, 4]


def test_with_several_objectives_the_front_comes_first_and_in_it_the_first_objective() -> None:
    small, good, both, bad = result(0, 0.5, 1), result(1, 0.1, 9), result(2, 0.3, 3), result(3, 0.3, 4)
    assert ranked([bad, small, both, good], AXES) == [1, 2, 0, 3]


def test_results_of_other_ages_are_no_competition() -> None:
    """The elder are better by their training alone; the best of the younger is ahead of the worse of the elder."""
    elder = [result(n, 0.1 + n / 100, age=900.0) for n in range(4)]
    younger = [result(10 + n, 0.5 + n / 100, age=100.0) for n in range(4)]
    assert ranked([*younger, *elder], ["error"]) == [0, 10, 1, 11, 2, 12, 3, 13]


def test_the_only_one_of_its_age_is_in_the_middle_however_good_it_is() -> None:
    others = [result(n, 0.5 + n / 100) for n in range(4)]
    assert ranked([*others, result(9, 0.01, age=900.0)], ["error"]) == [0, 1, 9, 2, 3]


@given(points)
def test_fronts_are_what_the_definition_says(values: list[tuple[float, ...]]) -> None:
    """Who is dominated by nobody has rank 0; without those, who is dominated by nobody has rank 1; and so on."""

    def dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        return one != other and all(a <= b for a, b in zip(one, other, strict=True))

    left, expected, rank = set(values), dict[tuple[float, ...], int](), 0
    while left:
        front = {one for one in left if not any(dominates(other, one) for other in left)}
        expected |= dict.fromkeys(front, rank)
        left, rank = left - front, rank + 1
    assert fronts(values) == expected


def test_the_order_of_results_does_not_matter() -> None:
    rng = random.Random(0)
    results = [result(n, rng.random(), rng.randint(1, 5), rng.choice([1.0, 2.0])) for n in range(40)]
    shuffled = rng.sample(results, len(results))
    assert ranked(results, AXES) == ranked(shuffled, AXES)
