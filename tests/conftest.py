"""What holds for all tests."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the other cores are for the tests beside

MEMORY = Path("/dev/shm")
FIRST = ("test_kill.py", "test_demo.py")  # they take minutes, in which the others can be done

# A shell that starts a program in the background has it ignore Ctrl-C, and all that it starts too. Tests stop servers
# and searches by that signal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first."""
    items.sort(key=lambda item: item.path.name not in FIRST)


@pytest.fixture
def place() -> Iterator[Path]:
    """Yields a directory in memory where the system has one: hundreds of searches flush every step."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
        yield Path(directory)
