"""Trainer: the evaluator that inherits, certifies, trains and judges each candidate in a process of its own."""

from __future__ import annotations

import errno
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genomes import Genome, InvalidGenome, cost
from morphism import Certificate, Edit, Inapplicable
from morphism.certificate import certify
from morphism.realise import initial, realise
from search import Candidate, CorruptWeights, DiskFull, Evaluation, Fidelity, WeightStore
from training import data
from training.errors import BuildError, NonFinite, TrainingError
from training.evaluate import error
from training.isolation import Job, isolated, landed, preload
from training.loop import train
from training.network import build, state
from training.recipe import Recipe

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Trainer:
    """An evaluator; safe to call from several threads, one slot each.

    Attributes:
        store: of the search's weights.
        prepared: the data set's file.
        recipe: how children are trained.
        seed: of the search; a candidate's own is derived from it and from its number.
        timeout: in seconds, for one candidate.
        results: a directory for result files; one that is already there is taken instead of training again.
        threads: of torch, for one candidate.
    """

    store: WeightStore
    prepared: data.Prepared
    recipe: Recipe
    seed: int
    timeout: float
    results: Path
    threads: int = 1

    def __post_init__(self) -> None:
        """Gets the server that children are forked from ready."""
        self.results.mkdir(parents=True, exist_ok=True)
        preload()

    def __call__(self, candidate: Candidate, parents: Mapping[int, Evaluation]) -> Evaluation:
        """Trains and judges one candidate."""
        parent = parents[candidate.parents[0]] if candidate.parents else None
        job = self.job(candidate, parent)
        digest = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:16]
        file = self.results / f"{candidate.number}-{digest}.json"
        result = landed(file) or isolated(evaluate, job, file, self.timeout)
        evaluation = _evaluation(candidate.number, result)
        return replace(evaluation, cost=_with_ancestry(evaluation.cost, parent))

    def job(self, candidate: Candidate, parent: Evaluation | None) -> Job:
        """Returns all that determines the result, as JSON values."""
        return {
            "genome": candidate.genome.to_json().decode(),
            "edits": [edit.to_json() for edit in candidate.edits],
            "weights": parent.weights if parent else None,
            "fidelity": asdict(candidate.fidelity),
            "recipe": asdict(self.recipe),
            "data": str(self.prepared.file),
            "store": str(self.store.directory),
            "seed": _seed(self.seed, candidate.number),
            "threads": self.threads,
        }

    def clear(self, numbers: set[int]) -> None:
        """Removes the result files of candidates whose evaluations are recorded."""
        for file in self.results.iterdir():
            if int(file.name.split("-")[0]) in numbers:
                file.unlink()


def evaluate(job: Job) -> Job:
    """Runs in the child: inherits, certifies, trains and judges; every failure is a typed result."""
    torch.set_num_threads(job["threads"])
    begun = time.monotonic()
    try:
        return {"status": "ok", **_outcome(job, begun)}
    except NonFinite as failure:
        status, reason = "non_finite", str(failure)
    except (MemoryError, torch.OutOfMemoryError) as failure:
        status, reason = "out_of_memory", str(failure)
    except (DiskFull, CorruptWeights) as failure:
        status, reason = "io_error", f"disk full: {failure}" if isinstance(failure, DiskFull) else str(failure)
    except OSError as failure:
        status, reason = "io_error", f"disk full: {failure}" if failure.errno in DISK_FULL else str(failure)
    except (TrainingError, InvalidGenome, Inapplicable, RuntimeError, ValueError, KeyError) as failure:
        status, reason = "build_error", f"{type(failure).__name__}: {failure}".splitlines()[0]
    return {"status": status, "reason": reason, "cost": {"seconds": time.monotonic() - begun}}


def _outcome(job: Job, begun: float) -> dict[str, Any]:
    store, split = WeightStore(Path(job["store"])), data.load(Path(job["data"]))
    genome, fidelity = Genome.from_json(job["genome"].encode()), Fidelity(**job["fidelity"])
    weights, certificates = _inherited(job, store, genome)
    if refused := [c for c in certificates if not c.verdict]:
        raise BuildError(
            f"morphism {refused[0].rule} failed its certificate: {dict(refused[0].errors)}; please report it"
        )
    generator = torch.Generator().manual_seed(job["seed"])
    network = build(genome, weights)
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(job["seed"])  # dropout has no generator of its own
        curve = train(
            network, split.train.images, split.train.labels, Recipe(**job["recipe"]), fidelity, generator, split.normal
        )
    judged = error(network, split.validation.images, split.validation.labels, split.normal)
    counted = cost(genome)
    return {
        "objectives": {"error": judged, **asdict(counted)},
        "cost": {
            "seconds": time.monotonic() - begun,
            "examples": curve[-1]["examples"],
            "macs": 3 * counted.macs * curve[-1]["examples"],
        },
        "curve": [*curve[:-1], {**curve[-1], "validation_error": judged}],
        "weights": _stored(store, genome, network),
        "certificates": [certificate.to_json() for certificate in certificates],
    }


def _inherited(job: Job, store: WeightStore, genome: Genome) -> tuple[dict[str, Tensor], list[Certificate]]:
    if job["weights"] is None:
        return initial(genome, job["seed"]), []
    parent, weights = store.get(job["weights"])
    certificates = []
    for document in job["edits"]:
        edit = Edit.from_json(document)
        child = realise(edit, weights)
        certificates.append(certify(parent, edit, weights, child, job["seed"]))
        weights, parent = child, edit.genome
    return weights, certificates


def _stored(store: WeightStore, genome: Genome, network: torch.nn.Module) -> str:
    try:
        return store.put(genome, state(genome, network))
    except CorruptWeights as failure:
        raise NonFinite(str(failure)) from None


def _evaluation(number: int, result: Job) -> Evaluation:
    certificates = tuple(Certificate.from_json(entry) for entry in result.get("certificates", ()))
    known = {
        key: value for key, value in result.items() if key in ("status", "objectives", "cost", "weights", "reason")
    }
    return Evaluation(number, **known, curve=tuple(result.get("curve", ())), certificates=certificates)


def _with_ancestry(own: Mapping[str, float], parent: Evaluation | None) -> dict[str, float]:
    """Adds what the ancestors cost, since an inherited child would be nothing without it."""
    spent = {name: float(own.get(name, 0.0)) for name in ("seconds", "examples", "macs")}
    before = parent.cost if parent else {}
    return {**spent, **{f"lineage_{name}": value + before.get(f"lineage_{name}", 0.0) for name, value in spent.items()}}


def _seed(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:7], "big")
