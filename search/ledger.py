"""Ledger: the truth about one search, in one SQLite file with one writer.

Every ask and every tell is one transaction and one event of one sequence, so that a process killed at any instant
leaves a prefix of the undisturbed sequence, which resuming replays. Readers need no lock. A tell waits until it is on
the disk, with all before it; an ask does not, for what a power cut takes of it is asked for again.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

from search import records
from search.errors import ConfigMismatch, NewerSchema, SearchLocked, SearchMissing, UnreadableLedger
from search.files import PARTIAL, make, write
from search.lock import locked
from search.protocol import Candidate, Evaluation
from search.transactions import transaction
from search.view import View

SCHEMA = 4
FILE = "ledger.sqlite"


class Ledger(View):
    """An open ledger; use it as a context manager. One thread at a time; a second thread opens its own with `read`.

    Attributes:
        directory: of the search.
        config: the search's configuration, as JSON values.
    """

    def __init__(self, directory: Path, lock: BinaryIO | None) -> None:
        """Opens the file, for writing if a lock is given; `create`, `open` and `read` are the ways in."""
        self.directory, self._lock, self._epoch = directory, lock, 0
        # Never "rwc": a file that is not there must not be made, empty, by whoever only looks. Where nothing can be
        # written, as in a backup, nobody else writes either, and a reader needs no files of its own beside this one.
        sealed = not (lock or os.access(directory, os.W_OK) or (directory / f"{FILE}-wal").exists())
        address = f"{(directory / FILE).absolute().as_uri()}?{'mode=ro&immutable=1' if sealed else 'mode=rw'}"
        try:
            self._db = sqlite3.connect(address, timeout=30, isolation_level=None, uri=True, check_same_thread=False)
        except sqlite3.Error as error:
            self._release()
            raise UnreadableLedger(f"{directory / FILE} must be a readable file: {error}") from None
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            self.close()
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_CANTOPEN:
                raise UnreadableLedger(f"{directory} must be writable, since {FILE} has a log beside it") from None
            raise UnreadableLedger(
                f"{directory / FILE} must be a whole ledger of this program, restore a copy of it: {error}"
            ) from None
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, directory: Path, config: Mapping[str, Any], free: Sequence[str] = ()) -> Ledger:
        """Makes the ledger of a new search, or opens the one that has this configuration.

        Args:
            directory: of the search.
            config: as JSON values.
            free: the keys of it that may differ from those of the search that is there; the new values are kept.

        Raises:
            ConfigMismatch: the search exists with another configuration.
            SearchLocked: another process runs it.
            UnreadableLedger: the directory cannot be written, or what is there is not a ledger of this version.
            DiskFull: there is no room for it.
        """
        make(directory)
        lock = locked(directory)
        try:
            if not (directory / FILE).exists():
                _make(directory, config)
        except BaseException:
            lock.close()
            raise
        ledger = cls(directory, lock)
        try:
            ledger._agree(config, free)
        except BaseException:
            ledger.close()
            raise
        return ledger

    @classmethod
    def open(cls, directory: Path) -> Ledger:
        """Opens a search to go on with it.

        Raises:
            SearchMissing: there is none.
            SearchLocked: another process runs it.
            UnreadableLedger: the file is not a ledger of this version.
        """
        _present(directory)
        return cls(directory, locked(directory))

    @classmethod
    def read(cls, directory: Path) -> Ledger:
        """Opens a search to look at it, while it may be running; can write nothing but the outbox.

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
        self._release()

    def asked(self, candidate: Candidate, twin_key: str, elapsed: float) -> None:
        """Records that a strategy proposed a candidate; `elapsed` is the search's age in seconds."""
        number, genome = candidate.number, candidate.genome.digest
        trained = (records.fidelity_json(candidate), candidate.promotes)
        row = (number, genome, records.edits_json(candidate), *trained, records.identity(candidate), twin_key)
        with self._transaction(lasting=False) as db:
            db.executemany("INSERT OR IGNORE INTO genome VALUES (?, ?)", records.genomes(candidate).items())
            db.execute("INSERT INTO candidate VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            parents = [(number, rank, parent) for rank, parent in enumerate(candidate.parents)]
            db.executemany("INSERT INTO parent VALUES (?, ?, ?)", parents)
            self._event("ask", number, elapsed)

    def attempted(self, number: int) -> None:
        """Records that an evaluation starts."""
        with self._transaction(lasting=False):
            self._started(number)

    def failed(self, evaluation: Evaluation) -> None:
        """Records that an attempt failed and that the next one starts."""
        with self._transaction():
            self._ended(evaluation)
            self._started(evaluation.number)

    def told(self, evaluation: Evaluation, elapsed: float) -> None:
        """Records what became of a candidate, and that tracking is to hear of it, in one transaction."""
        number, record = evaluation.number, records.evaluation_json(evaluation)
        row = (number, evaluation.status, evaluation.weights, evaluation.twin, record)
        with self._transaction() as db:
            db.execute("INSERT INTO evaluation VALUES (?, ?, ?, ?, ?)", row)
            values = [(number, name, float(value)) for name, value in evaluation.objectives.items()]
            db.executemany("INSERT INTO objective VALUES (?, ?, ?)", values)
            db.execute("INSERT INTO outbox VALUES (?, NULL)", (number,))
            self._ended(evaluation)
            self._event("tell", number, elapsed)

    def aged(self, elapsed: float) -> None:
        """Records the search's age between events: a session may end, or be killed, long after its last one."""
        with self._transaction(lasting=False) as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('elapsed', ?)", (str(elapsed),))

    def pin(self, fact: str, value: str, what: str) -> None:
        """Records a fact that the whole search depends on, or compares it with what is recorded.

        Args:
            fact: its name.
            value: of it, now.
            what: should be as it was, in words.

        Raises:
            ConfigMismatch: it was another one.
        """
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (fact, value))
        if self._meta(fact) != value:
            raise ConfigMismatch(f"{what} must be what search {self.directory.name} began with: restore a copy of it")

    def mark_sent(self, number: int, external_id: str | None) -> None:
        """Records the id under which tracking now shows an evaluation; None if it does not show it any more.

        What a power cut takes of it is shown anew, in place of what stands there without a note.
        """
        with self._transaction(lasting=False) as db:
            db.execute("UPDATE outbox SET external_id = ? WHERE number = ?", (external_id, number))

    def _prepare(self) -> None:
        """Checks that this is a ledger; if it is open for writing, takes it over from whoever had it before."""
        schema = self._meta("schema")
        if schema != str(SCHEMA):
            raise NewerSchema(
                f"{self.directory / FILE} must have schema {SCHEMA} to be read by this version, it has {schema[:20]}: "
                "use the version that wrote it"
            )
        self.config = json.loads(self._meta("config"))
        self._db.execute("PRAGMA foreign_keys = ON")
        if self._lock:
            self._db.execute("PRAGMA journal_mode = WAL")
            if (damage := self._db.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(damage)
            self._take_over()

    def _take_over(self) -> None:
        epoch = int(self._meta("epoch")) + 1
        with self._transaction() as db:
            db.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (str(epoch),))
            db.execute("UPDATE attempt SET outcome = 'interrupted', ended = ? WHERE outcome IS NULL", (time.time(),))
        self._epoch = epoch

    def _agree(self, config: Mapping[str, Any], free: Sequence[str]) -> None:
        wanted = json.loads(records.dump(config))
        if changed := _difference(self.config, wanted, free):
            raise ConfigMismatch(
                f"search {self.directory.name} exists with another configuration ({changed}): "
                "resume it as it is, or choose another name"
            )
        if wanted != self.config:
            with self._transaction() as db:
                db.execute("UPDATE meta SET value = ? WHERE key = 'config'", (records.dump(wanted),))
            self.config = wanted

    def _meta(self, key: str) -> str:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise sqlite3.DatabaseError(f"no {key} in it")
        return str(row[0])

    def _event(self, kind: Literal["ask", "tell"], number: int, elapsed: float) -> None:
        self._db.execute("INSERT INTO event (kind, number, elapsed) VALUES (?, ?, ?)", (kind, number, elapsed))

    def _started(self, number: int) -> None:
        self._db.execute("INSERT INTO attempt (number, started) VALUES (?, ?)", (number, time.time()))

    def _ended(self, evaluation: Evaluation) -> None:
        ended = (evaluation.status, evaluation.reason, evaluation.slot, evaluation.cost.get("seconds"), time.time())
        self._db.execute(
            "UPDATE attempt SET outcome = ?, reason = ?, slot = ?, seconds = ?, ended = ? "
            "WHERE number = ? AND outcome IS NULL",
            (*ended, evaluation.number),
        )

    @contextmanager
    def _transaction(self, *, lasting: bool = True) -> Iterator[sqlite3.Connection]:
        """Begins a transaction that no end of a process undoes, and no power cut either if it is to be lasting."""
        self._db.execute(f"PRAGMA synchronous = {'FULL' if lasting else 'NORMAL'}")
        with transaction(self._db, "the ledger", "resume") as db:
            self._fence()
            yield db

    def _fence(self) -> None:
        """Refuses to write what another process has taken over, as after a removal of the lock file."""
        if self._epoch and self._meta("epoch") != str(self._epoch):
            raise SearchLocked(f"search {self.directory.name} was taken over by another process: stop this one")

    def _release(self) -> None:
        if self._lock:
            self._lock.close()


def _make(directory: Path, config: Mapping[str, Any]) -> None:
    """Writes the file of a new search, whole or not at all."""
    stale = [*directory.glob(f"{PARTIAL}*"), *directory.glob(f"{FILE}-*")]  # SQLite would replay another file's log
    for path in stale:
        path.unlink()
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(files("search").joinpath("schema.sql").read_text())
        values = [("schema", str(SCHEMA)), ("config", records.dump(config)), ("epoch", "0")]
        db.executemany("INSERT INTO meta VALUES (?, ?)", values)
        db.commit()
        write(directory / FILE, db.serialize())


def _present(directory: Path) -> None:
    if not (directory / FILE).is_file():
        others = sorted(path.parent.name for path in directory.parent.glob(f"*/{FILE}"))
        raise SearchMissing(
            f"there is no search {directory.name} in {directory.parent}; there are: {', '.join(others) or 'none'}"
        )


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], free: Sequence[str]) -> str:
    changed = sorted(key for key in {*old, *new} - set(free) if old.get(key) != new.get(key))
    return ", ".join(f"{key} is {old.get(key)!r}, not {new.get(key)!r}"[:200] for key in changed)
