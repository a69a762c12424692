"""ASHA: promotes whoever is in the best part of its rung so far, else begins a new candidate; never waits.

Source: Li et al. 2020, A system for massively parallel hyperparameter tuning, algorithm 2.
"""

from __future__ import annotations

from collections.abc import Sequence

from search import Candidate, Evaluation, Fidelity, Past, Strategy, proposals
from strategies.ladder import Ladder, LadderSettings


class ASHA:
    """Asynchronous successive halving around any strategy.

    The wrapped strategy is told of a candidate as soon as nobody is about to promote it. A rung grows, so one that was
    passed over may be promoted after all.
    """

    def __init__(
        self, inner: Strategy, settings: LadderSettings, full: Fidelity, objectives: Sequence[str] = ("error",)
    ) -> None:
        """Takes a fresh strategy, whose own fidelity is not heeded, and the objectives that decide who climbs.

        Raises:
            ValueError: a rung is not shorter than the full schedule.
        """
        self.ladder, self.reduction = Ladder(inner, settings, full, objectives), settings.reduction
        self.rungs = [Rung() for _ in settings.rungs]

    def ask(self, n: int) -> list[Candidate]:
        """Returns `n` candidates: promotions from the highest rung down, then new ones; fewer if there are none."""
        return proposals(self._one, n)

    def tell(self, candidate: Candidate, evaluation: Evaluation) -> None:
        """Takes note of a result, and tells the wrapped strategy of all on this rung that are not promoted now."""
        number, at = candidate.number, self.ladder.rung(candidate.number)
        climbs = self.ladder.landed(candidate, evaluation)
        if not climbs:
            self.ladder.release(number)
        if at < len(self.rungs):
            self._grow(self.rungs[at], [number] if climbs else [])

    def remind(self, past: Past) -> None:
        """Takes what it proposed before: the wrapped strategy need not search for it again."""
        self.ladder.remind(past)

    def _one(self) -> Candidate | None:
        for rung in reversed(self.rungs):
            for number in rung.best:
                if number not in rung.promoted:
                    rung.promoted.add(number)
                    rung.held.discard(number)
                    return self.ladder.promoted(number)
        return self.ladder.first()

    def _grow(self, rung: Rung, climbing: list[int]) -> None:
        """Adds a result to a rung, draws its best part anew, and lets go of whoever is not in it."""
        rung.size += 1
        rung.members += climbing
        rung.held.update(climbing)
        rung.best = self.ladder.ranked(rung.members)[: rung.size // self.reduction]
        for number in sorted(rung.held.difference(rung.best)):
            rung.held.remove(number)
            self.ladder.release(number)


class Rung:
    """The results of one fidelity.

    Attributes:
        size: how many there are, failures counted.
        members: those that may climb.
        best: the part of the members that is to be promoted, the best first.
        promoted: those that were.
        held: those that the wrapped strategy was not told of, since they are in the best part and not yet promoted.
    """

    def __init__(self) -> None:
        self.size = 0
        self.members: list[int] = []
        self.best: list[int] = []
        self.promoted: set[int] = set()
        self.held: set[int] = set()
