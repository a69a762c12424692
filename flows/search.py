"""The search flow: one flow run is one search, one task run is one child."""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from multiprocessing import active_children
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, cast

from flows import settings  # before prefect, which reads its settings when it is imported

# isort: split
from prefect import State, Task, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows import report
from flows.assembly import FREE, document, keep, planned, tidy, trainer
from flows.assembly import slots as wanted_slots
from flows.config import SearchConfig, SearchName, Seconds, Seed
from flows.hearing import heard
from flows.home import BadInput, Home
from flows.slots import SlotWords
from flows.terminal import display
from search import Candidate, Dispatch, Done, Evaluation, Evaluator, Ledger, drive, sha256

if TYPE_CHECKING:
    from flows.cluster.runner import Remote
    from training.pool import Pool

assert settings.DEFAULTS
log = logging.getLogger("morphogen.search")
SECONDS_TO_STOP = 20.0  # within the 30 that Prefect gives a flow before it kills it
# Threads are made when they are needed; the loop keeps no more tasks in flight than there are slots.
THREADS = cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner[Any](max_workers=256))


@task(name="child", task_run_name="{label}", cache_policy=NO_CACHE, persist_result=False)
def child(label: str, work: Callable[[], Evaluation]) -> State[Any]:  # noqa: ARG001  Prefect reads the label
    """Evaluates one child; `label` names the task run, whose state and message say what became of it."""
    return became(work())


def became(evaluation: Evaluation, data: str | None = None) -> State[Any]:
    """Returns the state of a task run whose child was evaluated: how well and where, or why not.

    Args:
        evaluation: of the child.
        data: what the state is to hold.
    """
    where = f" on {evaluation.slot}" if evaluation.slot else ""
    if evaluation.ok:
        return Completed(message=f"error {evaluation.objectives['error']:.4f}{where}", data=data)
    return Failed(message=f"{evaluation.status}{where}: {evaluation.reason}", data=data)


def label(candidate: Candidate) -> str:
    """Returns what a candidate's task run is called: its number, its edits and whose child it is."""
    origin = f" of {candidate.parents[0]}" if candidate.parents and candidate.promotes is None else ""
    return f"{candidate.number} {report.edits(candidate)}{origin}"


def searched() -> str:
    """Returns the name of the search that this flow run is."""
    given = flow_run.parameters
    return str(given["name"] or SearchConfig.model_validate(given["config"]).name)


@flow(
    name="search",
    flow_run_name=searched,
    task_runner=THREADS,
    persist_result=False,
    validate_parameters=True,
)
@heard
def search(
    config: SearchConfig,
    home: Path = Path("searches"),
    name: SearchName | None = None,
    seed: Seed | None = None,
    seconds: Seconds | None = None,
    slots: SlotWords | None = None,
) -> dict[str, Any]:
    """Runs a search, or goes on with the one of this name and configuration; returns what was spent and found.

    Args:
        config: the whole experiment.
        home: the directory that holds searches.
        name: of the search, instead of the configuration's.
        seed: of every random choice, instead of the configuration's.
        seconds: bound of the whole search's wall clock, instead of the configuration's.
        slots: where children are trained, instead of the configuration's: cpu:N, cuda:N, cuda:N@0,1, ray:N@HOST:PORT.
    """
    from flows.tracking import Tracker

    config = config.changed(name=name, seed=seed, seconds=seconds, slots=slots)
    place = Home(home)
    place.make()
    places = wanted_slots(config)
    if warning := config.slots.crowded():
        log.warning(warning)
    prepared, strategy, begun = planned(config, place)
    tracker = Tracker(place, config.name, config.tracking, config.facts())
    if config.name not in place.names():
        tracker.check()  # a new search wants to know; one that goes on is not stopped by a dead server
    with ExitStack() as stack:
        remote = stack.enter_context(connection(config))
        ledger = stack.enter_context(Ledger.create(place.search(config.name), document(config, place), FREE))
        prepared = keep(config, place, prepared, begun)
        ledger.pin("data", sha256(prepared.file), f"the data in {prepared.file}")
        evaluator = trainer(config, place, prepared, places)
        tidy(ledger, evaluator)
        stack.enter_context(tracker.running())
        stack.callback(stop_children, evaluator.pool)
        watch = stack.enter_context(display(config.budget, evaluator.pool.occupied))
        dispatch = stack.enter_context(remote(config, place, evaluator)) if remote else dispatcher(evaluator)
        beside = report.beside_error(report.axes(ledger))
        progress = drive(strategy, dispatch, ledger, config.budget, len(places), watch, beside)
    best = progress.best
    return {
        "evaluations": progress.spent.evaluations,
        "seconds": progress.spent.elapsed_seconds,
        "failures": progress.spent.failures,
        "share": progress.share,
        "best": best and {"number": best.number, **best.objectives},
        "untracked": tracker.lag(),
        "address": tracker.address(),
    }


def stop_children(pool: "Pool") -> None:
    """Kills the children in flight, if a flow ends with any, and waits for their threads: Prefect would wait longer.

    More than once, since a thread that was given a slot may start its process after the first look.
    """
    pool.close()
    deadline = time.monotonic() + SECONDS_TO_STOP
    while True:
        for process in active_children():
            if isinstance(process, ForkServerProcess):
                with suppress(ValueError):  # its own thread was faster
                    process.kill()
        if not pool.occupied() or time.monotonic() > deadline:
            return
        time.sleep(0.02)


def connection(config: SearchConfig) -> "AbstractContextManager[Remote | None]":
    """Returns the connection to the cluster that a configuration asks for; None of it if it asks for none.

    Raises:
        BadInput: what a cluster needs is not installed, or, on entering, it cannot be reached.
    """
    if config.slots.ray is None:
        return nullcontext()
    try:
        from flows.cluster.runner import connected
    except ImportError as error:
        raise BadInput(f"slots.ray must come with its extra: pip install -e '.[ray]' ({error})") from None
    return connected(config.slots.ray)


def dispatcher(evaluator: Evaluator) -> Dispatch:
    """Returns what the loop starts evaluations with: one Prefect task run each."""
    return lambda candidate, parents, done: submitted(
        child, label(candidate), lambda: evaluator(candidate, parents), done
    )


def submitted(run: Task[..., Any], title: str, evaluate: Callable[[], Evaluation], done: Done) -> None:
    """Submits a task that evaluates, and hands over what became of it, once, also if Prefect does not start it."""
    begun = Event()

    def work() -> Evaluation:
        begun.set()
        try:
            evaluation = evaluate()
        except BaseException as error:
            done(error)
            raise
        done(evaluation)
        return evaluation

    future = run.submit(title, work)
    missed = RuntimeError(f"Prefect did not start {run.name} {title}: look at its server, then go on")
    future.add_done_callback(lambda _: None if begun.is_set() else done(missed))
