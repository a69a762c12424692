"""Screened: a strategy of whose proposals only the most promising are trained.

Source: Abdelfattah et al. 2021, Zero-cost proxies for lightweight NAS, section 4.2, evolution with a move proposal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from genomes import Genome
from search import Candidate, Evaluation, Past, Strategy, proposals

Score = Callable[[Genome], float]  # more is better; a function of the genome alone, or a replay would diverge


@dataclass(frozen=True)
class ScreenSettings:
    """Settings of the screen.

    Attributes:
        proxy: what proposals are compared by before they are trained; none: all are trained.
        draws: of how many proposals one is trained.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    proxy: Literal["none", "parameters", "naswot", "synflow", "snip", "grad_norm"] = "none"
    draws: int = 4

    def __post_init__(self) -> None:
        """Refuses a number of draws that leaves nothing to choose."""
        if not 2 <= self.draws <= 64:
            raise ValueError(f"screen.draws must be in [2, 64], got {self.draws}")


class Screened:
    """Wraps a strategy, which is told of what was screened out as a failure.

    What is trained is numbered anew, without gaps; the wrapped strategy keeps its own numbers. The no-op control of a
    parent is never screened, since its use is to be there.
    """

    def __init__(self, inner: Strategy, score: Score, draws: int, *, founders: bool = False) -> None:
        """Takes a strategy and what its proposals are compared by.

        Args:
            inner: the strategy, fresh.
            score: of a genome; the best of `draws` is trained.
            draws: how many proposals are compared.
            founders: whether candidates without parents are screened too: for strategies that propose no others.
        """
        self.inner, self.score, self.draws, self.founders = inner, score, draws, founders
        self.past = Past()
        self.drawn: list[Candidate] = []
        self.passed: list[Candidate] = []  # by their new number, as the wrapped strategy knows them
        self.numbers: dict[int, int] = {}  # its numbers to ours

    def ask(self, n: int) -> Sequence[Candidate]:
        """Returns at most `n` candidates, each the best of its draws."""
        return proposals(self._one, n)

    def tell(self, candidate: Candidate, evaluation: Evaluation) -> None:
        """Hands a result on under the number that the wrapped strategy knows."""
        own = self.passed[candidate.number]
        twin = None if evaluation.twin is None else self.passed[evaluation.twin].number
        self.inner.tell(own, replace(evaluation, number=own.number, twin=twin))

    def remind(self, past: Past) -> None:
        """Takes what it proposed before: the draws on record are not scored again.

        The wrapped strategy proposes them anew all the same, since what was screened out is on no record.
        """
        self.past = past

    def _one(self) -> Candidate | None:
        while len(self.drawn) < self.draws and (proposed := self.inner.ask(1)):
            if not self._screened(proposed[0]):
                return self._pass(proposed[0])
            self.drawn.append(proposed[0])
        if not self.drawn:
            return None
        best = self._best()
        for other in self.drawn:
            if other is not best:
                self.inner.tell(other, Evaluation(other.number, "over_budget", reason="screened out"))
        self.drawn = []
        return self._pass(best)

    def _best(self) -> Candidate:
        """Returns the draw with the best score, the first of equals; without asking for scores if it is on record."""
        if before := self.past.at(len(self.passed)):
            for candidate in self.drawn:
                if candidate.genome == before.genome:
                    return candidate
        return max(self.drawn, key=lambda candidate: (self.score(candidate.genome), -candidate.number))

    def _screened(self, candidate: Candidate) -> bool:
        return not candidate.control and (self.founders or bool(candidate.parents))

    def _pass(self, own: Candidate) -> Candidate:
        number = self.numbers[own.number] = len(self.passed)
        self.passed.append(own)
        return replace(own, number=number, parents=tuple(self.numbers[parent] for parent in own.parents))
