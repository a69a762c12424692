"""Doubles: an evaluator that needs no training, and ways to dispatch it, for tests that run whole searches."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from genomes import cost
from search import Candidate, Dispatch, Done, Evaluation, Evaluator, Status

FULL_RANGE = 1 << 64


@dataclass
class ToyEvaluator:
    """Judges by a hash, a little better than the parent; a function of the seed and the candidate alone.

    Attributes:
        seed: of the hash.
        failures: what becomes of candidates by number, instead of success.
        recovers: how many attempts of an infrastructural failure fail before one succeeds; None for all.
        calls: how often each number was evaluated.
    """

    seed: int = 0
    failures: Mapping[int, Status] = field(default_factory=dict)
    recovers: int | None = None
    calls: Counter[int] = field(default_factory=Counter)

    def __call__(self, candidate: Candidate, parents: Mapping[int, Evaluation]) -> Evaluation:
        """Returns the evaluation at once."""
        number = candidate.number
        self.calls[number] += 1
        recovered = self.recovers is not None and self.calls[number] > self.recovers
        if (status := self.failures.get(number)) and not recovered:
            best = {"error": 0.0, "parameters": 0.0}  # which must not count
            return Evaluation(number, status, best, reason=f"{status}, as the test wants it", cost={"seconds": 1.0})
        parent = parents[candidate.parents[0]] if candidate.parents else None
        return self.judged(candidate, parent)

    def judged(self, candidate: Candidate, parent: Evaluation | None) -> Evaluation:
        """Returns a success."""
        digest = hashlib.sha256(f"{self.seed}:{candidate.number}:{candidate.genome.digest}".encode()).hexdigest()
        luck = int(digest[:16], 16) / FULL_RANGE
        before = parent.objectives.get("error", 1.0) if parent else 1.0
        own = {"seconds": 1.0, "examples": float(candidate.fidelity.examples)}
        age = {f"lineage_{k}": v + (parent.cost.get(f"lineage_{k}", 0.0) if parent else 0.0) for k, v in own.items()}
        objectives = {"error": before * (0.8 + 0.3 * luck), "parameters": float(cost(candidate.genome).parameters)}
        curve = ({"examples": own["examples"], "loss": luck},)
        return Evaluation(candidate.number, "ok", objectives, {**own, **age}, curve, digest)


def in_turn(evaluator: Evaluator) -> Dispatch:
    """Returns what evaluates at once, in the thread of the loop."""

    def dispatch(candidate: Candidate, parents: Mapping[int, Evaluation], done: Done) -> None:
        done(evaluator(candidate, parents))

    return dispatch


def in_threads(evaluator: Evaluator) -> Dispatch:
    """Returns what evaluates each candidate in a thread of its own."""

    def dispatch(candidate: Candidate, parents: Mapping[int, Evaluation], done: Done) -> None:
        work: Callable[[], None] = lambda: done(evaluator(candidate, parents))  # noqa: E731
        threading.Thread(target=work).start()

    return dispatch
