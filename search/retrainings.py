"""Retrainings: the record of the full trainings of a search's finalists, in a file of its own.

Not in the ledger, which a running search has the lock of: finalists may be trained meanwhile. Each training is recorded
once, under a key that says all that determines it, so that whoever is killed goes on with what is missing. A reading of
the test part is written down before it begins: one that was cut off shows, too. So is every decision about who is
champion, with its evidence, from which MLflow's registry can be made anew.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

from search import records
from search.errors import NewerSchema, UnreadableLedger
from search.files import make
from search.lock import locked
from search.promotions import Holders, Outcome, Promotion, holders
from search.protocol import Evaluation, Status
from search.transactions import transaction

FILE = "retrainings.sqlite"
SCHEMA = 2  # 1: without promotions
FINAL: frozenset[Status] = frozenset({"ok", "build_error", "non_finite"})  # memory can be found elsewhere
TABLES = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS retraining (
  key TEXT PRIMARY KEY, number INTEGER NOT NULL, seed INTEGER NOT NULL, setting TEXT NOT NULL, record TEXT NOT NULL
) WITHOUT ROWID;
-- Every reading of the test part; `error` is null until it ended. Times are seconds since 1970, for people only.
CREATE TABLE IF NOT EXISTS reading (seq INTEGER PRIMARY KEY, weights TEXT NOT NULL, started REAL NOT NULL, error REAL);
CREATE TABLE IF NOT EXISTS choice (seq INTEGER PRIMARY KEY, key TEXT NOT NULL REFERENCES retraining);
CREATE TABLE IF NOT EXISTS promotion (
  seq INTEGER PRIMARY KEY, key TEXT NOT NULL REFERENCES retraining, outcome TEXT NOT NULL, evidence TEXT NOT NULL,
  decided REAL NOT NULL
);
PRAGMA user_version = {SCHEMA};
COMMIT;
"""


@dataclass(frozen=True)
class Retraining:
    """One full training of a finalist.

    Attributes:
        key: a hash of all that determines the result.
        number: the candidate's.
        seed: which of its trainings, from 0.
        setting: the recipe, the fidelity and whether it had a warm start, as JSON values.
        evaluation: what became of it; `error` is of the validation part, `second_validation_error` of the other.
    """

    key: str
    number: int
    seed: int
    setting: Mapping[str, Any]
    evaluation: Evaluation

    @property
    def final(self) -> bool:
        """Whether another attempt would end alike on any machine: a success, or a failure of the network itself."""
        return self.evaluation.status in FINAL

    @property
    def manner(self) -> str:
        """What it began with, in words."""
        return "trained on from the search's weights" if self.setting.get("warm_start") else "trained from scratch"


class Reading(NamedTuple):
    """One reading of the test part.

    Attributes:
        weights: the digest of what was judged.
        error: share of wrongly classified images; None if it was cut off.
    """

    weights: str
    error: float | None


class Retrainings:
    """The open record; use it as a context manager, in one thread."""

    def __init__(self, directory: Path, lock: BinaryIO | None) -> None:
        """Opens the file, for writing if a lock is given; `open` and `read` are the ways in."""
        self.directory, self._lock = directory, lock
        file = directory / FILE
        try:
            self._db = sqlite3.connect(file if lock or file.exists() else ":memory:", timeout=30, isolation_level=None)
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if not 0 <= version <= SCHEMA:
                raise NewerSchema(
                    f"{file} must have schema {SCHEMA} or less to be read by this version, it has {version}"
                )
            if version < SCHEMA:
                self._db.executescript(TABLES)  # an older schema lacks tables, and nothing else
        except sqlite3.Error as error:
            self.close()
            raise UnreadableLedger(f"{file} must be a whole record of retrainings: {error}") from None
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, directory: Path) -> Retrainings:
        """Opens the record to add to it; makes it if it is not there.

        Args:
            directory: of a search's retrainings.

        Raises:
            SearchLocked: another process trains finalists of this search.
            UnreadableLedger: the directory cannot be written, or the file is no record of this version.
            DiskFull: there is no room.
        """
        make(directory)
        return cls(directory, locked(directory, f"the retraining of search {directory.parent.name}"))

    @classmethod
    def read(cls, directory: Path) -> Retrainings:
        """Opens the record to look at it; an empty one if there is none.

        Raises:
            UnreadableLedger: the file is no record of this version.
        """
        return cls(directory, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file and gives the lock back."""
        if hasattr(self, "_db"):
            self._db.close()
        if self._lock:
            self._lock.close()

    def recorded(self) -> dict[str, Retraining]:
        """Returns all trainings by key."""
        rows = self._db.execute("SELECT key, number, seed, setting, record FROM retraining ORDER BY number, seed, key")
        return {
            key: Retraining(key, number, seed, json.loads(setting), records.evaluation(record))
            for key, number, seed, setting, record in rows
        }

    def record(self, one: Retraining) -> None:
        """Records what became of a training; takes the place of a failure that is not final.

        Raises:
            DiskFull: there is no room.
        """
        row = (one.key, one.number, one.seed, records.dump(one.setting), records.evaluation_json(one.evaluation))
        with transaction(self._db, FILE, "go on") as db:
            db.execute("INSERT OR REPLACE INTO retraining VALUES (?, ?, ?, ?, ?)", row)

    def choose(self, key: str) -> None:
        """Records which training's network is the result, if it is not the last choice."""
        last = self.chosen()
        if last is None or last.key != key:
            with transaction(self._db, FILE, "go on") as db:
                db.execute("INSERT INTO choice (key) VALUES (?)", (key,))

    def chosen(self) -> Retraining | None:
        """Returns the training whose network is the result; None before the first choice."""
        row = self._db.execute("SELECT key FROM choice ORDER BY seq DESC LIMIT 1").fetchone()
        return self.recorded()[row[0]] if row else None

    def reading_begins(self, weights: str) -> None:
        """Records that the test part is about to be read for these weights."""
        with transaction(self._db, FILE, "go on") as db:
            db.execute("INSERT INTO reading (weights, started) VALUES (?, ?)", (weights, time.time()))

    def reading_ended(self, weights: str, error: float) -> None:
        """Records what the reading that began last for these weights showed."""
        with transaction(self._db, FILE, "go on") as db:
            last = "SELECT max(seq) FROM reading WHERE weights = ?"
            if not db.execute(f"UPDATE reading SET error = ? WHERE seq = ({last})", (error, weights)).rowcount:
                row = (weights, time.time(), error)
                db.execute("INSERT INTO reading (weights, started, error) VALUES (?, ?, ?)", row)

    def readings(self) -> list[Reading]:
        """Returns every reading of the test part, the first one first."""
        return [Reading(*row) for row in self._db.execute("SELECT weights, error FROM reading ORDER BY seq")]

    def test_errors(self) -> dict[str, float]:
        """Returns the test error of each network that it was read for, by the digest of its weights."""
        return {reading.weights: reading.error for reading in self.readings() if reading.error is not None}

    def decide(self, key: str, outcome: Outcome, evidence: Mapping[str, Any]) -> None:
        """Records whether the network of a training becomes champion, and why, if that is not the last decision."""
        row = (key, outcome, records.dump(evidence))
        last = self._db.execute("SELECT key, outcome, evidence FROM promotion ORDER BY seq DESC LIMIT 1").fetchone()
        if last != row:
            with transaction(self._db, FILE, "go on") as db:
                columns = "(key, outcome, evidence, decided)"
                db.execute(f"INSERT INTO promotion {columns} VALUES (?, ?, ?, ?)", (*row, time.time()))

    def promotions(self) -> list[Promotion]:
        """Returns every decision about who is champion, the first one first."""
        rows = self._db.execute("SELECT key, outcome, evidence, decided FROM promotion ORDER BY seq")
        return [Promotion(key, outcome, json.loads(evidence), decided) for key, outcome, evidence, decided in rows]

    def holders(self) -> Holders:
        """Returns who is champion, who was before, and who was withdrawn."""
        return holders(self.promotions())
