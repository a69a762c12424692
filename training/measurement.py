"""LatencySettings: how the latency of a network is measured; a value without torch, so that configurations hold it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

LATENCY = ("latency_seconds", "latency_ratio")  # objectives that are measured only if one of them is asked for


@dataclass(frozen=True)
class LatencySettings:
    """How often a network is run, and on how much.

    Attributes:
        batch_size: images a run; 1 is a user who waits for one answer.
        repeats: timed runs, the shortest of which counts; 30 agree to a few per cent where the mean does not.
        warmup: runs before those, which are not timed.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    batch_size: int = 1
    repeats: int = 30
    warmup: int = 5

    def __post_init__(self) -> None:
        """Refuses numbers outside their ranges."""
        for name, (low, high) in {"batch_size": (1, 4096), "repeats": (5, 10_000), "warmup": (1, 1_000)}.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"latency.{name} must be in [{low}, {high}], got {getattr(self, name)}")
