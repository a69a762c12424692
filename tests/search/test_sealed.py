"""Searches where nothing can be written, as in a backup: they can be looked at, and are not called damaged."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from search import Budget, Ledger, UnreadableLedger, drive
from tests.doubles import ToyEvaluator, in_turn
from tests.search.toys import CONFIG, Climber


@pytest.fixture
def backup(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with Ledger.create(place / "a", CONFIG) as ledger:
        drive(Climber(3), in_turn(ToyEvaluator()), ledger, Budget(candidates=6))
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere, except on a read-only file system
    return place / "a"


def test_a_ledger_that_cannot_be_written_is_read_and_leaves_no_file(backup: Path) -> None:
    before = sorted(backup.iterdir())
    with Ledger.read(backup) as ledger:
        assert len(ledger.evaluations()) == ledger.spent().evaluations == 6
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            ledger.mark_sent(0, "1")
    assert sorted(backup.iterdir()) == before


def test_a_log_that_cannot_be_read_is_named(backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object, **__: object) -> None:
        error = sqlite3.OperationalError("unable to open database file")
        error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
        raise error

    monkeypatch.setattr(Ledger, "_prepare", closed)
    with pytest.raises(UnreadableLedger, match=r"a must be writable, since ledger\.sqlite has a log"):
        Ledger.read(backup)


def test_what_is_only_in_the_log_of_a_copy_is_read_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger.create(place / "a", CONFIG) as ledger:
        drive(Climber(3), in_turn(ToyEvaluator()), ledger, Budget(candidates=6))
        shutil.copytree(place / "a", place / "copy")  # while it runs
    monkeypatch.setattr(os, "access", lambda *_: False)
    with Ledger.read(place / "copy") as ledger:
        assert len(ledger.evaluations()) == 6
