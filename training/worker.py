"""Isolation: one process for each child, from a server that has torch loaded; whatever ends it is one failed child.

A forkserver child takes 30 ms of hand-over, since torch is imported once. It leads a process group of its own, and a
thread in it waits for the death of the process that asked: after `kill -9` of a search nothing is left. Results come
by file, under a name that only a whole file gets, and count only if the child ended well.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from search import CorruptWeights, DiskFull, Status
from training.errors import DataError, NonFinite, TrainingError, line

CONTEXT = multiprocessing.get_context("forkserver")
PRELOAD = ["torch", "torch._dynamo", "training.trainer"]  # the first optimiser imports torch._dynamo, 1.7 s
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it cuBLAS may give other last bits each time
    "TORCH_CUDNN_V8_API_LRU_CACHE_LIMIT": "1000",  # plans of convolutions; torch keeps ten times as many, for gigabytes
    # keeps freed blocks: evaluation is 1.2 to 1.8 times, training 1.0 to 1.1 times as fast (Zen 4, 6 networks)
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}
# Of multiprocessing's list of children: a start looks who of them ended, and two who read the same exit code at a time
# make it 255, the code of a lost server.
CHILDREN = threading.Lock()
NO_ROOM = 75  # an exit code: EX_TEMPFAIL of sysexits.h
NO_MEMORY = (  # outside of torch's allocator of a device: of its context, of its libraries, of the processor
    "can't allocate memory",
    "CUDA error: out of memory",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_INTERNAL_ERROR",  # cuDNN loads its kernels when they are first wanted
)
# Of a device, or of a lack of memory that torch does not tell as such: no fault of the network that was tried there.
FAULTS = (
    "unable to find an engine",
    "cudaGetDeviceCount",
    "could not create a primitive",
    "cuDNN error",
    "cuDNN Frontend error",
    "CUBLAS_STATUS_",
    "CUDA driver error",
    "No CUDA GPUs",
    "NVIDIA driver",
)
SECONDS_TO_DIE = 30.0  # after SIGKILL; a process that hangs in a driver does not heed even that
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Outcome:
    """How a child ended.

    Attributes:
        status: `ok`, or the kind of failure.
        seconds: of processor time that it took; of wall clock if it was killed.
        reason: why it failed, in one line.
        value: what the function returned, JSON values; empty unless `ok`.
    """

    status: Status
    seconds: float
    reason: str = ""
    value: Mapping[str, Any] = field(default_factory=dict)


def preload() -> None:
    """Starts the server that children are forked from, and returns while it imports torch; once is enough."""
    with CHILDREN:
        CONTEXT.set_forkserver_preload(PRELOAD)
        before = {name: os.environ.get(name) for name in ENVIRONMENT}
        os.environ.update(ENVIRONMENT)
        try:
            forkserver.ensure_running()
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def run_isolated(function: Callable[..., Mapping[str, Any]], *arguments: Any, result: Path, timeout: float) -> Outcome:
    """Runs a function in a process of its own, on one thread; never raises for what happens in there.

    Args:
        function: of an importable module; takes and returns JSON values; what it raises becomes a status.
        *arguments: for it.
        result: the file that its outcome is written to.
        timeout: in seconds from its start, after which the process and all that it started are killed.
    """
    result.unlink(missing_ok=True)
    process = CONTEXT.Process(target=_work, args=(function, arguments, result), daemon=False)
    try:
        start(process)
    except (OSError, EOFError) as error:
        return unstarted(error)
    begun = time.monotonic()
    try:
        if not wait([process.sentinel], timeout):
            return timed_out(time.monotonic() - begun, timeout)
        return ended(exit_code(process), result, time.monotonic() - begun)
    finally:
        kill(process)


def unstarted(error: BaseException) -> Outcome:
    """Returns the outcome of what could not be started: the server died as it forked, or there was no room for more."""
    return Outcome("lost", 0.0, f"no process could be started: {error or type(error).__name__}")


def timed_out(seconds: float, timeout: float) -> Outcome:
    """Returns the outcome of what was killed for its slowness."""
    return Outcome("timeout", seconds, f"killed after {timeout:g} s")


def landed(result: Path) -> Outcome | None:
    """Returns the outcome in a file; None if there is no file, or none that is whole."""
    try:
        document = json.loads(result.read_bytes())
    except (OSError, ValueError):
        return None
    known = {entry.name for entry in fields(Outcome)}
    return Outcome(**document) if isinstance(document, dict) and set(document) == known else None


def failure(error: BaseException) -> tuple[Status, str]:
    """Returns the status and the reason, in one line, of what was raised in a child."""
    words = line(error)
    full = isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno in DISK_FULL)
    short = isinstance(error, RuntimeError) and any(sign in str(error) for sign in NO_MEMORY)
    if short or isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "out_of_memory", words
    broken = isinstance(error, torch.AcceleratorError | torch.cuda.DeferredCudaCallError)
    if broken or any(sign in str(error) for sign in FAULTS):
        return "lost", words
    if isinstance(error, OSError | DiskFull | CorruptWeights | DataError):
        return "io_error", f"disk full: {words}" if full else words
    if isinstance(error, NonFinite):
        return "non_finite", words
    return "build_error", words if isinstance(error, TrainingError) else f"{type(error).__name__}: {words}"


def isolate() -> None:
    """Makes this process one that leads its own group, follows its parent into death, and has one torch thread."""
    os.setsid()
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()
    torch.set_num_threads(1)


def answer(
    function: Callable[..., Mapping[str, Any]], arguments: tuple[Any, ...], result: Path, begun: float = 0.0
) -> None:
    """Runs a function and writes its outcome; `begun` is the processor time that this process had used before."""
    status: Status = "ok"
    reason, value = "", dict[str, Any]()
    try:
        value = dict(function(*arguments))
    except Exception as error:  # whatever it is, it is the outcome
        status, reason = failure(error)
    try:
        _write(Outcome(status, time.process_time() - begun, reason, value), result)
    except OSError as error:  # not even this can be written; the exit code can be told
        os._exit(NO_ROOM if error.errno in DISK_FULL else 1)


def _work(function: Callable[..., Mapping[str, Any]], arguments: tuple[Any, ...], result: Path) -> None:
    isolate()
    answer(function, arguments, result)


def _write(outcome: Outcome, result: Path) -> None:
    partial = result.with_suffix(".partial")
    with partial.open("w") as file:
        json.dump(asdict(outcome), file)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(result)


def _follow(parent: int) -> None:
    """Waits for the death of the parent and follows it, with the whole group."""
    wait([parent])
    os.killpg(0, signal.SIGKILL)


def start(process: ForkServerProcess) -> None:
    """Starts a process without letting it import `__main__`, which is a command line or a Prefect engine."""
    preload()  # a server that died would come back without its environment
    main = vars(sys.modules["__main__"])
    with CHILDREN:
        kept: dict[str, Any] = {name: main[name] for name in ("__spec__", "__file__") if name in main}
        main.update(dict[str, Any].fromkeys(kept))
        try:
            process.start()
        finally:
            main.update(kept)


def exit_code(process: ForkServerProcess) -> int:
    """Returns the exit code of a process that has ended or is about to."""
    if not wait([process.sentinel], SECONDS_TO_DIE):
        return -signal.SIGKILL  # which it is about to get
    with CHILDREN:
        process.join()
        return process.exitcode or 0


def ended(code: int, result: Path, seconds: float) -> Outcome:
    """Returns the outcome of a process that ended, by its exit code and by what it wrote."""
    if code == NO_ROOM:
        return Outcome("io_error", seconds, "disk full: there was no room for the result")
    if code < 0:
        return Outcome("killed", seconds, f"died of {_named(-code)}")
    if code > 0:
        return Outcome("lost", seconds, f"ended with exit code {code}")
    return landed(result) or Outcome("lost", seconds, "ended without a result")


def _named(number: int) -> str:
    """Returns what a signal is called; those of real time have no names."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def kill(process: ForkServerProcess) -> None:
    """Kills what is left of the group, also of a process that has ended, and forgets the process.

    One that cannot die is left alone, so that no other slot waits for it.
    """
    assert process.pid is not None
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()  # it has no group of its own yet, or is gone
    if wait([process.sentinel], SECONDS_TO_DIE):
        with CHILDREN:
            process.join()
            process.close()
