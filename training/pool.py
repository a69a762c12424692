"""Pool: gives each child a slot, or a whole device, and takes it back; for any number of threads."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Condition
from typing import Any

from training.errors import PoolClosed
from training.slots import Slot
from training.warm import WarmWorker
from training.worker import Outcome, run_isolated


@dataclass(frozen=True)
class Occupied:
    """A slot that is in use.

    Attributes:
        slot: its name.
        number: of the candidate in it.
        seconds: for how long.
    """

    slot: str
    number: int
    seconds: float


class Pool:
    """The slots of a search.

    Attributes:
        slots: all of them; the first free one is given out first.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        """Makes a pool; processes are started when they are needed.

        Raises:
            ValueError: no slot, two of one name, or slots of different kinds.
        """
        names, kinds = {slot.name for slot in slots}, {slot.kind for slot in slots}
        if len(names) < len(slots) or len(kinds) != 1:
            raise ValueError(f"slots must be of one kind and have different names, got {[slot.name for slot in slots]}")
        self.slots = tuple(slots)
        self._changed = Condition()
        self._held: dict[Slot, tuple[int, float]] = {}
        self._claims: Counter[str] = Counter()  # by device, of those who wait for all of it or have it
        self._workers = {slot: WarmWorker() for slot in slots if slot.warm}
        self._closed = False

    @property
    def kind(self) -> str:
        """The kind of the devices, `cpu` or `cuda`."""
        return self.slots[0].kind

    @contextmanager
    def one(self, number: int) -> Iterator[Slot]:
        """Waits for a slot and yields it.

        Args:
            number: of the candidate that it is for.

        Raises:
            PoolClosed: the pool was closed meanwhile.
        """
        with self._holding(number, self._free) as slot:
            yield slot

    @contextmanager
    def alone(self, slot: Slot, number: int) -> Iterator[Slot]:
        """Waits until a slot's device is empty and yields all of it; meanwhile none of its slots is given out.

        Args:
            slot: one of the device, which must have been given back.
            number: of the candidate that it is for.

        Raises:
            PoolClosed: the pool was closed meanwhile.
        """
        whole = slot.whole()
        with self._claiming(whole.device), self._holding(number, lambda: self._emptied(whole)):
            for own, worker in self._workers.items():
                if own.device == whole.device:
                    worker.close()  # an idle one holds memory too
            yield whole

    def run(
        self, slot: Slot, function: Callable[..., Mapping[str, Any]], *arguments: Any, result: Path, timeout: float
    ) -> Outcome:
        """Runs a function in a slot that was given out: in its warm worker, or in a process of its own.

        Args:
            slot: that `one` or `alone` yielded.
            function: see `run_isolated`.
            *arguments: for it.
            result: the file that its outcome is written to.
            timeout: in seconds.
        """
        worker = self._workers.get(slot)
        start = worker.run if worker else run_isolated
        return start(function, *arguments, result=result, timeout=timeout)

    def occupied(self) -> tuple[Occupied, ...]:
        """Returns who is where, and for how long, by the slots' names."""
        now = time.monotonic()
        with self._changed:
            held = [Occupied(slot.name, number, now - since) for slot, (number, since) in self._held.items()]
        return tuple(sorted(held, key=lambda one: one.slot))

    def close(self) -> None:
        """Ends the warm workers, and the waiting of all who wait: they get no slot any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for worker in self._workers.values():
            worker.close()

    @contextmanager
    def _holding(self, number: int, found: Callable[[], Slot | None]) -> Iterator[Slot]:
        """Waits until `found` returns a slot, and holds it."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or found() is not None)
            slot = found()
            if self._closed or slot is None:
                raise PoolClosed(f"candidate {number} must have a slot to be trained, the search has ended")
            self._held[slot] = (number, time.monotonic())
        try:
            yield slot
        finally:
            with self._changed:
                del self._held[slot]
                self._changed.notify_all()

    @contextmanager
    def _claiming(self, device: str) -> Iterator[None]:
        """Keeps a device's slots from being given out."""
        with self._changed:
            self._claims[device] += 1
        try:
            yield
        finally:
            with self._changed:
                self._claims[device] -= 1
                self._changed.notify_all()

    def _free(self) -> Slot | None:
        free = (slot for slot in self.slots if slot not in self._held and not self._claims[slot.device])
        return next(free, None)

    def _emptied(self, whole: Slot) -> Slot | None:
        return None if any(slot.device == whole.device for slot in self._held) else whole
