"""Stillness: a device that many trainings share, and that one measurement at a time has to itself.

Two locks of the system, which gives them back when a process dies, however it dies:

    room   held in common by all who train, alone by who measures
    gate   held alone by who measures or waits for it; whoever wants into the room passes through it first

A training gives way before each step, where it costs two system calls if nobody waits: without the gate, two
trainings whose steps overlap would keep a measurement out for ever. So a measurement waits for the longest step of the
others at most (or for a phase without forward passes, such as certifying; on a CUDA device also for the steps that are
under way in it, an eighth of a training at most), and not for a whole training.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import nn

ROOM, GATE = "still.room", "still.gate"


class Stillness:
    """One process's place among those that share a device; use it as a context manager, which is in the room.

    Args:
        directory: where the two files are; the same for all that share the device.
    """

    def __init__(self, directory: Path) -> None:
        """Opens the files; each process, and each user of one, needs files of its own, since locks belong to them."""
        self._room, self._gate = (directory / ROOM).open("ab"), (directory / GATE).open("ab")

    def __enter__(self) -> Self:
        """Enters the room, behind whoever measures or waits for it."""
        fcntl.flock(self._gate, fcntl.LOCK_SH)
        fcntl.flock(self._room, fcntl.LOCK_SH)
        fcntl.flock(self._gate, fcntl.LOCK_UN)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the room."""
        self._room.close()
        self._gate.close()

    def give_way(self) -> None:
        """Lets a measurement go first, if one waits, as soon as all is done that was launched."""
        try:
            fcntl.flock(self._gate, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.synchronize()
            fcntl.flock(self._room, fcntl.LOCK_UN)
            self.__enter__()
        else:
            fcntl.flock(self._gate, fcntl.LOCK_UN)

    def attend(self, network: nn.Module) -> None:
        """Makes a network give way before each of its forward passes; a CUDA graph that is launched has none."""
        network.register_forward_pre_hook(lambda *_: self.give_way())

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Waits until all others stand still, and keeps them so within the block."""
        fcntl.flock(self._room, fcntl.LOCK_UN)  # first: another who measures waits for it with the gate in its hand
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._room, fcntl.LOCK_EX)
            yield
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)
            fcntl.flock(self._gate, fcntl.LOCK_UN)
            self.__enter__()
