"""A full disk pauses a search and loses nothing."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from search import Candidate, DiskFull, Ledger
from tests.doubles import ToyEvaluator
from tests.search.failpoints import Failpoints, run
from tests.search.toys import CONFIG, network, state


def founders(ledger: Ledger, count: int) -> None:
    for number in range(count):
        ledger.asked(Candidate(number, network(1)), "key", 0.0)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Refuses to let any file of this process grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_pauses_the_search_and_loses_nothing(place: Path) -> None:
    run(place / "undisturbed", Failpoints(), ToyEvaluator())
    expected, paused = state(place / "undisturbed"), 0
    for size in range(0, 400_000, 25_000):
        directory = place / f"{size}"
        try:
            with largest_file(size):
                run(directory, Failpoints(), ToyEvaluator())
        except DiskFull:
            paused += 1
        run(directory, Failpoints(), ToyEvaluator())
        assert state(directory) == expected
    assert paused >= 3


def test_a_database_that_may_not_grow_is_a_full_disk(place: Path) -> None:
    with Ledger.create(place / "a", CONFIG) as ledger:
        pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
        ledger._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(DiskFull, match="make room, then resume"):
            founders(ledger, 500)
        recorded = len(ledger.candidates())
    with Ledger.open(place / "a") as ledger:
        assert len(ledger.candidates()) == recorded
