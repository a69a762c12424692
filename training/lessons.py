"""Lessons: what did not fit, even alone on a device, tells what will not fit."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

from genomes import Cost, Genome, cost


@dataclass(frozen=True)
class Lesson:
    """A network that ran out of memory alone on its device.

    Attributes:
        number: of its candidate.
        kind: of the device, `cpu` or `cuda`.
        cost: counted from the genome.
    """

    number: int
    kind: str
    cost: Cost

    def covers(self, other: Cost) -> bool:
        """Says whether a network needs no less: as many parameters and activation bytes, or more, with one recipe."""
        return self.cost.parameters <= other.parameters and self.cost.activation_bytes <= other.activation_bytes


class Lessons:
    """The lessons of a search; for any number of threads."""

    def __init__(self) -> None:
        """Begins with none."""
        self._lessons: list[Lesson] = []
        self._lock = Lock()

    def learn(self, number: int, kind: str, genome: Genome) -> None:
        """Takes note of a network that ran out of memory alone on a device of this kind."""
        lesson = Lesson(number, kind, cost(genome))
        with self._lock:
            self._lessons.append(lesson)

    def refusal(self, kind: str, genome: Genome) -> str | None:
        """Returns why a network is not worth a try on devices of this kind, and who taught it; None if it is."""
        counted = cost(genome)
        with self._lock:
            covering = [one for one in self._lessons if one.kind == kind and one.covers(counted)]
        if not covering:
            return None
        taught = min(covering, key=lambda one: one.number)  # not the first to land, which a restart may change
        return (
            f"must be smaller than candidate {taught.number}, which ran out of memory alone on its device "
            f"({_words(taught.cost)}): this one has {_words(counted)}"
        )


def _words(counted: Cost) -> str:
    return f"{counted.parameters:,} parameters, {counted.activation_bytes:,} activation bytes"
