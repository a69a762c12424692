"""Successive halving: of a bracket of candidates on a short schedule, the best part goes on to the next longer one.

Source: Jamieson & Talwalkar 2016, Non-stochastic best arm identification and hyperparameter optimization, figure 1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from search import Candidate, Evaluation, Fidelity, Past, Strategy, proposals
from strategies.ladder import Ladder, LadderSettings


@dataclass(eq=False)
class Bracket:
    """Candidates that are judged together.

    Attributes:
        size: how many there are on its present rung, failures counted.
        open: whether it takes new candidates; on its first rung only.
        climbing: those of them that may climb.
        queue: those that are to be promoted to the present rung, the best first.
        flying: how many were asked for and not told.
    """

    size: int = 0
    open: bool = True
    climbing: list[int] = field(default_factory=list)
    queue: deque[int] = field(default_factory=deque)
    flying: int = 0


class SuccessiveHalving:
    """Successive halving around any strategy, a bracket at a time.

    While a bracket waits for its last results the next one begins, so that no slot is idle. A bracket ends when it is
    full, or when all of it is told and the wrapped strategy has nothing to propose: that one waits for a generation.
    The wrapped strategy is told of a candidate when it is passed over, or has reached the top.
    """

    def __init__(
        self, inner: Strategy, settings: LadderSettings, full: Fidelity, objectives: Sequence[str] = ("error",)
    ) -> None:
        """Takes a fresh strategy, whose own fidelity is not heeded, and the objectives that decide who climbs.

        Raises:
            ValueError: a rung is not shorter than the full schedule.
        """
        self.ladder, self.reduction = Ladder(inner, settings, full, objectives), settings.reduction
        self.size = settings.bracket or settings.reduction ** len(settings.rungs)
        self.brackets: list[Bracket] = []
        self._bracket_of: dict[int, Bracket] = {}

    def ask(self, n: int) -> list[Candidate]:
        """Returns at most `n` candidates: promotions of the oldest bracket first, then new ones."""
        return proposals(self._one, n)

    def tell(self, candidate: Candidate, evaluation: Evaluation) -> None:
        """Takes note of a result; the last one of a rung decides who climbs."""
        number = candidate.number
        bracket = self._bracket_of.pop(number)
        bracket.flying -= 1
        if self.ladder.landed(candidate, evaluation):
            bracket.climbing.append(number)
        else:
            self.ladder.release(number)
        if bracket.flying or bracket.queue:
            return
        # The wrapped strategy is asked here, ahead of the next ask: an ask that finds nothing is not recorded, so a
        # replay would not learn that the bracket has ended.
        if bracket.open and self.ladder.more():
            return
        self._cut(bracket)

    def remind(self, past: Past) -> None:
        """Takes what it proposed before: the wrapped strategy need not search for it again."""
        self.ladder.remind(past)

    def _one(self) -> Candidate | None:
        for bracket in self.brackets:
            if bracket.queue:
                return self._flying(bracket, self.ladder.promoted(bracket.queue.popleft()))
        if not (candidate := self.ladder.first()):
            return None
        if not self.brackets or not self.brackets[-1].open:
            self.brackets.append(Bracket())
        return self._flying(self.brackets[-1], candidate)

    def _flying(self, bracket: Bracket, candidate: Candidate) -> Candidate:
        bracket.size, bracket.flying = bracket.size + 1, bracket.flying + 1
        bracket.open = bracket.open and bracket.size < self.size
        self._bracket_of[candidate.number] = bracket
        return candidate

    def _cut(self, bracket: Bracket) -> None:
        """Promotes the best part of a rung, one at least, and lets go of the others."""
        ranked = self.ladder.ranked(bracket.climbing)
        bracket.queue.extend(ranked[: max(1, bracket.size // self.reduction)])
        for number in sorted(set(ranked).difference(bracket.queue)):
            self.ladder.release(number)
        bracket.size, bracket.open, bracket.climbing = 0, False, []
        if not bracket.queue:
            self.brackets.remove(bracket)
