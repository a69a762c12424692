"""Isolation: one process for each job, from a server that has torch loaded; whatever kills it is one failed job.

A forkserver child starts in about 20 ms, since torch is imported once. It leads a process group of its own, and a thread in
it waits for the death of the process that asked: after `kill -9` of a search nothing is left. Results come by file,
under a name that only a whole file gets, and count only if the child ended well.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
PRELOAD = ["torch", "torch._dynamo", "training.trainer"]
STARTING = threading.Lock()

Job = Mapping[str, Any]


def preload() -> None:
    """Names what the server imports once; to be called before the first job."""
    CONTEXT.set_forkserver_preload(PRELOAD)


def isolated(function: Callable[[Job], Job], job: Job, result: Path, timeout: float) -> Job:
    """Runs a function of a module in a process of its own.

    Args:
        function: takes and returns JSON values; what it raises fails the job.
        job: its argument.
        result: where its value is to be written.
        timeout: in seconds, after which the process and all that it started are killed.

    Returns:
        the function's value, or `{"status": "killed" | "timeout" | "lost", "reason": …}`.
    """
    process = CONTEXT.Process(target=_work, args=(function, job, result), daemon=False)
    _start(process)
    try:
        if not wait([process.sentinel], timeout):
            return {"status": "timeout", "reason": f"killed after {timeout:.0f} s"}
        process.join()
        if process.exitcode:
            return {"status": "killed", "reason": _death(process.exitcode)}
        return landed(result) or {"status": "lost", "reason": "the process ended without a result"}
    finally:
        _kill(process)


def landed(result: Path) -> Job | None:
    """Returns what is in a result file; None if there is none, or none that is whole."""
    try:
        document = json.loads(result.read_bytes())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def _work(function: Callable[[Job], Job], job: Job, result: Path) -> None:
    os.setsid()
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()
    partial = result.with_suffix(".partial")
    with partial.open("w") as file:
        json.dump(function(job), file)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(result)


def _follow(parent: int) -> None:
    """Waits for the death of the parent and follows it, with the whole group."""
    wait([parent])
    os.killpg(0, signal.SIGKILL)


def _start(process: ForkServerProcess) -> None:
    """Starts a process without letting it import `__main__`, which is a command line or a Prefect engine."""
    main = sys.modules["__main__"]
    with STARTING:
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        main.__spec__ = main.__file__ = None
        try:
            process.start()
        finally:
            main.__spec__, main.__file__ = spec, file


def _kill(process: ForkServerProcess) -> None:
    if process.pid is None:
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()  # it has no group of its own yet, or is gone
    process.join()
    process.close()


def _death(exit_code: int) -> str:
    return f"died of {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with exit code {exit_code}"
