"""Failpoints: something that happens at the N-th write, commit, flush or rename of a search."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from search import Budget, Candidate, Done, Evaluation, Ledger, Strategy, drive
from tests.doubles import ToyEvaluator
from tests.search.toys import CONFIG, Climber

WRITES = ("BEGIN", "INSERT", "UPDATE", "COMMIT")


class Crash(BaseException):
    """The process is gone."""


def crash() -> None:
    """Ends everything, as a dying process would."""
    raise Crash


@dataclass
class Failpoints:
    """A counter of operations and what happens at one of them.

    Attributes:
        at: the operation at which it happens; 0 for never.
        action: what happens.
        count: operations so far.
    """

    at: int = 0
    action: Callable[[], None] = crash
    count: int = 0

    def tick(self) -> None:
        """Counts one operation."""
        self.count += 1
        if self.count == self.at:
            self.action()

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Counts the operations of the block."""
        points, rename, fsync, connect = self, Path.rename, os.fsync, sqlite3.connect

        class Watched(sqlite3.Connection):
            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                return points.around(sql, lambda: super(Watched, self).execute(sql, *values))

            def executemany(self, sql: str, *values: Any) -> sqlite3.Cursor:
                return points.around(sql, lambda: super(Watched, self).executemany(sql, *values))

        def watched_connect(*places: Any, **options: Any) -> sqlite3.Connection:
            return connect(*places, factory=Watched, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sqlite3, "connect", watched_connect)
            patch.setattr(Path, "rename", lambda *paths: points.around("COMMIT", lambda: rename(*paths)))
            patch.setattr(os, "fsync", lambda handle: points.around("COMMIT", lambda: fsync(handle)))
            yield

    def around(self, sql: str, work: Callable[[], Any]) -> Any:
        """Counts before a write, and after one that makes something last."""
        if not sql.startswith(WRITES):
            return work()
        self.tick()
        result = work()
        if sql.startswith("COMMIT"):
            self.tick()
        return result


def run(directory: Path, points: Failpoints, evaluator: ToyEvaluator, strategy: Strategy | None = None) -> None:
    """Runs, or resumes, a search of twelve candidates with two slots; an evaluation is an operation too."""

    def dispatch(candidate: Candidate, parents: Mapping[int, Evaluation], done: Done) -> None:
        points.tick()
        done(evaluator(candidate, parents))

    with points.armed(), Ledger.create(directory, CONFIG) as ledger:
        drive(strategy or Climber(3), dispatch, ledger, Budget(candidates=12), slots=2)


def told(directory: Path) -> set[int]:
    """Returns the numbers whose evaluations are recorded."""
    if not (directory / "ledger.sqlite").exists():
        return set()
    with Ledger.read(directory) as ledger:
        return set(ledger.evaluations())
