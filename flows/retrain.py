"""The retrain flow: one flow run trains the finalists of a search in full, one task run is one training."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from flows import settings  # before prefect, which reads its settings when it is imported

# isort: split
from prefect import State, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed
from rich.console import Console
from rich.text import Text

from flows import assembly, hearing, report, terminal
from flows.champions import evidence
from flows.champions.champion import Decision, decide
from flows.config import SearchConfig, stored, validated
from flows.finalists import finalists
from flows.home import BadInput, Home
from flows.search import THREADS, stop_children, submitted
from flows.standings import JUDGED, Standing, leader, ranked, show, verdict, words
from search import INFRASTRUCTURAL, Candidate, DiskFull, Evaluation, Ledger, Retraining, Retrainings, WeightStore

if TYPE_CHECKING:
    from training.trainer import Trainer

assert settings.DEFAULTS
ATTEMPTS = 3  # as in a search: an infrastructural failure is tried again twice


class Job(NamedTuple):
    """One training that is wanted.

    Attributes:
        key: that it is recorded under.
        candidate: without parents; it begins with fresh weights, or with a warm start from the search's.
        seed: which of the candidate's trainings, from 0.
        trainer: with the full recipe and this training's seed.
    """

    key: str
    candidate: Candidate
    seed: int
    trainer: "Trainer"

    @property
    def label(self) -> str:
        """What people call it."""
        return f"child {self.candidate.number}, seed {self.seed}"


@task(name="retraining", task_run_name="{label}", cache_policy=NO_CACHE, persist_result=False)
def retraining(label: str, work: Callable[[], Evaluation]) -> State[Any]:  # noqa: ARG001  Prefect reads the label
    """Trains one finalist with one seed; the state and its message say what became of it."""
    evaluation = work()
    said = words(evaluation)
    return Completed(message=said) if evaluation.ok else Failed(message=said)


@flow(
    name="retrain",
    flow_run_name="{name}",
    task_runner=THREADS,
    persist_result=False,
    validate_parameters=True,
)
@hearing.heard
def retrain(
    name: str,
    top: int | None = None,
    seeds: int | None = None,
    examples: int | None = None,
    warm_start: bool | None = None,
    home: Path = Path("searches"),
) -> dict[str, Any]:
    """Trains the finalists of a search in full, chooses one, and reads the test part for it, once.

    The choice becomes champion of the search if it is better than the present one by more than chance. What was
    trained before with the same settings is taken from the record. The search may be running.

    Args:
        name: of the search.
        top: how many finalists; None: as configured.
        seeds: how often each is trained; None: as configured.
        examples: shown in each training; None: as configured.
        warm_start: whether a training begins with the weights that the search left, or from scratch; None: as
            configured.
        home: the directory that holds searches.
    """
    from flows.champions import registry
    from flows.tracking import Tracker

    place, screen = Home(home), terminal.console()
    with ExitStack() as stack:
        with Ledger.read(place.search(name)) as ledger:
            config = configured(ledger.config, name, top, seeds, examples, warm_start)
            if not report.best(ledger):
                raise BadInput(f"search {name} must have a candidate that was trained with success: it has none yet")
            record = stack.enter_context(Retrainings.open(place.search(name) / assembly.RETRAIN))
            best, genomes = chosen(ledger, record, config.retrain.top)
        evaluator = retrainer(config, place, best, genomes)
        _tidy(record, evaluator)
        for heir in evaluator.heirs.values():
            evaluator.store.put(*WeightStore(place.search(name) / assembly.WEIGHTS).get(heir.weights or ""))
        stack.callback(stop_children, evaluator.pool)
        tracker = Tracker(place, name, config.tracking, config.facts())
        jobs = list(wanted(config, evaluator, [genomes[evaluation.number] for evaluation in best]))
        _train(jobs, record, config, len(evaluator.pool.slots), tracker.tell_retrained, screen)
        done = record.recorded()
        standings = ranked(best, [done[job.key] for job in jobs])
        winner = leader(standings)
        before = winner is not None and _tested(record, evaluator, winner)
        evaluator.clear(set(genomes))
        decision = _decided(record, winner, standings, genomes, evaluator, config) if winner else None
        tracked = tracker.tell_retrained(record) and registry.tell(tracker, place, record)
        tests, told = record.test_errors(), verdict(record)
    show(standings, tests, screen)
    if winner is None or decision is None:
        raise BadInput(f"one training at least must succeed, all {len(jobs)} failed: another recipe, or more memory")
    test = tests.get(winner.evaluation.weights or "")
    hearing.show(evidence.page(name, decision, test), f"champion-{name}", decision.words)
    return {
        "asked": config.retrain.top,
        "finalists": len(best),
        "number": winner.number,
        "seed": winner.seed,
        "second_validation_error": winner.evaluation.objectives[JUDGED],
        "test_error": tests[winner.evaluation.weights or ""],
        "weights": winner.evaluation.weights,
        "champion": decision.outcome != "refused",
        "decision": decision.words,
        "verdict": f"{told}{'; as recorded before' if before else ''}",
        "tracked": tracked,
    }


def lacking(name: str, home: Home) -> bool:
    """Says whether a search's finalists, as it is configured, lack a training, or what follows from all of them.

    Whoever trained them may have been killed before the choice, the reading of the test part or the decision. A choice
    among trainings by another recipe or schedule is left as it is.
    """
    directory = home.search(name)
    with Ledger.read(directory) as ledger, Retrainings.read(directory / assembly.RETRAIN) as record:
        config, done = stored(ledger), record.recorded()
        best, genomes = chosen(ledger, record, config.retrain.top)
        choice, read, place = record.chosen(), record.test_errors(), record.holders().champion
        decided = [one.key for one in record.promotions() if one.outcome != "restored"][-1:]
    trainer = retrainer(config, home, best, genomes)
    keys = [job.key for job in wanted(config, trainer, [genomes[evaluation.number] for evaluation in best])]
    if not done.keys() >= set(keys):
        return True
    winner = leader(ranked(best, [done[key] for key in keys]))
    if winner is None:
        return False
    if choice is None or choice.evaluation.weights not in read or choice.key not in (place, *decided):
        return True
    return choice.key != winner.key and choice.setting == winner.setting


def chosen(ledger: Ledger, record: Retrainings, top: int) -> tuple[list[Evaluation], dict[int, Candidate]]:
    """Returns the finalists, the best one first, and their candidates by number."""
    best = finalists(ledger, top, {one.number for one in record.recorded().values()})
    return best, ledger.candidates([evaluation.number for evaluation in best])


def retrainer(
    config: SearchConfig, home: Home, best: Sequence[Evaluation], genomes: Mapping[int, Candidate]
) -> "Trainer":
    """Returns the evaluator of these finalists; with a warm start it is to be given the weights that they begin with.

    Raises:
        BadInput: the search's data cannot be had.
    """
    heirs = {genomes[one.number].genome.digest: one for one in best if config.retrain.warm_start}
    return replace(assembly.retrainer(config, home), heirs=heirs)


def configured(
    document: Mapping[str, Any],
    name: str,
    top: int | None = None,
    seeds: int | None = None,
    examples: int | None = None,
    warm_start: bool | None = None,
) -> SearchConfig:
    """Returns a search's configuration with other settings for its finalists.

    Raises:
        BadInput: one of them is out of its range.
    """
    given = {"top": top, "seeds": seeds, "warm_start": warm_start}
    changed = {**document.get("retrain", {}), **{key: value for key, value in given.items() if value is not None}}
    if examples is not None:
        changed["fidelity"] = {**document["fidelity"], **(changed.get("fidelity") or {}), "examples": examples}
    return validated({**document, "name": name, "retrain": changed}, name)


def wanted(config: SearchConfig, evaluator: "Trainer", chosen: Sequence[Candidate]) -> Iterator[Job]:
    """Yields the trainings of finalists: all of them with the first seed, then all with the next.

    The seeds are none of the search's own; a finalist draws from each what nobody else draws.
    """
    from training.retraining import key

    for seed in range(config.retrain.seeds):
        own = hashlib.sha256(f"retrain:{config.seed}:{seed}".encode()).digest()[:6]
        trainer = replace(evaluator, seed=int.from_bytes(own, "big"))
        for one in chosen:
            candidate = Candidate(one.number, one.genome, fidelity=config.full()[1])
            yield Job(key(trainer, candidate), candidate, seed, trainer)


def _train(
    jobs: Sequence[Job],
    record: Retrainings,
    config: SearchConfig,
    slots: int,
    tell: Callable[[Retrainings], bool],
    screen: Console,
) -> None:
    """Trains and records what is not recorded yet; MLflow hears of each, until it does not listen."""
    done = record.recorded()
    missing = [job for job in jobs if job.key not in done or not done[job.key].final]
    screen.print(f"{len(jobs)} trainings, {len(jobs) - len(missing)} of them known")
    recipe, fidelity = config.full()
    setting = {"recipe": asdict(recipe), "fidelity": asdict(fidelity), "warm_start": config.retrain.warm_start}
    told = True
    for count, (job, evaluation) in enumerate(_landing(missing, slots), 1):
        record.record(Retraining(job.key, job.candidate.number, job.seed, setting, evaluation))
        said = f"{count} of {len(missing)} · {job.label}: {words(evaluation)}"
        screen.print(Text(f"{said} in {evaluation.cost.get('seconds', 0):.0f} CPU s"))
        told = told and tell(record)


def _landing(jobs: Sequence[Job], slots: int) -> Iterator[tuple[Job, Evaluation]]:
    """Yields each job with what became of it, in the order in which they end; as many run at a time as there are slots.

    Attempts are repeated here and not in the task, which a flow that is stopped would have to wait for.

    Raises:
        DiskFull: there was no room for a result.
    """
    landed: SimpleQueue[tuple[Job, int, Evaluation | BaseException]] = SimpleQueue()
    waiting, flying = deque((job, 1) for job in jobs), 0
    while waiting or flying:
        while waiting and flying < slots:
            _start(*waiting.popleft(), landed)
            flying += 1
        job, attempt, outcome = landed.get()
        flying -= 1
        if isinstance(outcome, BaseException):
            raise outcome
        if outcome.reason.startswith("disk full"):
            raise DiskFull(f"{job.label}: {outcome.reason}: make room, then go on")
        if outcome.status in INFRASTRUCTURAL and attempt < ATTEMPTS:
            waiting.append((job, attempt + 1))
        else:
            yield job, outcome


def _start(job: Job, attempt: int, landed: "SimpleQueue[tuple[Job, int, Evaluation | BaseException]]") -> None:
    """Starts a training as one Prefect task run, which puts what became of it into a queue, once."""
    from training.retraining import retrain as trained

    work = partial(trained, job.trainer, job.candidate)
    submitted(retraining, job.label, work, lambda outcome: landed.put((job, attempt, outcome)))


def _tidy(record: Retrainings, evaluator: "Trainer") -> None:
    """Removes weights of trainings that were cut off; those that landed are kept, to be taken."""
    kept = {one.evaluation.weights for one in record.recorded().values() if one.evaluation.weights}
    evaluator.store.collect(kept | evaluator.needed_weights())


def _decided(
    record: Retrainings,
    chosen: Retraining,
    standings: Sequence[Standing],
    genomes: Mapping[int, Candidate],
    evaluator: "Trainer",
    config: SearchConfig,
) -> Decision:
    """Decides whether the choice becomes champion, within the limits of the search."""
    architectures = {number: candidate.genome for number, candidate in genomes.items()}
    images = evaluator.prepared.sizes["second_validation"]
    return decide(record, chosen, standings, architectures, images, asdict(config.space.budgets))


def _tested(record: Retrainings, evaluator: "Trainer", winner: Retraining) -> bool:
    """Records a choice and the test error of its network; returns whether that was known before.

    Raises:
        BadInput: the test part could not be read.
    """
    from training.retraining import judge, read_before

    weights = winner.evaluation.weights or ""
    record.choose(winner.key)
    if weights in record.test_errors():
        return True
    outcome = read_before(evaluator, weights, "test")
    if outcome is None:
        record.reading_begins(weights)
        outcome = judge(evaluator, weights, "test")
    if outcome.status != "ok":
        raise BadInput(f"the test part could not be read ({outcome.status}: {outcome.reason}); try again")
    record.reading_ended(weights, outcome.value["error"])
    return False
