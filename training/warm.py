"""A warm worker: one process that runs one function after another, for where a new one takes seconds to start.

It is isolated as `run_isolated` isolates: it leads a group of its own, dies with the process that asked, and answers
by file. After anything but a success it is killed with all that it started, and the next function gets a new one; also
after a step could not be captured, since older torch then neither captures another one nor frees memory.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from training.captured import BROKEN
from training.worker import (
    CONTEXT,
    Outcome,
    answer,
    ended,
    exit_code,
    isolate,
    kill,
    landed,
    start,
    timed_out,
    unstarted,
)

LANDED, WORN = b"landed", b"worn"  # that a result is there, and that it was the last one of this process


class WarmWorker:
    """Runs functions in one process, one at a time; may be closed from another thread at any time.

    What a function starts and leaves behind dies with the process, not with the function.
    """

    def __init__(self) -> None:
        """Starts nothing yet."""
        self._process: ForkServerProcess | None = None
        self._requests: Connection | None = None
        self._busy = threading.Lock()

    def run(self, function: Callable[..., Mapping[str, Any]], *arguments: Any, result: Path, timeout: float) -> Outcome:
        """Runs a function, as `run_isolated` does, in the process of the last success or else in a new one.

        Args:
            function: of an importable module; takes and returns JSON values; what it raises becomes a status.
            *arguments: for it.
            result: the file that its outcome is written to.
            timeout: in seconds, after which the process and all that it started are killed.
        """
        with self._busy:
            result.unlink(missing_ok=True)
            try:
                outcome = self._asked((function, arguments, result), result, timeout)
            except BaseException:
                self._discard()
                raise
            if outcome.status != "ok":
                self._discard()
            return outcome

    def close(self) -> None:
        """Kills the process, if there is one; a function in it is killed, and the next one gets a new process."""
        while not self._busy.acquire(timeout=0.05):  # whoever waits for the process gives the lock back
            if (process := self._process) and process.pid:  # it may only just be starting
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
        try:
            self._discard()
        finally:
            self._busy.release()

    def _asked(self, request: tuple[Any, ...], result: Path, timeout: float) -> Outcome:
        try:
            process, requests = self._ready()
        except (OSError, EOFError) as error:
            return unstarted(error)
        begun = time.monotonic()
        try:
            requests.send(request)
            if not wait([requests, process.sentinel], timeout):
                return timed_out(time.monotonic() - begun, timeout)
            if requests.recv_bytes() == WORN:
                self._discard()
        except (EOFError, OSError):  # it died; what it wrote before does not count
            result.unlink(missing_ok=True)
            return ended(exit_code(process), result, time.monotonic() - begun)
        return landed(result) or Outcome("lost", time.monotonic() - begun, "ended without a result")

    def _ready(self) -> tuple[ForkServerProcess, Connection]:
        """Returns the process and the pipe to it; one that died since is replaced."""
        if self._process and not self._process.is_alive():
            self._discard()
        if self._process is None or self._requests is None:
            self._requests, theirs = CONTEXT.Pipe()
            self._process = CONTEXT.Process(target=_serve, args=(theirs,), daemon=True)  # or exit waits for it
            start(self._process)
            theirs.close()
        return self._process, self._requests

    def _discard(self) -> None:
        process, self._process = self._process, None
        requests, self._requests = self._requests, None
        if process and process.pid:
            kill(process)
        if requests:
            requests.close()


def _serve(requests: Connection) -> None:
    """Answers requests until the pipe is closed."""
    isolate()
    while True:
        try:
            function, arguments, result = requests.recv()
        except EOFError:
            return
        answer(function, arguments, result, time.process_time())
        requests.send_bytes(WORN if BROKEN else LANDED)
