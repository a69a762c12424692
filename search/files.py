"""Files: written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from search.errors import DiskFull, UnreadableLedger

PARTIAL = "partial-"  # how the name of an unfinished file begins
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def room(what: str) -> Iterator[None]:
    """Turns the system's errors of a full disk into ours.

    Raises:
        DiskFull: `what` could not be written, for want of room.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DiskFull(
            f"{what} could not be written ({error.strerror}): make room, then resume; nothing is lost"
        ) from None


def make(directory: Path) -> None:
    """Makes a directory, if it is not there.

    Raises:
        UnreadableLedger: it cannot be made, or is a file.
        DiskFull: there is no room for it.
    """
    with room(str(directory)):
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise UnreadableLedger(f"{directory} must be a writable directory: {error.strerror}") from None


def write(path: Path, content: bytes) -> None:
    """Puts content under a name in one step: nobody sees a part of it, not even after a power failure.

    Raises:
        DiskFull: there is no room.
        OSError: it cannot be written for another reason.
    """
    with room(str(path)):
        handle, partial = tempfile.mkstemp(prefix=PARTIAL, dir=path.parent)  # new, and nobody else's (0600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(partial).rename(path)
        finally:
            Path(partial).unlink(missing_ok=True)
        _flush(path.parent)


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's content."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _flush(directory: Path) -> None:
    """Makes a rename in a directory durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
