"""The loop: ask, dispatch, tell, until the budget is spent; whatever was recorded before is replayed first."""

from __future__ import annotations

import hashlib
import math
import queue
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from genomes import InvalidGenome, fingerprint
from search import records
from search.errors import DiskFull, ReplayDiverged
from search.ledger import Ledger, Spent
from search.protocol import INFRASTRUCTURAL, Candidate, Evaluation, Strategy

ATTEMPTS = 3  # an infrastructural failure is tried again twice

Done = Callable[[Evaluation], None]
Dispatch = Callable[[Candidate, Mapping[int, Evaluation], Done], None]


@dataclass(frozen=True)
class Budget:
    """What a whole search may spend; None is no bound. The first bound that is reached ends it.

    Attributes:
        candidates: how many are asked for.
        examples: how many training examples are shown to all children together.
        seconds: of wall clock, over all sessions of the search.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    candidates: int | None = None
    examples: int | None = None
    seconds: float | None = None

    def share(self, spent: Spent) -> float:
        """Returns how much of the budget is spent, from 0 to 1."""
        used = (
            (spent.candidates, self.candidates),
            (spent.examples, self.examples),
            (spent.elapsed_seconds, self.seconds),
        )
        return min(1.0, max((have / bound for have, bound in used if bound), default=0.0))


@dataclass(frozen=True)
class Progress:
    """What a search looks like after an event.

    Attributes:
        spent: so far.
        share: of the budget that is spent, from 0 to 1.
        best: the evaluation with the least error; None before the first.
        front: the non-dominated evaluations in error and parameters.
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
) -> Progress:
    """Runs a search until its budget is spent or its strategy has no more to propose; resumes a recorded one.

    Args:
        strategy: a fresh one; the recorded events are replayed into it.
        dispatch: starts an evaluation and returns; calls back once, from any thread, with the result.
        ledger: of the search, open for writing.
        budget: what may be spent; the candidates in flight when it is reached are finished.
        slots: how many candidates are evaluated at a time.
        watch: called after each event.

    Raises:
        ReplayDiverged: the strategy does not propose what the ledger says it did.
        DiskFull: nothing can be written; everything so far is kept.
    """
    return _Loop(strategy, dispatch, ledger, budget, watch).run(slots)


def twin_key(candidate: Candidate, parent: Evaluation | None) -> str:
    """Returns the key under which two candidates are the same evaluation: function, fidelity and lineage age."""
    age = parent.cost.get("lineage_examples", 0.0) if parent else 0.0
    text = records.dump([fingerprint(candidate.genome), records.fidelity_json(candidate), age])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class _Loop:
    """The state of one session."""

    def __init__(
        self, strategy: Strategy, dispatch: Dispatch, ledger: Ledger, budget: Budget, watch: Callable[[Progress], None]
    ) -> None:
        self.strategy, self.dispatch, self.ledger, self.budget, self.watch = strategy, dispatch, ledger, budget, watch
        self.evaluations: dict[int, Evaluation] = {}
        self.candidates: dict[int, Candidate] = {}
        self.flying: dict[int, Candidate] = {}
        self.landed: queue.SimpleQueue[Evaluation | BaseException] = queue.SimpleQueue()
        self.used = ledger.spent()
        self.front: list[Evaluation] = []
        self.begun = time.monotonic()

    def run(self, slots: int) -> Progress:
        self.replay()
        for number in self.ledger.pending():
            self.launch(self.candidates[number])
        self.report()
        while self.fill(slots):
            evaluation = self.landed.get()
            if isinstance(evaluation, BaseException):
                raise evaluation
            self.land(evaluation)
        return self.report()

    def elapsed(self) -> float:
        return self.used.elapsed_seconds + time.monotonic() - self.begun

    def replay(self) -> None:
        """Tells a fresh strategy what was recorded, and checks that it proposes what was recorded."""
        for candidate, evaluation in self.ledger.events():
            if evaluation is None:
                proposed = self.strategy.ask(1)
                if not proposed or _identity(proposed[0]) != _identity(candidate):
                    raise ReplayDiverged(
                        f"candidate {candidate.number} was recorded as {_words(candidate)}, now "
                        f"{_words(proposed[0]) if proposed else 'nothing'} is proposed: the strategy's code or settings "
                        "changed; go on with the version that began this search, or start a new one"
                    )
                self.candidates[candidate.number] = candidate
            else:
                self.strategy.tell(self.candidates[candidate.number], evaluation)
                self.note(evaluation)

    def fill(self, slots: int) -> bool:
        """Asks for candidates while slots are free and budget is left; says whether any is in flight."""
        while len(self.flying) < slots and self.budget.share(self.spent()) < 1:
            proposed = self.strategy.ask(1)
            if not proposed:
                break
            self.ask(proposed[0])
        return bool(self.flying)

    def ask(self, candidate: Candidate) -> None:
        parent = self.evaluations.get(candidate.parents[0]) if candidate.parents else None
        key = twin_key(candidate, parent)
        self.ledger.asked(candidate, key, self.elapsed())
        self.used = replace(self.used, candidates=self.used.candidates + 1)
        self.candidates[candidate.number] = candidate
        self.launch(candidate, self.ledger.twin(key))

    def launch(self, candidate: Candidate, twin: int | None = None) -> None:
        """Starts an evaluation, or lands that of the candidate's twin at once."""
        self.flying[candidate.number] = candidate
        if twin is not None:
            self.land(self.repeated(candidate, twin))
            return
        self.ledger.attempted(candidate.number)
        parents = {number: self.evaluations[number] for number in candidate.parents}
        try:
            self.dispatch(candidate, parents, self.landed.put)
        except InvalidGenome as error:
            self.landed.put(Evaluation(candidate.number, "build_error", reason=str(error)))
        self.report()

    def repeated(self, candidate: Candidate, twin: int) -> Evaluation:
        """Returns the twin's evaluation under the candidate's number; weights fit only the very same genome."""
        first = self.evaluations[twin]
        same = self.candidates[twin].genome == candidate.genome
        cost = {**first.cost, "seconds": 0.0, "examples": 0.0, "macs": 0.0}
        return replace(
            first,
            number=candidate.number,
            twin=twin,
            cost=cost,
            curve=(),
            certificates=(),
            weights=first.weights if same else None,
        )

    def land(self, evaluation: Evaluation) -> None:
        """Records a result and tells the strategy; an infrastructural failure is tried again first."""
        evaluation = _finite(evaluation)
        candidate = self.flying.pop(evaluation.number)
        if evaluation.reason.startswith("disk full"):
            raise DiskFull(f"child {evaluation.number}: {evaluation.reason}: make room, then resume")
        if evaluation.status in INFRASTRUCTURAL and self.ledger.attempts(evaluation.number) < ATTEMPTS:
            self.launch(candidate)
            return
        self.ledger.told(evaluation, self.elapsed())
        self.used = replace(
            self.used,
            evaluations=self.used.evaluations + 1,
            failures=self.used.failures + (not evaluation.ok),
            examples=self.used.examples + evaluation.cost.get("examples", 0.0),
            train_seconds=self.used.train_seconds + evaluation.cost.get("seconds", 0.0),
        )
        self.strategy.tell(candidate, evaluation)
        self.note(evaluation)
        self.report()

    def note(self, evaluation: Evaluation) -> None:
        """Keeps an evaluation, and the front up to date."""
        self.evaluations[evaluation.number] = evaluation
        if evaluation.ok and not any(_covers(member, evaluation) for member in self.front):
            self.front = [member for member in self.front if not _covers(evaluation, member)] + [evaluation]

    def spent(self) -> Spent:
        return replace(self.used, elapsed_seconds=self.elapsed())

    def report(self) -> Progress:
        spent = self.spent()
        front = tuple(sorted(self.front, key=lambda e: e.objectives["error"]))
        progress = Progress(spent, self.budget.share(spent), front[0] if front else None, front, tuple(sorted(self.flying)))
        self.watch(progress)
        return progress


def _covers(one: Evaluation, other: Evaluation) -> bool:
    return all(one.objectives.get(axis, 0.0) <= other.objectives.get(axis, 0.0) for axis in ("error", "parameters"))


def _finite(evaluation: Evaluation) -> Evaluation:
    broken = [name for name, value in evaluation.objectives.items() if not math.isfinite(value)]
    if not broken:
        return evaluation
    return replace(evaluation, status="non_finite", objectives={}, weights=None, reason=f"{broken[0]} is not finite")


def _identity(candidate: Candidate) -> tuple[object, ...]:
    edits = tuple(edit.digest for edit in candidate.edits)
    return candidate.number, candidate.genome.digest, candidate.parents, edits, candidate.fidelity


def _words(candidate: Candidate) -> str:
    edits = " + ".join(edit.rule for edit in candidate.edits) or "no edit"
    return f"{edits} of {list(candidate.parents)} with genome {candidate.genome.digest[:8]}"
