"""Seen: the question whether something was computed before."""

from __future__ import annotations

from genomes.genome import Genome
from genomes.identity import equivalent, fingerprint


class Seen:
    """A collection of genomes that is asked what they compute; they are looked into when it is asked first."""

    def __init__(self) -> None:
        """Begins with none."""
        self._waiting: list[Genome] = []
        self._known: dict[str, list[Genome]] = {}  # by fingerprint

    def add(self, genome: Genome) -> None:
        """Takes a genome in, whatever it computes."""
        self._waiting.append(genome)

    def __contains__(self, genome: Genome) -> bool:
        """Says whether one of them computes the same.

        Raises:
            InvalidGenome: this genome, or one that was taken in, does not expand.
        """
        while self._waiting:
            self._known.setdefault(fingerprint(self._waiting[-1]), []).append(self._waiting.pop())
        return any(equivalent(genome, other) for other in self._known.get(fingerprint(genome), ()))
