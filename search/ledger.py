"""Ledger: the truth about one search, in one SQLite file with one writer.

Every ask and every tell is one transaction and one event of one sequence, so that a process killed at any instant leaves
a prefix of the undisturbed sequence, which resuming replays. Readers need no lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

from search import records
from search.errors import ConfigMismatch, DiskFull, SearchLocked, SearchMissing, UnreadableLedger
from search.protocol import Candidate, Evaluation

SCHEMA = "1"
FILE = "ledger.sqlite"


@dataclass(frozen=True)
class Spent:
    """What a search has used so far.

    Attributes:
        candidates: asked for.
        evaluations: told, failures and twins included.
        failures: told, and not `ok`.
        examples: shown in training, repeats counted.
        train_seconds: of all children together.
        elapsed_seconds: of wall clock while the search ran, over all its sessions.
    """

    candidates: int = 0
    evaluations: int = 0
    failures: int = 0
    examples: float = 0.0
    train_seconds: float = 0.0
    elapsed_seconds: float = 0.0


class Event(NamedTuple):
    """One step of the sequence: a candidate asked for, or the evaluation of one told."""

    candidate: Candidate
    evaluation: Evaluation | None


class Ledger:
    """An open ledger; use it as a context manager.

    Attributes:
        config: the search's configuration, as JSON values.
    """

    def __init__(self, directory: Path, lock: IO[str] | None) -> None:
        """Opens the file; `create`, `open` and `read` are the ways in."""
        self._lock = lock
        address = f"file:{directory / FILE}?mode={'rwc' if lock else 'rw'}"
        try:
            self._db = sqlite3.connect(address, timeout=30, isolation_level=None, uri=True, check_same_thread=False)
            self._db.execute("PRAGMA foreign_keys = ON")
            if lock:
                self._prepare()
            self.config: Mapping[str, Any] = json.loads(self._meta("config"))
            if self._meta("schema") != SCHEMA:
                raise UnreadableLedger(
                    f"{directory / FILE} has schema {self._meta('schema')}, this version reads "
                    f"{SCHEMA}: install the version that wrote it"
                )
        except (sqlite3.DatabaseError, TypeError) as error:
            raise UnreadableLedger(f"{directory / FILE} must be a ledger of this program: {error}") from None

    @classmethod
    def create(cls, directory: Path, config: Mapping[str, Any]) -> Ledger:
        """Makes the ledger of a new search, or opens the one that has this very configuration.

        Raises:
            ConfigMismatch: the search exists with another configuration.
            SearchLocked: another process runs it.
            UnreadableLedger: the directory cannot be written.
        """
        if (directory / FILE).exists():
            ledger = cls.open(directory)
            if ledger.config != config:
                ledger.close()
                raise ConfigMismatch(
                    f"search {directory.name} exists with another configuration ({_difference(ledger.config, config)}): "
                    "resume it as it is, or choose another name"
                )
            return ledger
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnreadableLedger(f"{directory} must be a writable directory: {error.strerror}") from None
        lock = _locked(directory)
        partial = directory / f"{FILE}.new"
        partial.unlink(missing_ok=True)
        db = sqlite3.connect(partial)
        with db:
            db.executescript(files("search").joinpath("schema.sql").read_text())
            db.executemany("INSERT INTO meta VALUES (?, ?)", [("schema", SCHEMA), ("config", records.dump(config))])
        db.close()
        partial.rename(directory / FILE)
        return cls(directory, lock)

    @classmethod
    def open(cls, directory: Path) -> Ledger:
        """Opens a search to go on with it.

        Raises:
            SearchMissing: there is none.
            SearchLocked: another process runs it.
            UnreadableLedger: the file is not a ledger of this version.
        """
        _present(directory)
        return cls(directory, _locked(directory))

    @classmethod
    def read(cls, directory: Path) -> Ledger:
        """Opens a search to look at it, while it may be running; writes nothing but the outbox.

        Raises:
            SearchMissing: there is none.
            UnreadableLedger: the file is not a ledger of this version.
        """
        _present(directory)
        return cls(directory, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file and gives the lock back."""
        self._db.close()
        if self._lock:
            self._lock.close()

    # --- writing -----------------------------------------------------------------------------------------------------

    def asked(self, candidate: Candidate, twin_key: str, elapsed: float) -> None:
        """Records that a strategy proposed a candidate."""
        genome = (candidate.genome.digest, candidate.genome.to_json().decode())
        row = (
            candidate.number,
            candidate.genome.digest,
            records.edits_json(candidate),
            records.fidelity_json(candidate),
        )
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO genome VALUES (?, ?)", genome)
            db.execute("INSERT INTO candidate VALUES (?, ?, ?, ?, ?, 0)", (*row, twin_key))
            parents = [(candidate.number, rank, parent) for rank, parent in enumerate(candidate.parents)]
            db.executemany("INSERT INTO parent VALUES (?, ?, ?)", parents)
            self._event(db, "ask", candidate.number, elapsed)

    def attempted(self, number: int) -> int:
        """Records that an evaluation starts and returns how many attempts that makes."""
        with self._transaction() as db:
            db.execute("UPDATE candidate SET attempts = attempts + 1 WHERE number = ?", (number,))
            return int(db.execute("SELECT attempts FROM candidate WHERE number = ?", (number,)).fetchone()[0])

    def told(self, evaluation: Evaluation, elapsed: float) -> None:
        """Records what became of a candidate, and that tracking is to hear of it, in one transaction."""
        record = records.evaluation_json(evaluation)
        row = (evaluation.number, evaluation.status, evaluation.weights, evaluation.twin, record)
        with self._transaction() as db:
            db.execute("INSERT INTO evaluation VALUES (?, ?, ?, ?, ?)", row)
            values = [(evaluation.number, name, value) for name, value in evaluation.objectives.items()]
            db.executemany("INSERT INTO objective VALUES (?, ?, ?)", values)
            db.execute("INSERT INTO outbox VALUES (?, NULL)", (evaluation.number,))
            self._event(db, "tell", evaluation.number, elapsed)

    def mark_sent(self, number: int, external_id: str) -> None:
        """Records the id under which tracking now shows an evaluation."""
        with self._transaction() as db:
            db.execute("UPDATE outbox SET external_id = ? WHERE number = ?", (external_id, number))

    # --- reading -----------------------------------------------------------------------------------------------------

    def events(self) -> Iterator[Event]:
        """Returns the asks and tells in their order."""
        candidates, evaluations = self.candidates(), self.evaluations()
        for kind, number in self._db.execute("SELECT kind, number FROM event ORDER BY seq").fetchall():
            yield Event(candidates[number], evaluations[number] if kind == "tell" else None)

    def candidates(self, numbers: Iterable[int] | None = None) -> dict[int, Candidate]:
        """Returns all candidates, or those of the given numbers, by number."""
        where, chosen = _among("c.number", numbers)
        parents: dict[int, tuple[int, ...]] = {}
        for child, parent in self._db.execute("SELECT child, parent FROM parent ORDER BY child, rank"):
            parents[child] = (*parents.get(child, ()), parent)
        query = f"SELECT c.number, g.json, c.edits, c.fidelity FROM candidate c JOIN genome g ON g.digest = c.genome {where}"
        rows = self._db.execute(f"{query} ORDER BY c.number", chosen)
        return {
            n: records.candidate(n, genome, parents.get(n, ()), edits, fidelity) for n, genome, edits, fidelity in rows
        }

    def candidate(self, number: int) -> Candidate:
        """Returns one candidate.

        Raises:
            SearchMissing: there is none of this number.
        """
        if found := self.candidates([number]).get(number):
            return found
        last = self._db.execute("SELECT max(number) FROM candidate").fetchone()[0]
        raise SearchMissing(f"the search has candidates 0 to {last}, got {number}")

    def evaluations(self, numbers: Iterable[int] | None = None) -> dict[int, Evaluation]:
        """Returns all evaluations, or those of the given numbers, by number."""
        where, chosen = _among("number", numbers)
        rows = self._db.execute(f"SELECT number, record FROM evaluation {where} ORDER BY number", chosen)
        return {number: records.evaluation(record) for number, record in rows}

    def pending(self) -> list[int]:
        """Returns the numbers that were asked and not told."""
        rows = self._db.execute("SELECT number FROM candidate EXCEPT SELECT number FROM evaluation ORDER BY number")
        return [number for (number,) in rows]

    def ancestors(self, number: int) -> list[int]:
        """Returns the numbers of all ancestors, oldest first."""
        rows = self._db.execute(
            "WITH RECURSIVE up (n) AS (SELECT ? UNION SELECT parent FROM parent JOIN up ON child = n) "
            "SELECT n FROM up WHERE n <> ? ORDER BY n",
            (number, number),
        )
        return [ancestor for (ancestor,) in rows]

    def twin(self, twin_key: str) -> int | None:
        """Returns the first candidate under this key that was trained with success."""
        row = self._db.execute(
            "SELECT number FROM candidate JOIN evaluation USING (number) "
            "WHERE twin_key = ? AND status = 'ok' AND twin IS NULL ORDER BY number",
            (twin_key,),
        ).fetchone()
        return row[0] if row else None

    def front(self, names: Sequence[str]) -> list[int]:
        """Returns the numbers of the evaluations that none other dominates in these objectives (minimised)."""
        values: dict[int, dict[str, float]] = {}
        for number, name, value in self._db.execute("SELECT number, name, value FROM objective"):
            values.setdefault(number, {})[name] = value
        points = sorted((tuple(v[name] for name in names), n) for n, v in values.items() if set(names) <= set(v))
        kept: list[tuple[tuple[float, ...], int]] = []
        for point, number in points:  # sorted, so only earlier points can dominate a later one; equal ones stay out
            if not any(all(a <= b for a, b in zip(other, point, strict=True)) for other, _ in kept):
                kept.append((point, number))
        return [number for _, number in kept]

    def spent(self) -> Spent:
        """Returns what was used so far."""
        asked, elapsed = self._db.execute(
            "SELECT (SELECT count(*) FROM candidate), (SELECT max(elapsed) FROM event)"
        ).fetchone()
        told, failed, examples, seconds = self._db.execute(
            "SELECT count(*), coalesce(sum(status <> 'ok'), 0), coalesce(sum(record ->> '$.cost.examples'), 0), "
            "coalesce(sum(record ->> '$.cost.seconds'), 0) FROM evaluation"
        ).fetchone()
        return Spent(asked, told, failed, examples, seconds, elapsed or 0.0)

    def attempts(self, number: int) -> int:
        """Returns how often the evaluation of a candidate was started."""
        return int(self._db.execute("SELECT attempts FROM candidate WHERE number = ?", (number,)).fetchone()[0])

    def unsent(self, limit: int) -> list[int]:
        """Returns the numbers of evaluations that tracking has not shown yet, oldest first."""
        rows = self._db.execute("SELECT number FROM outbox WHERE external_id IS NULL ORDER BY number LIMIT ?", (limit,))
        return [number for (number,) in rows]

    def external_ids(self, numbers: Iterable[int]) -> dict[int, str]:
        """Returns tracking's ids of those of the given evaluations that it shows."""
        where, chosen = _among("number", numbers)
        rows = self._db.execute(f"SELECT number, external_id FROM outbox {where}", chosen)
        return {number: external for number, external in rows if external}

    # --- inside ------------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")

    def _meta(self, key: str) -> str:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else ""

    def _event(self, db: sqlite3.Connection, kind: str, number: int, elapsed: float) -> None:
        db.execute("INSERT INTO event (kind, number, elapsed) VALUES (?, ?, ?)", (kind, number, elapsed))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE):
                raise DiskFull(f"the ledger could not be written ({error}): make room, then resume") from None
            raise


def _present(directory: Path) -> None:
    if not (directory / FILE).is_file():
        others = sorted(path.parent.name for path in directory.parent.glob(f"*/{FILE}"))
        raise SearchMissing(
            f"there is no search {directory.name} in {directory.parent}; there are: {', '.join(others) or 'none'}"
        )


def _locked(directory: Path) -> IO[str]:
    try:
        lock = (directory / "lock").open("a+")
    except OSError as error:
        raise UnreadableLedger(f"{directory} must be writable: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        owner = lock.read().strip()
        lock.close()
        raise SearchLocked(
            f"search {directory.name} is being run by {owner or 'another process'}: wait for it or stop it"
        ) from None
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}")
    lock.flush()
    return lock


def _among(column: str, numbers: Iterable[int] | None) -> tuple[str, list[str]]:
    if numbers is None:
        return "", []
    return f"WHERE {column} IN (SELECT value FROM json_each(?))", [json.dumps(list(numbers))]


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    return ", ".join(f"{key} is {old.get(key)!r}, not {new.get(key)!r}"[:160] for key in changed)
