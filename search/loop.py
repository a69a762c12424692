"""The loop: ask, dispatch, tell, until the budget is spent; whatever was recorded before is replayed first."""

from __future__ import annotations

import math
import queue
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

from genomes import InvalidGenome, equivalent
from search import records
from search.errors import ContractBroken, DiskFull, ReplayDiverged, SearchError
from search.files import room
from search.front import Front
from search.garbage import settled
from search.ledger import Ledger
from search.past import Past, remind
from search.protocol import INFRASTRUCTURAL, Candidate, Evaluation, Strategy
from search.view import Spent

ATTEMPTS = 3  # an infrastructural failure is tried again twice
HOPELESS = 20  # failures without a single success: nothing will come of it
SECONDS_BETWEEN_NOTES = 30.0  # of the search's age, while all that is in flight takes longer
EXHAUSTED = 500  # twins and failures in a row: nothing new is proposed, or can be trained; they use up no examples

Done = Callable[[Evaluation | BaseException], None]  # an exception ends the search; failures are evaluations
Dispatch = Callable[[Candidate, Mapping[int, Evaluation], Done], None]


class Bound(NamedTuple):
    """One bound of a budget: its unit, what is used of it, and how much there is."""

    unit: str
    used: float
    limit: float


@dataclass(frozen=True)
class Budget:
    """What a whole search may spend; None is no bound. The first bound that is reached ends it.

    Attributes:
        candidates: how many are asked for.
        examples: how many training examples are shown to all children together.
        seconds: of wall clock, over all sessions of the search.
        cpu_seconds: of processor time, of all children together; children differ in cost, so that two searches are
            compared at equal processor seconds, not at equally many children. Wall clock for a child that was killed.
        dollars: what the machine may cost while the search runs, over all its sessions, at the price as it is now.
        dollars_per_hour: the price of the machine; needed for a bound in dollars, and of use for nothing else.

    Raises:
        ValueError: a bound or a price that is not above 0, or one of dollars and their price without the other.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    candidates: int | None = None
    examples: int | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    dollars: float | None = None
    dollars_per_hour: float | None = None

    def __post_init__(self) -> None:
        """Refuses bounds that cannot be meant."""
        for name, bound in vars(self).items():
            if bound is not None and not bound > 0:
                raise ValueError(f"budget.{name} must be above 0, or left out for no bound, got {bound}")
        if (self.dollars is None) != (self.dollars_per_hour is None):
            given, missing = sorted(("dollars", "dollars_per_hour"), key=lambda name: getattr(self, name) is None)
            raise ValueError(f"budget.{missing} must be given with budget.{given}, got none")

    def bounds(self, spent: Spent) -> list[Bound]:
        """Returns the bounds that there are."""
        paid = spent.elapsed_seconds * (self.dollars_per_hour or 0.0) / 3600
        every = (
            ("children", spent.candidates, self.candidates),
            ("examples", spent.examples, self.examples),
            ("s", spent.elapsed_seconds, self.seconds),
            ("CPU s", spent.train_seconds, self.cpu_seconds),
            ("dollars", paid, self.dollars),
        )
        return [Bound(unit, used, limit) for unit, used, limit in every if limit is not None]

    def share(self, spent: Spent) -> float:
        """Returns how much of the budget is spent, from 0 to 1."""
        return min(1.0, max((bound.used / bound.limit for bound in self.bounds(spent)), default=0.0))


@dataclass(frozen=True)
class Progress:
    """What a search looks like after an event.

    Attributes:
        spent: so far.
        share: of the budget that is spent, from 0 to 1.
        best: the evaluation with the least error; None before the first.
        front: the non-dominated evaluations in error and one other objective.
        in_flight: the numbers that are being evaluated.
    """

    spent: Spent
    share: float
    best: Evaluation | None
    front: tuple[Evaluation, ...]
    in_flight: tuple[int, ...]


def drive(
    strategy: Strategy,
    dispatch: Dispatch,
    ledger: Ledger,
    budget: Budget,
    slots: int = 1,
    watch: Callable[[Progress], None] = lambda _: None,
    beside: str = "parameters",
) -> Progress:
    """Runs a search until its budget is spent or its strategy has no more to propose; resumes a recorded one.

    Args:
        strategy: a fresh one; the recorded events are replayed into it.
        dispatch: starts an evaluation and returns; calls back once, from any thread, with the result. An exception
            that it calls back with ends the search.
        ledger: of the search, open for writing.
        budget: what may be spent; the candidates in flight when it is reached are finished.
        slots: how many candidates are evaluated at a time.
        watch: called after each event.
        beside: the objective that the front is of, beside the error.

    Raises:
        ReplayDiverged: the strategy does not propose what the ledger says it did.
        ContractBroken: the strategy or the evaluator does what the contract forbids.
        DiskFull: nothing can be written; everything so far is kept.
        SearchError: all of the first candidates failed, or all that the strategy has to propose.
    """
    with room(f"search {ledger.directory.name}"), settled():
        return _Loop(strategy, dispatch, ledger, budget, watch, Front(beside)).run(slots)


class _Loop:
    """The state of one session."""

    def __init__(
        self,
        strategy: Strategy,
        dispatch: Dispatch,
        ledger: Ledger,
        budget: Budget,
        watch: Callable[[Progress], None],
        front: Front,
    ) -> None:
        self.strategy, self.dispatch, self.ledger, self.budget, self.watch = strategy, dispatch, ledger, budget, watch
        self.front = front
        self.evaluations: dict[int, Evaluation] = {}
        self.candidates: dict[int, Candidate] = {}
        self.waiting: deque[Candidate] = deque()
        self.flying: dict[int, Candidate] = {}
        self.landed: queue.SimpleQueue[tuple[int, Evaluation | BaseException]] = queue.SimpleQueue()
        self.used = ledger.spent()
        self.repeats = 0
        self.begun = time.monotonic()

    def run(self, slots: int) -> Progress:
        self.replay()
        self.waiting.extend(self.candidates[number] for number in self.ledger.pending())
        self.report()
        try:
            while self.fill(slots):
                self.land(*self.next())
        finally:
            with suppress(SearchError):  # what ended the session is to be told
                self.ledger.aged(self.elapsed())
        progress = self.report()
        if self.evaluations and progress.best is None and progress.share < 1:
            last = list(self.evaluations.values())[-1]
            raise SearchError(
                f"the strategy has nothing to propose without a success, and all {len(self.evaluations)} candidates "
                f"failed, the last one with {last.status}: {last.reason}"
            )
        return progress

    def next(self) -> tuple[int, Evaluation | BaseException]:
        """Waits for a result."""
        while True:
            try:
                return self.landed.get(timeout=SECONDS_BETWEEN_NOTES)
            except queue.Empty:
                self.ledger.aged(self.elapsed())

    def elapsed(self) -> float:
        return self.used.elapsed_seconds + time.monotonic() - self.begun

    def replay(self) -> None:
        """Tells a fresh strategy what was recorded, and checks that it proposes what was recorded."""
        recorded, evaluations = self.ledger.candidates(), self.ledger.evaluations()
        remind(self.strategy, Past(tuple(recorded.values())))
        for kind, number, identity in self.ledger.steps():
            if kind == "tell":
                self.strategy.tell(self.candidates[number], evaluations[number])
                self.note(evaluations[number])
                continue
            proposed = self.strategy.ask(1)
            if not proposed or records.identity(proposed[0]) != identity:
                raise ReplayDiverged(
                    f"candidate {number} was recorded as {_words(recorded[number])}, now "
                    f"{_words(proposed[0]) if proposed else 'nothing'} is proposed: the strategy's code or settings "
                    "changed; go on with the version that began this search, or start a new one"
                )
            self.candidates[number] = proposed[0]

    def fill(self, slots: int) -> bool:
        """Starts what waits, then asks for more, while slots are free and budget is left; says if any is in flight."""
        while len(self.flying) < slots:
            if self.waiting:
                self.launch(self.waiting.popleft())
                continue
            if self.budget.share(self.spent()) >= 1 or self.repeats >= EXHAUSTED:
                break
            proposed = self.strategy.ask(1)
            if not proposed:
                break
            self.ask(proposed[0])
        return bool(self.flying)

    def ask(self, candidate: Candidate) -> None:
        """Records a candidate and starts it."""
        if candidate.number != len(self.candidates):
            raise ContractBroken(f"the next candidate must be number {len(self.candidates)}, got {candidate.number}")
        if strange := [parent for parent in candidate.parents if parent not in self.evaluations]:
            raise ContractBroken(f"candidate {candidate.number}'s parents must have been told, {strange} were not")
        key = records.twin_key(candidate, self.evaluations[candidate.parents[0]] if candidate.parents else None)
        self.ledger.asked(candidate, key, self.elapsed())
        self.used = replace(self.used, candidates=self.used.candidates + 1)
        self.candidates[candidate.number] = candidate
        self.launch(candidate)

    def launch(self, candidate: Candidate) -> None:
        """Starts an evaluation, or lands that of the candidate's twin at once."""
        number = candidate.number
        if (twin := self.twin(candidate)) is not None:
            self.tell(candidate, self.repeated(candidate, twin))
            return
        self.ledger.attempted(number)
        self.start(candidate)

    def start(self, candidate: Candidate) -> None:
        """Hands a candidate to the evaluator; the attempt is recorded."""
        number = candidate.number
        self.flying[number] = candidate
        parents = {parent: self.evaluations[parent] for parent in candidate.parents}
        try:
            self.dispatch(candidate, parents, lambda outcome: self.landed.put((number, outcome)))
        except InvalidGenome as error:
            self.landed.put((number, Evaluation(number, "build_error", reason=str(error))))
        self.report()

    def twin(self, candidate: Candidate) -> int | None:
        """Returns who computes the very same and was trained in the same way; None if nobody."""
        twins = self.ledger.twins(candidate.number)
        same = (twin for twin in twins if equivalent(self.candidates[twin].genome, candidate.genome))
        return next(same, None)

    def repeated(self, candidate: Candidate, twin: int) -> Evaluation:
        """Returns the twin's evaluation under the candidate's number; weights fit only the very same genome."""
        first = self.evaluations[twin]
        same = self.candidates[twin].genome == candidate.genome
        cost = {name: value if name.startswith("lineage_") else 0.0 for name, value in first.cost.items()}
        return replace(
            first,
            number=candidate.number,
            twin=twin,
            cost=cost,
            curve=(),
            certificates=(),
            weights=first.weights if same else None,
            initial=None,
            gradients=first.gradients if same else {},
            slot=None,
        )

    def land(self, number: int, outcome: Evaluation | BaseException) -> None:
        """Records a result and tells the strategy; an infrastructural failure is tried again first."""
        if isinstance(outcome, BaseException):
            raise outcome
        if number not in self.flying:
            return  # a second answer for the same candidate: the first one counts
        if outcome.number != number:
            raise ContractBroken(f"the evaluation of candidate {number} must say so, it says {outcome.number}")
        evaluation = _recordable(outcome)
        if evaluation.reason.startswith("disk full"):
            raise DiskFull(f"child {number}: {evaluation.reason}: make room, then resume")
        candidate = self.flying.pop(number)
        taken = self.used.train_seconds + evaluation.cost.get("seconds", 0.0)
        self.used = replace(self.used, train_seconds=taken)
        if self.again(evaluation):
            self.ledger.failed(evaluation)
            self.start(candidate)
        else:
            self.tell(candidate, evaluation)

    def again(self, evaluation: Evaluation) -> bool:
        """Says whether a failed candidate is tried again; attempts that a crash of ours cut off do not count."""
        if evaluation.status not in INFRASTRUCTURAL:
            return False
        return sum(outcome in INFRASTRUCTURAL for outcome in self.ledger.attempts(evaluation.number)) + 1 < ATTEMPTS

    def tell(self, candidate: Candidate, evaluation: Evaluation) -> None:
        """Records an evaluation, then tells the strategy."""
        self.ledger.told(evaluation, self.elapsed())
        self.used = replace(
            self.used,
            evaluations=self.used.evaluations + 1,
            failures=self.used.failures + (not evaluation.ok),
            examples=self.used.examples + evaluation.cost.get("examples", 0.0),
        )
        self.strategy.tell(candidate, evaluation)
        self.note(evaluation)
        self.report()
        if not self.front.members and self.used.evaluations >= HOPELESS:
            raise SearchError(
                f"one of the first {HOPELESS} candidates must succeed, all failed, the last one with "
                f"{evaluation.status}: {evaluation.reason}"
            )

    def note(self, evaluation: Evaluation) -> None:
        """Keeps an evaluation, and the front up to date."""
        self.evaluations[evaluation.number] = evaluation
        self.repeats = 0 if evaluation.ok and evaluation.twin is None else self.repeats + 1
        if evaluation.ok:
            self.front.add(evaluation)

    def spent(self) -> Spent:
        return replace(self.used, elapsed_seconds=self.elapsed())

    def report(self) -> Progress:
        spent = self.spent()
        front = self.front.members
        progress = Progress(
            spent, self.budget.share(spent), front[0] if front else None, front, tuple(sorted(self.flying))
        )
        self.watch(progress)
        return progress


def _recordable(evaluation: Evaluation) -> Evaluation:
    """Returns an evaluation without the numbers that JSON cannot hold; if one is an objective, it is a failure."""
    clean = replace(
        evaluation,
        cost=_finite(evaluation.cost),
        curve=tuple(map(_finite, evaluation.curve)),
        gradients=_finite(evaluation.gradients),
        features=_finite(evaluation.features),
    )
    if not clean.ok:
        return replace(clean, objectives={})
    broken = [name for name, value in clean.objectives.items() if not math.isfinite(value)]
    if not broken:
        return clean
    return replace(clean, status="non_finite", objectives={}, weights=None, reason=f"{broken[0]} is not finite")


def _finite(numbers: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _words(candidate: Candidate) -> str:
    edits = " + ".join(edit.rule for edit in candidate.edits) or "no edit"
    return f"{edits} of {list(candidate.parents)} with genome {candidate.genome.digest[:8]}"
