"""Ladder: a strategy's candidates on their way from short schedules to the full one; what halving and ASHA share.

The wrapped strategy sees none of it. It counts its own candidates, is told of each one once, and whatever it proposes
inherits the best weights that its parents reached, since edits are defined on genomes and fit the weights of any rung.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from search import Candidate, Evaluation, Fidelity, Past, Strategy, remind
from strategies.standing import ranked


@dataclass(frozen=True)
class LadderSettings:
    """A ladder of schedules, each complete in itself, below the full one.

    Attributes:
        kind: `asha` promotes as soon as somebody is ahead and never waits; `halving` when a whole bracket is judged.
        rungs: training examples of the schedules before the full one, rising.
        reduction: of so many on a rung, one climbs to the next.
        promotion: `continue` trains on from a candidate's own weights, `retrain` once more from where it began.
        bracket: candidates on the first rung of each bracket of halving; None for as many as leave one at the top.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    kind: Literal["asha", "halving"] = "asha"
    rungs: tuple[int, ...] = (2_000, 6_000)
    reduction: int = 3
    promotion: Literal["continue", "retrain"] = "continue"
    bracket: int | None = None

    def __post_init__(self) -> None:
        """Refuses what is no ladder."""
        rising = all(low < high for low, high in zip((0, *self.rungs), self.rungs, strict=False))
        if not self.rungs or not rising:
            raise ValueError(f"ladder.rungs must be rising numbers of examples, 1 or more each, got {self.rungs}")
        if self.reduction < 2:
            raise ValueError(f"ladder.reduction must be 2 or more, got {self.reduction}")
        if self.bracket is not None and (self.bracket < 1 or self.kind != "halving"):
            raise ValueError(f"ladder.bracket must be 1 or more, and left out unless kind is halving, got {self}")

    def fidelities(self, full: Fidelity) -> tuple[Fidelity, ...]:
        """Returns the schedules, shortest first.

        Raises:
            ValueError: a rung is not shorter than the full schedule.
        """
        if self.rungs[-1] >= full.examples:
            raise ValueError(
                f"ladder.rungs must be below the {full.examples} examples of the full schedule, got {self.rungs[-1]}"
            )
        return (*(replace(full, examples=examples) for examples in self.rungs), full)


@dataclass
class Climb:
    """One candidate of the wrapped strategy.

    Attributes:
        own: it, under the wrapped strategy's numbers.
        steps: it on each rung so far, under the search's numbers.
        best: the evaluation of the highest rung on which it succeeded; the failure if it did on none; None before any.
        told: whether the wrapped strategy was told.
    """

    own: Candidate
    steps: list[Candidate] = field(default_factory=list)
    best: Evaluation | None = None
    told: bool = False

    @property
    def giver(self) -> int:
        """The search's number of the candidate whose weights its children inherit."""
        return self.best.number if self.best else self.steps[0].number


class Ladder:
    """Who climbs, and what the wrapped strategy is asked and told; a function of the calls."""

    def __init__(
        self, inner: Strategy, settings: LadderSettings, full: Fidelity, objectives: Sequence[str] = ("error",)
    ) -> None:
        """Takes a fresh strategy, whose own fidelity is not heeded, and the objectives that decide who climbs.

        Raises:
            ValueError: a rung is not shorter than the full schedule.
        """
        self.inner, self.settings, self.objectives = inner, settings, tuple(objectives)
        self.fidelities = settings.fidelities(full)
        self.asked = 0
        self._climbs: dict[int, Climb] = {}  # by the wrapped strategy's numbers
        self._climb_of: dict[int, Climb] = {}  # by the search's
        self._results: dict[int, Evaluation] = {}
        self._ahead: list[Candidate] = []

    def remind(self, past: Past) -> None:
        """Reminds the wrapped strategy of what it proposed: what is no promotion, under its own numbers."""
        numbers, proposed = list[int](), list[Candidate]()
        for candidate in past.candidates:
            if candidate.promotes is not None:
                numbers.append(numbers[candidate.promotes])
                continue
            numbers.append(len(proposed))
            parents = tuple(numbers[parent] for parent in candidate.parents)
            proposed.append(replace(candidate, number=len(proposed), parents=parents))
        remind(self.inner, Past(proposed))

    def more(self) -> bool:
        """Says whether the wrapped strategy has a new candidate; it is kept for `first`."""
        if not self._ahead:
            self._ahead.extend(self.inner.ask(1))
        return bool(self._ahead)

    def first(self) -> Candidate | None:
        """Returns a new candidate on the first rung; None if the wrapped strategy has none."""
        if not self.more():
            return None
        own = self._ahead.pop()
        climb = self._climbs[own.number] = Climb(own)
        parents = tuple(self._climbs[parent].giver for parent in own.parents)
        return self._step(climb, Candidate(self.asked, own.genome, parents, own.edits, self.fidelities[0]))

    def promoted(self, number: int) -> Candidate:
        """Returns a candidate that may climb, on the next rung."""
        climb = self._climb_of[number]
        again = replace(climb.steps[-1], number=self.asked, fidelity=self.fidelities[len(climb.steps)], promotes=number)
        if self.settings.promotion == "continue":
            again = replace(again, parents=(number,), edits=())
        return self._step(climb, again)

    def landed(self, candidate: Candidate, evaluation: Evaluation) -> bool:
        """Takes note of a result and says whether the candidate may climb on.

        A twin may not: the one that it repeats competes already, and what a twin has no weights for cannot continue.
        """
        climb, sound = self._climb_of[candidate.number], self._sound(evaluation)
        if sound or climb.best is None:
            climb.best = evaluation
        self._results[candidate.number] = evaluation
        return sound and evaluation.twin is None and len(climb.steps) < len(self.fidelities)

    def rung(self, number: int) -> int:
        """Returns the rung of a candidate, from 0; it is the latest step of its climb."""
        return len(self._climb_of[number].steps) - 1

    def ranked(self, numbers: Iterable[int]) -> list[int]:
        """Returns candidates of one rung that may climb, the best first."""
        return ranked([self._results[number] for number in numbers], self.objectives)

    def release(self, number: int) -> None:
        """Tells the wrapped strategy, once, what a candidate has come to: its result on the highest rung it reached.

        Whoever is promoted later is not told again, but its children inherit the better weights.
        """
        climb = self._climb_of[number]
        if climb.told or climb.best is None:
            return
        climb.told = True
        twin = self._climb_of[climb.best.twin].own.number if climb.best.twin is not None else None
        self.inner.tell(climb.own, replace(climb.best, number=climb.own.number, twin=twin))

    def _step(self, climb: Climb, candidate: Candidate) -> Candidate:
        climb.steps.append(candidate)
        self._climb_of[candidate.number] = climb
        self.asked += 1
        return candidate

    def _sound(self, evaluation: Evaluation) -> bool:
        values = [evaluation.objectives.get(name, math.nan) for name in self.objectives]
        return evaluation.ok and evaluation.weights is not None and all(map(math.isfinite, values))
