"""Trainer: the evaluator that inherits, certifies, trains and judges each candidate in a process of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from genomes import InvalidGenome, Limits, check
from morphism import Certificate
from search import DETERMINISTIC, Candidate, Evaluation, Status, WeightStore
from training import data
from training.child import Request, evaluate, evaluate_timed
from training.inherit import Heritage, givers
from training.lessons import Lessons
from training.loop import settled
from training.measurement import LATENCY, LatencySettings
from training.pool import Pool
from training.recipe import Recipe
from training.slots import Slot, cpu_slots, kind_of
from training.worker import Outcome, landed, preload

# Another attempt would end alike; that memory ran out may have been in company, and is not known from a file.
FINAL = (DETERMINISTIC | {"ok"}) - {"out_of_memory"}


@dataclass(frozen=True)
class Trainer:
    """An evaluator; safe to call from any number of threads.

    A candidate for which there is no memory in its slot is trained once more, alone on the device. If there is none
    even then, that is its evaluation, and candidates that need no less are refused from then on.

    Attributes:
        store: of the search's weights.
        prepared: the data set's file.
        recipe: how children are trained.
        seed: of the search; a candidate's own is derived from it and from its number.
        timeout: in seconds, for one candidate.
        scratch: a directory for result files; one that landed there is taken instead of training again.
        limits: of the networks; one that is over them is not built.
        origin: the digest, in the store, of the user's own network, which founders of its genome begin with.
        gradients: whether evaluations say which edits the loss wants.
        latency: how latency is measured; None if it is not, and children need not stand still for each other.
        pool: the slots; one for each core unless it is given.
        lessons: of networks that do not fit.
        heirs: the predecessor's evaluations of the founders that begin with its weights, by the digest of the genome;
            the weights are in the store too.
        sole: whether nobody else uses the devices of the slots; if others do, a candidate for which there is no memory
            is not trained once more, since it would not be alone, and teaches nothing.
    """

    store: WeightStore
    prepared: data.Prepared
    recipe: Recipe
    seed: int
    timeout: float
    scratch: Path
    limits: Limits | None = None
    origin: str | None = None
    gradients: bool = False
    latency: LatencySettings | None = None
    pool: Pool = field(default_factory=lambda: Pool(cpu_slots()))
    lessons: Lessons = field(default_factory=Lessons)
    heirs: Mapping[str, Evaluation] = field(default_factory=dict)
    sole: bool = True

    def __post_init__(self) -> None:
        """Gets the server that children are forked from ready."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        preload()

    def __call__(self, candidate: Candidate, parents: Mapping[int, Evaluation]) -> Evaluation:
        """Trains and judges one candidate."""
        refusals: tuple[tuple[Status, Limits | None], ...] = (("build_error", None), ("over_budget", self.limits))
        for status, limits in refusals:
            try:
                check(candidate.genome, limits)
            except InvalidGenome as error:
                return Evaluation(candidate.number, status, reason=str(error))
        if refused := self.lessons.refusal(self.pool.kind, candidate.genome):
            return Evaluation(candidate.number, "over_budget", reason=refused)
        request = self.request(candidate, parents)
        text = json.dumps(request, sort_keys=True)
        file = self.scratch / f"{candidate.number}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
        harvested = self._harvested(file)
        outcome, slot = (harvested, None) if harvested else self._trained(candidate, request, file)
        evaluation = _evaluation(candidate.number, outcome, self._givers(candidate, parents))
        return replace(evaluation, slot=slot)

    def request(self, candidate: Candidate, parents: Mapping[int, Evaluation]) -> Request:
        """Returns all that determines the result, as JSON values; its digest names the result file."""
        # of a CUDA device only the child asks: here that would take a context of its own
        recipe = settled(self.recipe, torch.device("cpu")) if self.pool.kind == "cpu" else self.recipe
        request = {
            "heritage": Heritage.of(candidate, parents, self.seed, self.founding(candidate)).to_json(),
            "fidelity": asdict(candidate.fidelity),
            "recipe": asdict(recipe),
            "data": self.prepared.file.name,
            "gradients": self.gradients,
        }
        if self.latency is None:
            return request
        return {**request, "latency": asdict(self.latency), "measured": _measured(candidate, parents)}

    def founding(self, candidate: Candidate) -> str | None:
        """Returns the digest of the stored weights that a founder of this genome begins with; None: fresh ones."""
        heir = self.heirs.get(candidate.genome.digest)
        return heir.weights if heir else self.origin

    def clear(self, numbers: set[int]) -> None:
        """Removes the result files of candidates whose evaluations are recorded."""
        for file in self.scratch.glob("[0-9]*-*"):
            if int(file.name.split("-")[0]) in numbers:
                file.unlink()

    def recall(self, candidates: Mapping[int, Candidate], evaluations: Mapping[int, Evaluation]) -> None:
        """Learns from what is recorded which networks do not fit, as it did when they were evaluated."""
        for number, evaluation in evaluations.items():
            if evaluation.status == "out_of_memory" and evaluation.slot:
                self.lessons.learn(number, kind_of(evaluation.slot), candidates[number].genome)

    def needed_weights(self) -> set[str]:
        """Returns the digests of weights that stay though no evaluation names them: of landed results, of founders."""
        outcomes = filter(None, map(landed, self.scratch.glob("*.json")))
        found = {outcome.value["weights"] for outcome in outcomes if outcome.status == "ok"}
        return found | set(filter(None, (self.origin, *(heir.weights for heir in self.heirs.values()))))

    def _givers(self, candidate: Candidate, parents: Mapping[int, Evaluation]) -> list[Evaluation]:
        """Returns the evaluations whose tensors a candidate takes, in this search or in its predecessor."""
        heir = None if candidate.parents else self.heirs.get(candidate.genome.digest)
        return [heir] if heir else [parents[number] for number in givers(candidate)]

    def _trained(self, candidate: Candidate, request: Request, file: Path) -> tuple[Outcome, str]:
        """Returns how training went, and the name of the slot; if memory ran out, how it went alone on the device."""
        with self.pool.one(candidate.number) as slot:
            outcome = self._run(slot, request, file)
        if outcome.status != "out_of_memory" or not self.sole:
            return outcome, slot.name
        with self.pool.alone(slot, candidate.number) as whole:
            second = self._run(whole, request, file)
            if second.status == "out_of_memory":
                self.lessons.learn(candidate.number, whole.kind, candidate.genome)
        return replace(second, seconds=outcome.seconds + second.seconds), whole.name

    def _run(self, slot: Slot, request: Request, file: Path) -> Outcome:
        places = [str(path.absolute()) for path in (self.prepared.file, self.store.directory)]
        given = (request, *places, slot.device, slot.share)
        if self.latency is None:
            return self.pool.run(slot, evaluate, *given, result=file, timeout=self.timeout)
        here = str(self.scratch.absolute())
        return self.pool.run(slot, evaluate_timed, *given, here, result=file, timeout=self.timeout)

    def _harvested(self, file: Path) -> Outcome | None:
        """Returns what an earlier session's child left, if it is final and its weights are there."""
        outcome = landed(file)
        if outcome is None or outcome.status not in FINAL:
            return None
        if outcome.status == "ok" and not self.store.path(outcome.value["weights"]).exists():
            return None
        return outcome


def _measured(candidate: Candidate, parents: Mapping[int, Evaluation]) -> dict[str, Any] | None:
    """Returns what the parent of a child without edits, the same network, was measured to take; None: measure it."""
    if candidate.edits or not candidate.parents:
        return None
    before = parents[candidate.parents[0]]
    known = {name: before.objectives[name] for name in LATENCY if name in before.objectives}
    return {"objectives": known, "machine": dict(before.machine)} if known else None


def _evaluation(number: int, outcome: Outcome, givers: Sequence[Evaluation]) -> Evaluation:
    value = outcome.value
    return Evaluation(
        number,
        outcome.status,
        value.get("objectives", {}),
        _with_ancestry({"seconds": outcome.seconds, **value.get("cost", {})}, givers),
        tuple(value.get("curve", ())),
        value.get("weights"),
        outcome.reason,
        tuple(Certificate.from_json(entry) for entry in value.get("certificates", ())),
        initial=value.get("initial"),
        gradients=value.get("gradients", {}),
        machine=value.get("machine", {}),
        features=value.get("features", {}),
    )


def _with_ancestry(own: Mapping[str, float], givers: Sequence[Evaluation]) -> dict[str, float]:
    """Adds what the ancestors cost, since an inherited child would be nothing without them."""
    spent = {name: float(own.get(name, 0.0)) for name in ("seconds", "examples", "train_macs")}
    before = {name: sum(giver.cost.get(f"lineage_{name}", 0.0) for giver in givers) for name in spent}
    return {**spent, **{f"lineage_{name}": value + before[name] for name, value in spent.items()}}
