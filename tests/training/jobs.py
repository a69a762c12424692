"""What isolated children run in the tests."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from training.captured import BROKEN
from training.child import evaluate
from training.errors import BuildError, DataError, NonFinite


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def value(number: int) -> dict[str, Any]:
    return {"doubled": 2 * number}


def process() -> dict[str, Any]:
    return {"process": os.getpid()}


def busy(seconds: float) -> dict[str, Any]:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return {}


def settings(names: list[str]) -> dict[str, Any]:
    return {"server": os.getppid(), "environment": {name: os.environ.get(name) for name in names}}


def surroundings() -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "openmp": os.environ.get("OMP_NUM_THREADS"),
        "leader": os.getpgid(0) == os.getpid(),
        "main": getattr(sys.modules["__main__"], "__file__", None),
    }


def first_step() -> dict[str, Any]:
    """Returns the large packages that the first optimiser step imports."""
    before = set(sys.modules)
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], 0.1, 0.9, nesterov=True)
    weight.sum().backward()
    optimizer.step()
    return {"imported": sorted(name for name in set(sys.modules) - before if name.startswith("torch._"))}


def killed() -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def killed_after_landing(result: str) -> dict[str, Any]:
    whole = '{"status": "ok", "seconds": 1.0, "reason": "", "value": {}}'
    Path(result).write_text(whole)
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def crashed() -> dict[str, Any]:
    os._exit(3)


def hanging(children: int = 0) -> dict[str, Any]:
    for _ in range(children):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    time.sleep(600)
    return {}


def leaving_a_thread_and_a_process() -> dict[str, Any]:
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    return {"left": process.pid}


def fitting_alone(request: Any, file: str, directory: str, device: str, share: float) -> dict[str, Any]:
    """Trains as `evaluate` does, if it has all of the device."""
    if share < 1:
        raise torch.OutOfMemoryError("CUDA out of memory. It is the fault of the others")
    return evaluate(request, file, directory, device, share)


def cramped(request: Any, file: str, directory: str, device: str, share: float) -> dict[str, Any]:
    """Trains as `evaluate` does, in a process that may grow by 272 MiB: malloc asks for 256 of them at once."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 272 * 2**20,) * 2)
    return evaluate(request, file, directory, device, share)


FAILURES = {
    "memory": MemoryError(),
    "tensor": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    "device": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 bytes"),
    "context": RuntimeError("CUDA error: out of memory"),
    "library": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "handle": RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    "workspace": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    "kernels": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    "plans": RuntimeError("cuDNN Frontend error: [cudnn_frontend] Error: No valid execution plans built."),
    "product": RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`"),
    "old": RuntimeError("The NVIDIA driver on your system is too old (found version 11040)."),
    "none": RuntimeError("No CUDA GPUs are available"),
    "primitive": RuntimeError("could not create a primitive"),
    "engine": RuntimeError("GET was unable to find an engine to execute this computation"),
    "fault": torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered\nmore of it"),
    "driver": torch.cuda.DeferredCudaCallError("CUDA call failed lazily at initialization with error: none"),
    "count": RuntimeError("Unexpected error from cudaGetDeviceCount()."),
    "non_finite": NonFinite("the loss must be finite"),
    "build": BuildError("weights must fit"),
    "bug": ZeroDivisionError("division by zero"),
    "disk": OSError(28, "No space left on device"),
    "file": FileNotFoundError(2, "No such file"),
    "data": DataError("removed"),
}


def breaking() -> dict[str, Any]:
    """Leaves a graph behind that could not be captured."""
    BROKEN.append(torch.cuda.CUDAGraph.__new__(torch.cuda.CUDAGraph))
    return process()


def failing(kind: str) -> dict[str, Any]:
    raise FAILURES[kind]


def allocating() -> dict[str, Any]:
    return {"size": torch.empty(2**55, dtype=torch.uint8).numel()}


def named(marker: str, directory: str) -> dict[str, Any]:
    """Tells its process number in a file, then hangs."""
    partial = Path(directory) / f"{marker}.partial"
    partial.write_text(str(os.getpid()))
    partial.rename(Path(directory) / marker)
    return hanging()


def without_room() -> dict[str, Any]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    return {}
