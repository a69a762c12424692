"""Latency: how long one forward pass takes here, next to what a network that never changes takes here and now."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from training.measurement import LatencySettings

SEED = 0  # of the images, whose values do not matter, and of the reference network's weights
CPU = torch.device("cpu")
REFERENCE_SHAPE = (1, 28, 28)


@dataclass(frozen=True)
class Latency:
    """Two times that were taken in turns, so that whatever slows the machine slows both.

    Attributes:
        seconds: of the network's shortest run.
        reference_seconds: of the reference network's shortest run.
    """

    seconds: float
    reference_seconds: float

    @property
    def objectives(self) -> dict[str, float]:
        """The numbers to minimise: the time, and the same in times of the reference network."""
        return {"latency_seconds": self.seconds, "latency_ratio": self.seconds / self.reference_seconds}


@torch.inference_mode()
def latency(
    network: nn.Module, shape: tuple[int, ...], settings: LatencySettings, device: torch.device = CPU
) -> Latency:
    """Returns the latency of a network: float32, eval mode, channels last, on as many threads as are set.

    Candidate and reference alternate run by run. The minimum counts, since whatever else happens on a machine only
    adds time. Nothing else should run on the device meanwhile: see `training.stillness`.

    Args:
        network: takes images `[N, C, H, W]`; it is moved to the device and stays there.
        shape: of an image, `[C, H, W]`.
        settings: how often, and on how many images.
        device: CPU or CUDA; on CUDA the device's own clock is read, between synchronisations, so that waiting for
            launches counts, which is most of a small network's time.
    """
    generator = torch.Generator().manual_seed(SEED)
    subjects = [(network, shape), (reference(), REFERENCE_SHAPE)]
    runs = [_run(subject, (settings.batch_size, *wanted), generator, device) for subject, wanted in subjects]
    timed = _cuda_seconds if device.type == "cuda" else _seconds
    for _ in range(settings.warmup):
        _rounds(runs, timed)
    taken = [_rounds(runs, timed) for _ in range(settings.repeats)]
    return Latency(*(min(times) for times in zip(*taken, strict=True)))


def reference() -> nn.Sequential:
    """Returns the network that all are compared with, on every machine and in every search."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 10),
        )


def machine(settings: LatencySettings, device: torch.device = CPU) -> dict[str, str]:
    """Returns what a latency was measured on and how; without it the number means nothing."""
    cuda = device.type == "cuda"
    return {
        "processor": torch.cuda.get_device_name(device) if cuda else processor(),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "precision": "float32",
        "batch_size": str(settings.batch_size),
        "repeats": str(settings.repeats),
    }


def processor(facts: Path = Path("/proc/cpuinfo")) -> str:
    """Returns the processor's name and number of cores, as the system tells them."""
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def _run(
    network: nn.Module, shape: tuple[int, ...], generator: torch.Generator, device: torch.device
) -> Callable[[], Tensor]:
    images = torch.randn(shape, generator=generator).to(device, memory_format=torch.channels_last)
    ready = network.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return lambda: ready(images)


def _rounds(runs: Sequence[Callable[[], Tensor]], timed: Callable[[Callable[[], Tensor]], float]) -> list[float]:
    return [timed(run) for run in runs]


def _seconds(run: Callable[[], Tensor]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def _cuda_seconds(run: Callable[[], Tensor]) -> float:
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    begun.record()
    run()
    ended.record()
    torch.cuda.synchronize()
    return begun.elapsed_time(ended) / 1000  # type: ignore[no-any-return]
