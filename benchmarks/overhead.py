"""What a search costs beside training: asking, planning, the ledger, Prefect, MLflow, and the hand-over to a process.

The evaluator is null: it returns at once. Stages are nested, so that each figure includes the ones before it:

    loop      ask, plan, check, fingerprint, ledger; in a process of its own, which remembers no other run's genomes
    store     making MLflow's SQLite file with its tables, once for all searches of a home; not within the next two
    mlflow    the loop with one MLflow run a child in that file
    flow      the same with one Prefect task run a child on a local server
    handover  one isolated process that does nothing, start to result
    optuna    for comparison, if it is installed: its NSGA-II on the chains of the space, in its own SQLite file and
              in memory; it draws numbers, and no network is built, edited, checked or compared

Processor time is that of all threads of the process that searches: neither of Prefect's server nor of children. A
loaded machine changes it little; the clock includes waiting, for the disk at each commit too.

Usage: python benchmarks/overhead.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from optuna_chain import installed

from flows import settings

# isort: split
from evo import NSGA2, NSGA2Settings
from flows.home import Home
from genomes import cost, features
from genomes.spaces.residual import ResidualSpace
from search import Budget, Candidate, Dispatch, Done, Evaluation, Ledger, drive
from training.worker import preload, run_isolated

SECONDS_OF_A_CHILD = 10.0
SLOTS = 2
SPACE = ResidualSpace((1, 28, 28), 10)
FOUNDERS = 12
FEATURES = sorted(features(SPACE.starters()[0]))  # a child's process counts them


class Times(NamedTuple):
    """Milliseconds a child.

    Attributes:
        wall: by the clock.
        processor: of all threads of this process.
    """

    wall: float
    processor: float


def timed(work: Callable[[], object], children: int = 1) -> Times:
    """Returns what some work on so many children takes, for each of them."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return Times(1000 * (time.perf_counter() - clock) / children, 1000 * (time.process_time() - processor) / children)


def null(candidate: Candidate, parents: Mapping[int, Evaluation]) -> Evaluation:
    """Returns a made-up evaluation at once."""
    counted = cost(candidate.genome)
    before = parents[candidate.parents[0]].cost["lineage_examples"] if candidate.parents else 0.0
    numbers = {
        "error": 1 / (1 + counted.parameters + candidate.number),
        "parameters": counted.parameters,
        "macs": counted.macs,
    }
    spent = {"seconds": 0.0, "examples": 1.0, "train_macs": 0.0, "lineage_examples": before + 1}
    curve = tuple({"examples": point, "loss": 1.0} for point in range(8))
    said = {name: float(candidate.number % prime) for prime, name in enumerate(FEATURES, 2)}
    return Evaluation(candidate.number, "ok", numbers, spent, curve, weights="0" * 64, features=said)


def strategy() -> NSGA2:
    """Returns a fresh strategy, most of whose candidates are children."""
    return NSGA2(SPACE.founders(0), SPACE.limits.budgets, 0, NSGA2Settings(founders=FOUNDERS))


def at_once(candidate: Candidate, parents: Mapping[int, Evaluation], done: Done) -> None:
    """Evaluates in the thread of the loop."""
    done(null(candidate, parents))


def search(directory: Path, children: int) -> None:
    """Runs the bare loop."""
    with Ledger.create(directory, {}) as ledger:
        drive(strategy(), at_once, ledger, Budget(candidates=children), SLOTS)


def afresh(work: Callable[[Path, int], None], directory: Path, children: int) -> Times:
    """Returns what a search takes in a process of its own: one that remembers no genome of another run."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(timed, partial(work, directory, children), children).result()


def peer(directory: Path, children: int, *, lasting: bool) -> None:
    """Runs as many trials of Optuna's, which outlive the process or not."""
    import optuna
    from optuna_chain import decided

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    smallest, largest = SPACE.limits.width
    asked = {"stages": SPACE.limits.stages, "blocks": SPACE.limits.blocks, "smallest": smallest, "largest": largest}
    study = optuna.create_study(
        storage=f"sqlite:///{directory}.sqlite" if lasting else None,
        directions=["minimize", "minimize"],
        sampler=optuna.samplers.NSGAIISampler(seed=0),
    )
    for number in range(children):
        trial = study.ask()
        decided(trial, asked)
        study.tell(trial, [1 / (1 + number), number])


def store(home: Path) -> Times:
    """Makes MLflow's file, and returns what that takes."""
    from mlflow import MlflowClient

    place = Home(home)
    place.make()
    return timed(lambda: MlflowClient(place.tracking_uri).get_experiment_by_name("none"))


def tracked(home: Path, children: int, dispatch: Dispatch = at_once) -> Times:
    """Returns milliseconds a child with an MLflow run each, until MLflow was told; its file is made before."""
    from flows.tracking import Tracker

    store(home)
    place = Home(home)
    tracker, proposing = Tracker(place, "overhead", None, {}), strategy()

    def work() -> None:
        with Ledger.create(place.search("overhead"), {}) as ledger, tracker.running():
            drive(proposing, dispatch, ledger, Budget(candidates=children), SLOTS)

    return timed(work, children)


def flow(home: Path, children: int) -> Times:
    """Returns milliseconds a child with a Prefect task run and an MLflow run each, until both are told."""
    from prefect import flow as prefect_flow

    from flows.search import THREADS, dispatcher

    @prefect_flow(task_runner=THREADS)
    def measured() -> Times:
        return tracked(home, children, dispatcher(null))

    return measured()


def handover(scratch: Path) -> Times:
    """Returns what it takes from asking for an isolated process to having its result."""

    def work() -> None:
        outcome = run_isolated(dict, result=scratch / "result.json", timeout=60)
        assert outcome.status == "ok", outcome.reason

    return timed(work)


def repeated(measure: Callable[[Path], Times], times: int) -> list[Times]:
    """Returns measurements, each in a directory of its own."""
    values = []
    for _ in range(times):
        with tempfile.TemporaryDirectory() as scratch:
            values.append(measure(Path(scratch)))
    return values


def spread(values: Sequence[float]) -> str:
    """Returns median, range and count in words."""
    return f"median {statistics.median(values):7.2f} ({min(values):.2f} to {max(values):.2f}, n = {len(values)})"


def main() -> None:
    """Measures and prints a table, and the result as JSON in the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer children and repetitions")
    quick = parser.parse_args().quick
    assert settings.DEFAULTS
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    children, times = (40, 2) if quick else (200, 5)
    preload()
    with tempfile.TemporaryDirectory() as scratch:
        handover(Path(scratch))  # starts the server and imports torch there
    figures = {
        "loop": repeated(lambda d: afresh(search, d / "search", children), times),
        "handover": repeated(handover, 4 * times),
        "store": repeated(store, times + 1)[1:],  # the first one imports MLflow too
        "mlflow": repeated(lambda d: tracked(d, children), times),
        "flow": repeated(lambda d: flow(d, children), times),
    }
    if installed():
        lasting, passing = partial(peer, lasting=True), partial(peer, lasting=False)
        figures["optuna"] = repeated(lambda d: afresh(lasting, d / "search", children), times)
        figures["optuna, in memory"] = repeated(lambda d: afresh(passing, d / "search", children), times)
    for name, values in figures.items():
        clock, processor = zip(*values, strict=True)
        print(f"{name:17} {spread(clock)} ms by the clock, {spread(processor)} of processor time")
    middle = {name: statistics.median(value.wall for value in values) for name, values in figures.items()}
    share = (middle["flow"] * SLOTS + middle["handover"]) / (1000 * SECONDS_OF_A_CHILD)
    print(
        f"all a child, but the store; of {SECONDS_OF_A_CHILD:.0f}-second children on {SLOTS} slots: {share:.1%} of "
        "wall time (goal: at most 5 %)"
    )
    versions = {name: version(name) for name in ("prefect", "mlflow", "torch", "deap")}
    machine = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    print(
        "RESULT",
        json.dumps(
            {
                "ms": {name: [value.wall for value in values] for name, values in figures.items()},
                "cpu_ms": {name: [value.processor for value in values] for name, values in figures.items()},
                "share_of_wall": share,
                "children": children,
                **machine,
                **versions,
            }
        ),
    )


if __name__ == "__main__":
    main()
