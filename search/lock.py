"""Lock: one process at a time runs a search; the system gives the lock back when that process dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import BinaryIO, cast

from search.errors import SearchLocked, UnreadableLedger
from search.files import room

FILE = "lock"


def locked(directory: Path, what: str = "") -> BinaryIO:
    """Takes the lock of a search, or of a part of it; closing the returned file gives it back.

    Args:
        directory: that it is in.
        what: that only one process may do, in words; the search of this name by default.

    Raises:
        SearchLocked: another process has it; the message names that one.
        UnreadableLedger: the directory cannot be written.
        DiskFull: there is no room to write down who has it.
    """
    try:
        # Unbuffered, since closing a buffered file on a full disk fails again.
        lock = cast("BinaryIO", (directory / FILE).open("a+b", buffering=0))
    except OSError as error:
        raise UnreadableLedger(f"{directory} must be a writable directory: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = _owner(lock)
        lock.close()
        raise SearchLocked(
            f"{what or f'search {directory.name}'} must be run by one process at a time and is being run by {owner}: "
            "wait for it or stop it"
        ) from None
    try:
        with room(str(directory)):
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
    except BaseException:
        lock.close()
        raise
    return lock


def _owner(lock: BinaryIO) -> str:
    lock.seek(0)
    return lock.read().decode(errors="replace").strip() or "another process"
