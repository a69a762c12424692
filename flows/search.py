"""The search flow: one flow run is one search, one task run is one child."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from multiprocessing import active_children
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, cast

from flows import settings  # before prefect, which reads its settings when it is imported

# isort: split
from prefect import State, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows import report
from flows.assembly import FREE, document, keep, planned, slots, tidy, trainer
from flows.config import SearchConfig
from flows.hearing import heard
from flows.home import Home
from flows.terminal import display
from search import Candidate, Done, Evaluation, Evaluator, Ledger, drive

if TYPE_CHECKING:
    from training.pool import Pool

assert settings.DEFAULTS
# Threads are made when they are needed; the loop keeps no more tasks in flight than there are slots.
SECONDS_TO_STOP = 20.0  # within the 30 that Prefect gives a flow before it kills it
THREADS = cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner[Any](max_workers=256))


@task(name="child", task_run_name="{label}", cache_policy=NO_CACHE, persist_result=False)
def child(label: str, work: Callable[[], Evaluation]) -> State[Any]:  # noqa: ARG001  Prefect reads the label
    """Evaluates one child; `label` names the task run, whose state and message say what became of it."""
    evaluation = work()
    where = f" on {evaluation.slot}" if evaluation.slot else ""
    if evaluation.ok:
        return Completed(message=f"error {evaluation.objectives['error']:.4f}{where}")
    return Failed(message=f"{evaluation.status}{where}: {evaluation.reason}")


@flow(
    name="search",
    flow_run_name="{config.name}",
    task_runner=THREADS,
    persist_result=False,
    validate_parameters=True,
)
@heard
def search(config: SearchConfig, home: Path = Path("searches")) -> dict[str, Any]:
    """Runs a search, or goes on with the one of this name and configuration; returns what was spent and found.

    Args:
        config: the whole experiment.
        home: the directory that holds searches.
    """
    from flows.tracking import Tracker

    place = Home(home)
    place.make()
    places = slots(config)
    prepared, strategy, begun = planned(config, place)
    tracker = Tracker(place, config.name, config.tracking, config.facts())
    if config.name not in place.names():
        tracker.check()  # a new search wants to know; one that goes on is not stopped by a dead server
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger.create(place.search(config.name), document(config, place), FREE))
        evaluator = trainer(config, place, keep(config, place, prepared, begun), places)
        tidy(ledger, evaluator)
        stack.enter_context(tracker.running())
        stack.callback(stop_children, evaluator.pool)
        watch = stack.enter_context(display(config.budget, evaluator.pool.occupied))
        progress = drive(strategy, dispatcher(evaluator), ledger, config.budget, len(places), watch)
    best = progress.best
    return {
        "evaluations": progress.spent.evaluations,
        "seconds": progress.spent.elapsed_seconds,
        "failures": progress.spent.failures,
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


def dispatcher(evaluator: Evaluator) -> Callable[[Candidate, Mapping[int, Evaluation], Done], None]:
    """Returns what the loop starts evaluations with: one Prefect task run each."""

    def dispatch(candidate: Candidate, parents: Mapping[int, Evaluation], done: Done) -> None:
        begun = Event()

        def work() -> Evaluation:
            begun.set()
            try:
                evaluation = evaluator(candidate, parents)
            except BaseException as error:
                done(error)
                raise
            done(evaluation)
            return evaluation

        origin = f" of {candidate.parents[0]}" if candidate.parents and candidate.promotes is None else ""
        future = child.submit(f"{candidate.number} {report.edits(candidate)}{origin}", work)
        missed = RuntimeError(f"Prefect did not start child {candidate.number}: look at its server, then resume")
        future.add_done_callback(lambda _: None if begun.is_set() else done(missed))

    return dispatch
