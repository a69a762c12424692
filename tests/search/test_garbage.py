"""The collector passes over what was there before a search, and looks at it again afterwards."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest

from search import Budget, Ledger, drive
from search.garbage import settled
from tests.doubles import ToyEvaluator, in_turn
from tests.search.toys import CONFIG, Climber


class Loop:
    """Something that only the collector frees."""

    def __init__(self) -> None:
        self.itself = self


def test_what_was_there_before_is_left_alone_and_what_comes_later_is_not() -> None:
    earlier = weakref.ref(Loop())
    with settled():
        later = weakref.ref(Loop())
        gc.collect()
        assert earlier() is not None
        assert later() is None
    gc.collect()
    assert earlier() is None


@pytest.mark.parametrize(("usual", "meanwhile"), [(700, 7_000), (50_000, 50_000), (0, 0)])
def test_the_collector_comes_no_sooner_than_it_did(usual: int, meanwhile: int) -> None:
    before = gc.get_threshold()
    gc.set_threshold(usual)
    try:
        with settled():
            assert gc.get_threshold()[0] == meanwhile
        assert gc.get_threshold()[0] == usual
    finally:
        gc.set_threshold(*before)


def test_a_search_that_fails_leaves_the_collector_as_it_was(place: Path) -> None:
    frozen, threshold = list[int](), gc.get_threshold()
    with Ledger.create(place / "a", CONFIG) as ledger, pytest.raises(ZeroDivisionError):
        drive(
            Climber(3),
            in_turn(ToyEvaluator()),
            ledger,
            Budget(candidates=12),
            watch=lambda _: frozen.append(gc.get_freeze_count()) or 1 / 0,  # type: ignore[func-returns-value]
        )
    assert frozen[0] > 0
    assert gc.get_freeze_count() == 0
    assert gc.get_threshold() == threshold
