"""The arms of search_quality.py: each spends its budget on one seed, and what it picks is trained from scratch alike.

All that takes long can end between two trainings, and goes on in the next session: a search from its ledger, a
retraining from the results that landed, the long training from its last segment.
"""

from __future__ import annotations

import hashlib
import json
import random
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from family import DATA
from long_training import keep, kept, planned, trained
from optuna_chain import OptunaChain

from evo import DISRUPTIONS, NSGA2, NSGA2Settings, judged
from genomes import Genome, cost
from genomes.spaces.residual import ResidualLimits, ResidualSpace
from morphism import CATALOGUE
from search import Budget, Candidate, Done, Evaluation, Evaluator, Fidelity, Ledger, Strategy, WeightStore, drive
from strategies import RandomSearch
from training import DataSpec, Prepared, Recipe, Trainer
from training.retraining import Part, judge, retrain

OPTUNA = "Optuna's NSGA-II"
INHERITED = "inherited"
ARMS = (INHERITED, "from scratch", "random", "largest", "starter", "no search", OPTUNA)
DRAWN = 500  # members of the space, of which the largest is taken
SECOND: Part = "second_validation"


@dataclass(frozen=True)
class Size:
    """How much is measured, and of what.

    Attributes:
        budget: processor seconds of the children of one search.
        data: what is learnt.
        limits: of all networks.
        bounds: of parameters, rising; under each of them an arm picks a network; the last one is that of the limits.
        recipe: of every training.
        examples: that a child is shown.
        finalists: under each bound, that are trained from scratch to choose one of them.
        retrained: examples that each of these trainings shows.
        trainings: of the chosen ones, anew; their mean error counts.
        segments: that the one long training is cut into.
    """

    budget: float
    data: DataSpec
    limits: ResidualLimits
    bounds: tuple[int, ...]
    recipe: Recipe
    examples: int
    finalists: int
    retrained: int
    trainings: int
    segments: int

    @property
    def digest(self) -> str:
        """A short hash of all of it: records of another size are none of this one."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


FULL = Size(
    budget=1_200.0,
    data=DATA,
    limits=ResidualLimits(parameters=10_000, macs=500_000),
    bounds=(2_500, 5_000, 10_000),
    recipe=Recipe(batch_size=128, learning_rate=0.15, crop=2, flip=True),
    examples=30_000,
    finalists=3,
    retrained=300_000,
    trainings=2,
    segments=20,
)
LARGE = replace(  # the limits and the schedule of the preset of Fashion-MNIST
    FULL,
    data=DataSpec("fashion_mnist", validation=0.1, second_validation=0.2),
    limits=ResidualLimits(parameters=100_000, macs=8_000_000),
    bounds=(100_000,),
    retrained=200_000,
    trainings=1,
)
QUICK = Size(
    budget=3.0,
    data=DataSpec("digits", validation=0.25),
    limits=ResidualLimits(parameters=30_000, macs=2_000_000),
    bounds=(5_000, 30_000),
    recipe=Recipe(batch_size=64),
    examples=500,
    finalists=2,
    retrained=1_000,
    trainings=1,
    segments=2,
)


class TimeUp(Exception):
    """The session's time is up; what is done is kept."""


class Job(NamedTuple):
    """One arm with one seed.

    Attributes:
        arm: its name.
        seed: of all that is random in it.
        size: how much of everything.
        prepared: the data's file.
        directory: of what is kept until the job is done.
        until: on the monotonic clock, in seconds; afterwards nothing is begun.
    """

    arm: str
    seed: int
    size: Size
    prepared: Prepared
    directory: Path
    until: float

    @property
    def space(self) -> ResidualSpace:
        """The space of the data and the limits."""
        return ResidualSpace(self.prepared.shape, self.prepared.classes, self.size.limits)

    def trainer(self, name: str, seed: int) -> Trainer:
        """Returns an evaluator with weights and results of its own."""
        own = self.directory / name
        store, limits = WeightStore(own / "weights"), self.size.limits.budgets
        return Trainer(store, self.prepared, self.size.recipe, seed, 1_800, own / "results", limits)

    def left(self) -> float:
        """Returns the seconds that are left.

        Raises:
            TimeUp: none are.
        """
        if (left := self.until - time.monotonic()) <= 0:
            raise TimeUp
        return left


@dataclass(frozen=True)
class Found:
    """What an arm finds.

    Attributes:
        finalists: under each bound of parameters, the best first; none where there is no network so small.
        left: under each bound, the weights with the least measured error, as the search leaves them; none of an arm
            that trains nothing.
        trained: the weights that the search leaves in a network, by its digest.
        seconds: processor seconds of all children.
        children: that were trained; repeats of what was known are not counted.
    """

    finalists: Mapping[int, Sequence[Genome]]
    left: Mapping[int, str] = field(default_factory=dict)
    trained: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    children: int = 0


@dataclass(frozen=True)
class FromScratch:
    """An evaluator that trains a strategy's candidates without their parents' weights.

    A no-op control, which would be its parent's training once more, fails at once and costs nothing.

    Attributes:
        trainer: that it hands candidates to.
    """

    trainer: Trainer

    def __call__(self, candidate: Candidate, parents: Mapping[int, Evaluation]) -> Evaluation:  # noqa: ARG002
        """Trains and judges one candidate from fresh weights."""
        if candidate.control:
            return Evaluation(candidate.number, "over_budget", reason="without inheritance a control shows nothing")
        return self.trainer(replace(candidate, parents=(), edits=()), {})


@contextmanager
def strategy(job: Job) -> Iterator[Strategy]:
    """Yields what proposes the candidates of an arm, as the product has it by default."""
    space, fidelity = job.space, Fidelity(job.size.examples)
    if job.arm == OPTUNA:
        chain = OptunaChain(space, job.seed, fidelity)
        try:
            yield chain
        finally:
            chain.close()
    elif job.arm == "random":
        edits = (*CATALOGUE, *DISRUPTIONS)
        yield RandomSearch(space, space.limits.budgets, job.seed, None, fidelity, edits)
    else:
        settings = NSGA2Settings()
        founders = space.founders(job.seed, settings.founders)
        yield NSGA2(founders, space.limits.budgets, job.seed, settings, fidelity=fidelity)


def searched(job: Job) -> Found:
    """Searches until the budget is spent, one child at a time; finalists have the least judged error under each bound.

    Raises:
        TimeUp: before the budget was.
    """
    trainer = job.trainer("search", job.seed)
    evaluator: Evaluator = FromScratch(trainer) if job.arm == "from scratch" else trainer

    def dispatch(candidate: Candidate, parents: Mapping[int, Evaluation], done: Done) -> None:
        done(evaluator(candidate, parents))

    with strategy(job) as proposing, Ledger.create(job.directory / "ledger", {}) as ledger:
        before = ledger.spent().elapsed_seconds
        drive(proposing, dispatch, ledger, Budget(cpu_seconds=job.size.budget, seconds=before + job.left()))
        if ledger.spent().train_seconds < job.size.budget:
            job.left()  # else it has nothing more to propose
        return picked(ledger, job.size)


def picked(ledger: Ledger, size: Size) -> Found:
    """Returns the networks with the least errors under each bound of parameters, as the product judges errors."""
    told = ledger.evaluations().values()
    errors = judged("corrected", told)
    good = sorted((e for e in told if e.ok), key=lambda e: (errors[e.number], e.objectives["parameters"]))
    genomes = [(e.objectives["parameters"], ledger.candidate(e.number).genome) for e in good]
    children = sum(e.cost.get("seconds", 0.0) > 0 for e in told)
    stored = sorted((e for e in good if e.weights), key=lambda e: e.objectives["error"])
    trained = {  # of those of one network, the best
        ledger.candidate(e.number).genome.digest: e.weights for e in reversed(stored) if e.weights
    }
    fitting = {bound: [e.weights for e in stored if e.objectives["parameters"] <= bound] for bound in size.bounds}
    left = {bound: weights[0] for bound, weights in fitting.items() if weights}
    return Found(first(genomes, size), left, trained, ledger.spent().train_seconds, children)


def largest(job: Job) -> Found:
    """Returns the largest of many random members under each bound; nothing is trained."""
    rng, space = random.Random(f"{job.seed}:largest"), job.space
    drawn = [space.sample(rng) for _ in range(DRAWN)]
    by_size = sorted(((cost(genome).parameters, genome) for genome in drawn), key=lambda pair: -pair[0])
    return Found(first(by_size, job.size))


def starter(job: Job) -> Found:
    """Returns the first starter under each bound that it fits; nothing is trained."""
    genome = job.space.starters()[0]
    return Found(first([(cost(genome).parameters, genome)], job.size))


def first(genomes: Sequence[tuple[float, Genome]], size: Size) -> dict[int, list[Genome]]:
    """Returns, of networks with their parameters, the first few different ones under each bound that has any."""
    fitting = {bound: [genome for count, genome in genomes if count <= bound] for bound in size.bounds}
    return {bound: list(dict.fromkeys(found))[: size.finalists] for bound, found in fitting.items() if found}


def retrained(job: Job, found: Found) -> Iterator[dict[str, Any]]:
    """Yields what the chosen networks are worth, trained from scratch with the seeds that all arms have.

    Of the finalists under a bound the one with the least validation error after one training is chosen, and trained
    anew.

    Raises:
        RuntimeError: a training failed.
        TimeUp: before all were trained.
    """
    finals = {genome: trained_anew(job, genome, 0) for genomes in found.finalists.values() for genome in genomes}
    spent = sum(final.cost["seconds"] for final in finals.values())
    chosen = {
        bound: min(genomes, key=lambda genome: finals[genome].objectives["error"])
        for bound, genomes in found.finalists.items()
    }
    for genome in dict.fromkeys(chosen.values()):
        again = [trained_anew(job, genome, number + 1) for number in range(job.size.trainings)]
        errors = [evaluation.objectives[f"{SECOND}_error"] for evaluation in again]
        seconds = spent + sum(evaluation.cost["seconds"] for evaluation in again)
        record = pick(genome, [bound for bound, one in chosen.items() if one == genome], errors, seconds)
        if weights := found.trained.get(genome.digest):
            on = [trained_on(job, genome, weights, number + 1) for number in range(job.size.trainings)]
            record["on"] = statistics.mean(on)
        yield record
        spent = 0.0


def trained_anew(job: Job, genome: Genome, number: int) -> Evaluation:
    """Returns one full training from scratch, judged on both validation parts.

    Raises:
        RuntimeError: it failed.
        TimeUp: the session's time is up.
    """
    job.left()
    trainer = job.trainer("retrain", 1_000_000 + 1_000 * job.seed + number)
    evaluation = retrain(trainer, Candidate(0, genome, fidelity=Fidelity(job.size.retrained)))
    if not evaluation.ok:
        raise RuntimeError(f"a retraining must succeed, it ended with {evaluation.status}: {evaluation.reason}")
    return evaluation


def trained_on(job: Job, genome: Genome, weights: str, number: int) -> float:
    """Returns the error on the second validation part after as full a training, begun with what the search left.

    Raises:
        RuntimeError: it failed.
        TimeUp: the session's time is up.
    """
    job.left()
    trainer = job.trainer("search", 1_000_000 + 1_000 * job.seed + number)
    control = Candidate(1, genome, parents=(0,), fidelity=Fidelity(job.size.retrained))
    evaluation = trainer(control, {0: Evaluation(0, "ok", weights=weights)})
    if not evaluation.ok or evaluation.weights is None:
        raise RuntimeError(f"a training must succeed, it ended with {evaluation.status}: {evaluation.reason}")
    return second(job, evaluation.weights)


def pick(genome: Genome, bounds: list[int], errors: list[float], seconds: float) -> dict[str, Any]:
    """Returns the record of a chosen network: where it is the one, its size, its mean error, what retraining cost."""
    counted = cost(genome)
    sizes = {"parameters": counted.parameters, "macs": counted.macs, "genome": genome.digest}
    return {"bounds": bounds, **sizes, "error": statistics.mean(errors), "errors": errors, "seconds": seconds}


def unsearched(job: Job) -> tuple[Found, list[dict[str, Any]]]:
    """Returns the first starter after one schedule that costs the whole budget.

    Raises:
        RuntimeError: a segment failed, or the judgement.
        TimeUp: before all segments were trained.
    """
    finalists = starter(job).finalists
    bounds, genome = list(finalists), next(iter(finalists.values()))[0]
    trainer, file = job.trainer("search", job.seed), job.directory / "segments.jsonl"
    while len(done := kept(file)) <= job.size.segments:
        job.left()
        keep(file, trained(trainer, genome, done, planned(done, job.size.budget, job.size.segments, job.size.examples)))
    weights = done[-1].weights
    found = Found(finalists, dict.fromkeys(bounds, weights), seconds=sum(one.seconds for one in done), children=1)
    return found, [pick(genome, bounds, [second(job, weights)], 0.0)]


def second(job: Job, weights: str) -> float:
    """Returns the error on the second validation part of what a search left.

    Raises:
        RuntimeError: the judgement failed.
    """
    outcome = judge(job.trainer("search", job.seed), weights, SECOND)
    if outcome.status != "ok":
        raise RuntimeError(f"a network must be judged, this ended with {outcome.status}: {outcome.reason}")
    return float(outcome.value["error"])


@cache
def revision() -> str:
    """Returns which version of the code this was when first asked, as git says; empty if it does not."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def measured(job: Job) -> dict[str, Any]:
    """Returns the record of one arm with one seed.

    Raises:
        TimeUp: before it was complete.
    """
    job.left()
    version = revision()  # before the first record changes a file of the repository
    job.directory.mkdir(parents=True, exist_ok=True)
    if job.arm == "no search":
        found, picks = unsearched(job)
    else:
        found = {"largest": largest, "starter": starter}.get(job.arm, searched)(job)
        picks = list(retrained(job, found))
    retraining = sum(one["seconds"] for one in picks)
    judged_once = {weights: second(job, weights) for weights in set(found.left.values())}
    left = {str(bound): judged_once[weights] for bound, weights in found.left.items()}
    own = {
        "arm": job.arm,
        "seed": job.seed,
        "size": job.size.digest,
        "revision": version,
        "picks": picks,
        "left": left,
    }
    return {**own, "search": found.seconds, "retraining": retraining, "children": found.children}
