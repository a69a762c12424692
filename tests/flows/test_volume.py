"""The share of a box that a front dominates."""

from __future__ import annotations

import pytest

from flows.nights.volume import share


def test_nothing_dominates_nothing() -> None:
    assert share([], (1, 100)) == 0


def test_a_staircase_is_the_sum_of_its_steps() -> None:
    assert share([(1, 0.5), (10, 0.2)], (1, 100)) == pytest.approx((0.5 + 0.8) / 2)


def test_a_member_counts_from_its_size_on() -> None:
    assert share([(10, 0.0)], (1, 100)) == pytest.approx(0.5)
    assert share([(100, 0.0)], (1, 100)) == 0


def test_a_dominated_member_adds_nothing_and_order_does_not_matter() -> None:
    front = [(10.0, 0.2), (1.0, 0.5)]
    assert share([*front, (50, 0.4)], (1, 100)) == share(front, (1, 100))


def test_a_box_without_width_is_judged_by_error() -> None:
    assert share([(7, 0.25)], (7, 7)) == 0.75


def test_a_member_outside_the_box_counts_as_on_its_edge() -> None:
    assert share([(1, 0.5)], (10, 100)) == 0.5
    assert share([(1000, 0.0)], (1, 100)) == 0
