"""Retraining: a finalist trained in full, and judged on parts of the data that no selection has seen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from search import Candidate, Evaluation, WeightStore
from training import data
from training.evaluate import error
from training.network import build
from training.trainer import Trainer
from training.worker import Outcome, landed, run_isolated

Part = Literal["second_validation", "test"]


def key(trainer: Trainer, candidate: Candidate) -> str:
    """Returns a hash of all that determines the training: genome, first weights, seed, recipe, fidelity and data."""
    text = json.dumps(trainer.request(candidate, {}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def retrain(trainer: Trainer, candidate: Candidate) -> Evaluation:
    """Trains a network in full and judges it on both validation parts.

    A training that landed and was not recorded, because whoever asked for it was killed, is not done again.

    Args:
        trainer: with the full recipe, the seed of this training, and as heirs those that do not begin from scratch.
        candidate: without parents; its fidelity is that of the training.

    Returns:
        as a search's, with `second_validation_error` as one more objective.
    """
    evaluation = trainer(candidate, {})
    if not evaluation.ok or evaluation.weights is None:
        return evaluation
    outcome = judge(trainer, evaluation.weights, "second_validation")
    if outcome.status != "ok":
        return replace(evaluation, status=outcome.status, objectives={}, reason=outcome.reason)
    seen = {**evaluation.objectives, "second_validation_error": float(outcome.value["error"])}
    return replace(evaluation, objectives=seen)


def judge(trainer: Trainer, weights: str, part: Part) -> Outcome:
    """Returns the `error` of stored weights on a part of the data, read in a process of its own."""
    file = reading(trainer, weights, part)
    file.parent.mkdir(parents=True, exist_ok=True)
    places = (str(trainer.prepared.file.absolute()), str(trainer.store.directory.absolute()))
    return run_isolated(judged, weights, part, *places, result=file, timeout=trainer.timeout)


def read_before(trainer: Trainer, weights: str, part: Part) -> Outcome | None:
    """Returns what a reading showed that landed and perhaps was not recorded; None if there is none."""
    outcome = landed(reading(trainer, weights, part))
    return outcome if outcome and outcome.status == "ok" else None


def reading(trainer: Trainer, weights: str, part: Part) -> Path:
    """Returns the file in which a reading of a part lands."""
    return trainer.scratch / "readings" / f"{part}-{weights}.json"


def judged(weights: str, part: Part, file: str, directory: str) -> Mapping[str, Any]:
    """Runs in the child: builds the network and reads the part.

    Args:
        weights: the digest.
        part: of the data.
        file: of the prepared data.
        directory: of the weight store.

    Raises:
        CorruptWeights: the weights are missing or damaged.
        DataError: the data file is.
    """
    prepared = data.Prepared.at(Path(file))
    chosen = getattr(data.load(prepared), part)
    network = build(*WeightStore(Path(directory)).get(weights))
    return {"error": error(network, chosen.images, chosen.labels, prepared.normal)}
