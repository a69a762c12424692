"""Trainer: the evaluator that inherits, certifies, trains and judges each candidate in a process of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from genomes import Genome, InvalidGenome, Limits, check, cost
from morphism import Certificate
from search import DETERMINISTIC, Candidate, CorruptWeights, Evaluation, Fidelity, Status, WeightStore
from training import data
from training.errors import NonFinite
from training.evaluate import error
from training.inherit import Heritage, givers, inherit
from training.latency import latency, machine
from training.loop import train
from training.measurement import LATENCY, LatencySettings
from training.network import build, state
from training.recipe import Recipe
from training.stillness import Stillness
from training.worker import Outcome, landed, preload, run_isolated

FINAL = DETERMINISTIC | {"ok"}  # another attempt would end alike

Request = Mapping[str, Any]


@dataclass(frozen=True)
class Trainer:
    """An evaluator; safe to call from several threads, one slot each.

    Attributes:
        store: of the search's weights.
        prepared: the data set's file.
        recipe: how children are trained.
        seed: of the search; a candidate's own is derived from it and from its number.
        timeout: in seconds, for one candidate.
        scratch: a directory for result files; one that landed there is taken instead of training again.
        limits: of the networks; one that is over them is not built.
        origin: the digest, in the store, of the user's own network, which founders of its genome begin with.
        latency: how latency is measured; None if it is not, and children need not stand still for each other.
    """

    store: WeightStore
    prepared: data.Prepared
    recipe: Recipe
    seed: int
    timeout: float
    scratch: Path
    limits: Limits | None = None
    origin: str | None = None
    latency: LatencySettings | None = None

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
        request = self.request(candidate, parents)
        text = json.dumps(request, sort_keys=True)
        file = self.scratch / f"{candidate.number}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
        places = [str(path.absolute()) for path in (self.prepared.file, self.store.directory, self.scratch)]
        job, given = (evaluate_timed, places) if self.latency else (evaluate, places[:2])
        outcome = self._harvested(file) or run_isolated(job, request, *given, result=file, timeout=self.timeout)
        return _evaluation(candidate.number, outcome, [parents[number] for number in givers(candidate)])

    def request(self, candidate: Candidate, parents: Mapping[int, Evaluation]) -> Request:
        """Returns all that determines the result, as JSON values; its digest names the result file."""
        request = {
            "heritage": Heritage.of(candidate, parents, self.seed, self.origin).to_json(),
            "fidelity": asdict(candidate.fidelity),
            "recipe": asdict(self.recipe),
            "data": self.prepared.file.name,
        }
        if self.latency is None:
            return request
        return {**request, "latency": asdict(self.latency), "measured": _measured(candidate, parents)}

    def clear(self, numbers: set[int]) -> None:
        """Removes the result files of candidates whose evaluations are recorded."""
        for file in self.scratch.glob("[0-9]*-*"):
            if int(file.name.split("-")[0]) in numbers:
                file.unlink()

    def needed_weights(self) -> set[str]:
        """Returns the digests of weights that no evaluation names and that must stay: of landed results, the origin."""
        outcomes = filter(None, map(landed, self.scratch.glob("*.json")))
        found = {outcome.value["weights"] for outcome in outcomes if outcome.status == "ok"}
        return found | ({self.origin} if self.origin else set())

    def _harvested(self, file: Path) -> Outcome | None:
        """Returns what an earlier session's child left, if it is final and its weights are there."""
        outcome = landed(file)
        if outcome is None or outcome.status not in FINAL:
            return None
        if outcome.status == "ok" and not self.store.path(outcome.value["weights"]).exists():
            return None
        return outcome


def evaluate(
    request: Request, file: str, directory: str, attend: Callable[[nn.Module], None] = lambda _: None
) -> dict[str, Any]:
    """Runs in the child: inherits, certifies, trains, judges, and stores the weights.

    Args:
        request: see `Trainer.request`.
        file: of the prepared data.
        directory: of the weight store.
        attend: called with the network before it is trained.

    Raises:
        BuildError: the weights do not fit, the edits do not lead to the genome, or a morphism failed its certificate.
        NonFinite: the loss or a weight became NaN or infinite.
        DataError: the data file is missing or damaged.
        SearchError: weights to inherit are damaged, or the disk is full.
    """
    store, prepared = WeightStore(Path(directory)), data.Prepared.at(Path(file))
    split = data.load(prepared)
    heritage = Heritage.from_json(request["heritage"])
    genome, start = heritage.genome, inherit(heritage, store, split.train.images, prepared.normal)
    network = build(genome, start.weights)
    attend(network)
    generator = torch.Generator().manual_seed(heritage.seed)
    recipe, fidelity = Recipe(**request["recipe"]), Fidelity(**request["fidelity"])
    curve = train(network, split.train.images, split.train.labels, recipe, fidelity, generator, prepared.normal)
    judged = error(network, split.validation.images, split.validation.labels, prepared.normal)
    counted, shown = cost(genome), curve[-1]["examples"]
    return {
        "objectives": {"error": judged, **asdict(counted)},
        # a backward pass takes twice the MACs of a forward pass
        "cost": {"examples": shown, "train_macs": 3 * counted.macs * shown},
        "curve": [*curve[:-1], {**curve[-1], "validation_error": judged}],
        "weights": _stored(store, genome, network),
        "certificates": [certificate.to_json() for certificate in start.certificates],
        "initial": start.digest,
    }


def evaluate_timed(request: Request, file: str, directory: str, scratch: str) -> dict[str, Any]:
    """As `evaluate`, with the latency of what was trained; while it is measured, all others in `scratch` stand still.

    A no-op control has its parent's network, and takes over what was measured of that.
    """
    with Stillness(Path(scratch)) as stillness:
        value = evaluate(request, file, directory, stillness.attend)
        if not (measured := request["measured"]):
            genome, weights = WeightStore(Path(directory)).get(value["weights"])
            settings, shape = LatencySettings(**request["latency"]), data.Prepared.at(Path(file)).shape
            network = build(genome, weights)
            with stillness.alone():
                found = latency(network, shape, settings)
            measured = {"objectives": found.objectives, "machine": machine(settings)}
    return {**value, "objectives": {**value["objectives"], **measured["objectives"]}, "machine": measured["machine"]}


def _measured(candidate: Candidate, parents: Mapping[int, Evaluation]) -> dict[str, Any] | None:
    """Returns what a control's parent was measured to take; None if it has to be measured."""
    if not candidate.control:
        return None
    before = parents[candidate.parents[0]]
    known = {name: before.objectives[name] for name in LATENCY if name in before.objectives}
    return {"objectives": known, "machine": dict(before.machine)} if known else None


def _stored(store: WeightStore, genome: Genome, network: fx.GraphModule) -> str:
    try:
        return store.put(genome, state(network))
    except CorruptWeights as failure:
        raise NonFinite(str(failure)) from None


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
        machine=value.get("machine", {}),
    )


def _with_ancestry(own: Mapping[str, float], givers: Sequence[Evaluation]) -> dict[str, float]:
    """Adds what the ancestors cost, since an inherited child would be nothing without them."""
    spent = {name: float(own.get(name, 0.0)) for name in ("seconds", "examples", "train_macs")}
    before = {name: sum(giver.cost.get(f"lineage_{name}", 0.0) for giver in givers) for name in spent}
    return {**spent, **{f"lineage_{name}": value + before[name] for name, value in spent.items()}}
