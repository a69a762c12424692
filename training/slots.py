"""Slots: the places in which children are trained, one at a time in each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """Room for one child at a time.

    Attributes:
        name: unlike all others, beginning with the device's kind, such as `cpu:0`, or `cuda:1/2` for the third slot of
            the second device.
        device: as torch names it: `cpu`, or `cuda:1`.
        share: of the device's memory that a child may use, above 0 and at most 1; nothing holds a child on the CPU to
            it.
        warm: whether one process is kept for all its children, since a CUDA context takes seconds to make.
    """

    name: str
    device: str = "cpu"
    share: float = 1.0
    warm: bool = False

    def __post_init__(self) -> None:
        """Refuses a share that is none."""
        if not 0 < self.share <= 1:
            raise ValueError(f"the share of slot {self.name} must be above 0 and at most 1, got {self.share}")

    @property
    def kind(self) -> str:
        """The kind of its device: `cpu` or `cuda`."""
        return self.device.split(":")[0]

    def whole(self) -> Slot:
        """Returns the slot that is all of this one's device, for one child in a process of its own."""
        return Slot(f"{self.device} alone", self.device)


def remote_slots(kind: str, count: int) -> tuple[Slot, ...]:
    """Returns what stands for the slots of other machines on this one: as many children may be under way.

    Args:
        kind: of the devices there.
        count: how many.
    """
    return tuple(Slot(f"{kind}:remote/{number}", kind) for number in range(count))


def kind_of(name: str) -> str:
    """Returns the kind of device that a slot of this name is on: `cpu` or `cuda`."""
    return re.split("[: ]", name)[0]


def cores() -> int:
    """Returns how many cores this process may use, which is fewer than there are in many a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_slots(count: int | None = None) -> tuple[Slot, ...]:
    """Returns slots of one thread each; without a count, one for each core that this process may run on."""
    return tuple(Slot(f"cpu:{number}") for number in range(count or cores()))


def cuda_slots(devices: Iterable[int], per_device: int) -> tuple[Slot, ...]:
    """Returns warm slots that divide each device evenly, one of each device before the second of any.

    Args:
        devices: their indices.
        per_device: how many slots share a device.
    """
    return tuple(
        Slot(f"cuda:{device}/{place}", f"cuda:{device}", 1 / per_device, warm=True)
        for place in range(per_device)
        for device in devices
    )
