"""Transactions: all of a change to an SQLite file or none of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from search.errors import DiskFull

NO_ROOM = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})  # a quota and a size limit look like an I/O error


@contextmanager
def transaction(db: sqlite3.Connection, what: str, then: str) -> Iterator[sqlite3.Connection]:
    """Commits what is done within the block, or undoes it if the block raises.

    Args:
        db: in autocommit mode.
        what: is written, in words.
        then: what to do when there is room.

    Raises:
        DiskFull: there is no room.
    """
    try:
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF in NO_ROOM:
            raise DiskFull(f"{what} could not be written ({error}): make room, then {then}") from None
        raise
