"""Trainer: the evaluator that inherits, certifies, trains and judges each candidate in a process of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genomes import Genome, InvalidGenome, Limits, check, cost
from morphism import Certificate
from search import DETERMINISTIC, Candidate, CorruptWeights, Evaluation, Fidelity, Status, WeightStore
from training import data
from training.errors import NonFinite
from training.evaluate import error, judged
from training.inherit import Heritage, givers, inherit
from training.loop import settled, train
from training.network import build, state
from training.recipe import Recipe
from training.sensitivity import sensitivities
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
        gradients: whether evaluations say which edits the loss wants.
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
        outcome = self._harvested(file) or run_isolated(
            evaluate,
            request,
            str(self.prepared.file.absolute()),
            str(self.store.directory.absolute()),
            result=file,
            timeout=self.timeout,
        )
        return _evaluation(candidate.number, outcome, [parents[number] for number in givers(candidate)])

    def request(self, candidate: Candidate, parents: Mapping[int, Evaluation]) -> Request:
        """Returns all that determines the result, as JSON values; its digest names the result file."""
        return {
            "heritage": Heritage.of(candidate, parents, self.seed, self.origin).to_json(),
            "fidelity": asdict(candidate.fidelity),
            "recipe": asdict(settled(self.recipe)),
            "data": self.prepared.file.name,
            "gradients": self.gradients,
        }

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


def evaluate(request: Request, file: str, directory: str) -> dict[str, Any]:
    """Runs in the child: inherits, certifies, trains, judges, and stores the weights.

    Args:
        request: see `Trainer.request`.
        file: of the prepared data.
        directory: of the weight store.

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
    generator = torch.Generator().manual_seed(heritage.seed)
    recipe, fidelity = Recipe(**request["recipe"]), Fidelity(**request["fidelity"])
    curve = train(network, split.train.images, split.train.labels, recipe, fidelity, generator, prepared.normal)
    count = judged(fidelity, len(split.validation.labels))
    wrong = error(network, split.validation.images[:count], split.validation.labels[:count], prepared.normal)
    counted, shown, weights = cost(genome), curve[-1]["examples"], state(network)
    wanted = sensitivities(genome, weights, *split.train, prepared.normal) if request["gradients"] else {}
    return {
        "objectives": {"error": wrong, **asdict(counted)},
        # a backward pass takes twice the MACs of a forward pass
        "cost": {"examples": shown, "train_macs": 3 * counted.macs * shown},
        "curve": [*curve[:-1], {**curve[-1], "validation_error": wrong, "validation_images": count}],
        "weights": _stored(store, genome, weights),
        "certificates": [certificate.to_json() for certificate in start.certificates],
        "initial": start.digest,
        "gradients": wanted,
    }


def _stored(store: WeightStore, genome: Genome, weights: Mapping[str, Tensor]) -> str:
    try:
        return store.put(genome, weights)
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
        gradients=value.get("gradients", {}),
    )


def _with_ancestry(own: Mapping[str, float], givers: Sequence[Evaluation]) -> dict[str, float]:
    """Adds what the ancestors cost, since an inherited child would be nothing without them."""
    spent = {name: float(own.get(name, 0.0)) for name in ("seconds", "examples", "train_macs")}
    before = {name: sum(giver.cost.get(f"lineage_{name}", 0.0) for giver in givers) for name in spent}
    return {**spent, **{f"lineage_{name}": value + before[name] for name, value in spent.items()}}
