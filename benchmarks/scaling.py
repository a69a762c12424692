"""How children share a machine: all workers against one, and the memory that a worker and a whole search take.

Sixteen children of 19,133 parameters are trained on Fashion-MNIST by the project's own evaluator from as many threads
as there are workers: by one worker, by one for each core that may be used, and by as many whose threads are left as
torch sets them (one for each core in each). The ways alternate. Memory is the proportional set size (shared pages
divided among those who share them), sampled four times a second over all processes. A full run writes docs/scaling.md.

Usage: python benchmarks/scaling.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import yaml
from scipy import stats  # type: ignore[import-untyped]
from trainings import isolated

from flows.config import PRESETS
from genomes import cost
from genomes.spaces.residual import ResidualSpace
from search import Candidate, Fidelity, WeightStore
from training import DataSpec, Prepared, Recipe, Trainer, prepare
from training.slots import cores
from training.worker import preload, run_isolated

SPACE = ResidualSpace((1, 28, 28), 10)
MEDIUM, LARGE = SPACE.member(13, [1, 0, 0]), SPACE.member(32, [1, 0, 0])
PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
GOAL, OF_UNPINNED = 0.9, 4.0
MIB = 2**20


@dataclass(frozen=True)
class Size:
    """How much is measured: rounds, children of a round, images of a child, candidates of the search."""

    rounds: int
    children: int
    examples: int
    candidates: int


@dataclass(frozen=True)
class Timed:
    """What the children of one way took together: seconds of wall clock and of processor time."""

    wall: float
    cpu: float


def measured(prepared: Prepared, size: Size, workers: int, threads: int) -> Timed:
    """Trains all children with so many workers of so many threads."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        trainer = Trainer(
            WeightStore(place / "weights"), prepared, Recipe(crop=2, flip=True), 0, 600, place / "results"
        )

        def one(number: int) -> float:
            request = trainer.request(Candidate(number, MEDIUM, fidelity=Fidelity(size.examples)), {})
            given = (request, str(prepared.file), str(trainer.store.directory), threads)
            outcome = run_isolated(isolated, *given, result=place / f"{number}.json", timeout=600)
            assert outcome.status == "ok", outcome.reason
            return outcome.seconds

        begun = time.perf_counter()
        with ThreadPoolExecutor(workers) as pool:
            seconds = list(pool.map(one, range(size.children)))
        return Timed(time.perf_counter() - begun, sum(seconds))


class Peaks:
    """The largest proportional set sizes seen, in bytes: of each process by number, and of all together."""

    def __init__(self) -> None:
        self.single, self.together = Counter[int](), 0

    def look(self, root: int) -> None:
        """Looks once at a process and all its descendants."""
        sizes = {pid: proportional(pid) for pid in (root, *descendants(root))}
        self.single |= Counter(sizes)
        self.together = max(self.together, sum(sizes.values()))


@contextmanager
def sampled(root: int) -> Iterator[Peaks]:
    """Yields the peaks of a process and its descendants, which are looked at four times a second meanwhile."""
    peaks, over = Peaks(), threading.Event()

    def watch() -> None:
        while not over.wait(0.25):
            peaks.look(root)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def descendants(root: int) -> list[int]:
    """Returns the numbers of all processes that descend from one."""
    parents = dict[int, int]()
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def proportional(pid: int) -> int:
    """Returns the proportional set size of a process in bytes; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def worker_peak(prepared: Prepared, examples: int) -> int:
    """Returns the peak of one worker on the large child, in bytes."""
    with tempfile.TemporaryDirectory() as scratch, sampled(os.getpid()) as peaks:
        place = Path(scratch)
        trainer = Trainer(
            WeightStore(place / "weights"), prepared, Recipe(crop=2, flip=True), 0, 600, place / "results"
        )
        request = trainer.request(Candidate(0, LARGE, fidelity=Fidelity(examples)), {})
        given = (request, str(prepared.file), str(trainer.store.directory), 1)
        outcome = run_isolated(isolated, *given, result=place / "0.json", timeout=600)
        assert outcome.status == "ok", outcome.reason
    return peaks.single[outcome.value["pid"]]


def search_peak(candidates: int) -> int:
    """Returns the peak of a whole search on digits with two slots, Prefect and MLflow included, in bytes."""
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch) / "config.yaml"
        preset = yaml.safe_load((PRESETS / "digits.yaml").read_text())
        config.write_text(yaml.safe_dump({**preset, "slots": {"cpu": 2}, "budget": {"candidates": candidates}}))
        command = [sys.executable, "-c", "from flows.cli import main; main()", "search"]
        process = subprocess.Popen(
            [*command, "--config", str(config), "--home", str(Path(scratch) / "home")], stdout=subprocess.DEVNULL
        )
        with sampled(process.pid) as peaks:
            assert process.wait() == 0, "the search failed"
    return peaks.together


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns the geometric mean and its 95 % interval by Student's t on the logarithms."""
    logs = [math.log(value) for value in values]
    middle, deviation = statistics.mean(logs), statistics.stdev(logs) / math.sqrt(len(logs))
    reach = float(stats.t.ppf(0.975, len(logs) - 1)) * deviation
    return math.exp(middle), math.exp(middle - reach), math.exp(middle + reach)


def page(found: Mapping[str, Sequence[Timed]], memory: tuple[int, int], size: Size, where: str) -> Iterator[str]:
    """Yields the lines of docs/scaling.md."""
    workers = cores()
    yield "# How children share a machine\n"
    yield (
        f"Generated by `python benchmarks/scaling.py`: {size.rounds} rounds of {size.children} children of "
        f"{cost(MEDIUM).parameters:,} parameters, {size.examples:,} images of Fashion-MNIST each, {where}. Geometric "
        "means; 95 % intervals (Student's t) over rounds. Wall clock depends on what else runs: with other load, more "
        "workers also get a larger share of the machine. Processor time does not, and its growth is what workers cost "
        "each other.\n"
    )
    yield "| way | wall s | processor s |\n|---|---|---|"
    for name, timed in found.items():
        yield f"| {name} | {words(interval([t.wall for t in timed]))} | {words(interval([t.cpu for t in timed]))} |"
    gain, over, kept = ratios(found)
    yield "\n| goal | found | |\n|---|---|---|"
    for what, goal, got in (
        (f"{workers} workers: times the rate of one", GOAL * workers, gain),
        ("times the rate of unpinned workers", OF_UNPINNED, over),
    ):
        yield f"| {what}: at least {goal:g} | {words(got)} | {'met' if got[0] >= goal else '**missed**'} |"
    yield f"\nProcessor time of one worker over that of {workers}: {words(kept)}.\n"
    worker, whole = (value / MIB for value in memory)
    yield (
        f"Peak memory: {worker:,.0f} MiB of a worker on a child of {cost(LARGE).parameters:,} parameters (batch 128); "
        f"{whole:,.0f} MiB of a whole search on digits with two slots ({size.candidates} candidates), command line, "
        "Prefect's server, MLflow and workers together."
    )


def ratios(found: Mapping[str, Sequence[Timed]]) -> list[tuple[float, float, float]]:
    """Returns wall clock of one worker and of unpinned ones, and processor time of one, over those of all workers."""
    one, many, unpinned = (found[name] for name in ("one", "all", "unpinned"))
    return [
        interval([a.wall / b.wall for a, b in zip(one, many, strict=True)]),
        interval([a.wall / b.wall for a, b in zip(unpinned, many, strict=True)]),
        interval([a.cpu / b.cpu for a, b in zip(one, many, strict=True)]),
    ]


def words(found: tuple[float, float, float]) -> str:
    """Returns an interval as text."""
    return f"{found[0]:.2f} ({found[1]:.2f} to {found[2]:.2f})"


def main() -> None:
    """Measures, writes the page (unless quick), and prints it and the result as JSON in the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="few and short children; writes no page")
    quick = parser.parse_args().quick
    size = Size(2, 2 * cores(), 256, 3) if quick else Size(5, 16, 1_280, 12)
    ways = {"one": (1, 1), "all": (cores(), 1), "unpinned": (cores(), cores())}
    found: dict[str, list[Timed]] = {name: [] for name in ways}
    load, begun = list[float](), time.perf_counter()
    preload()
    with tempfile.TemporaryDirectory() as cache:
        prepared = prepare(DataSpec("fashion_mnist", validation=0.1), Path(cache))
        measured(prepared, Size(1, 1, 256, 0), 1, 1)  # starts the server and imports torch there
        for number in range(size.rounds):
            for name in list(ways)[:: 1 if number % 2 else -1]:
                found[name].append(measured(prepared, size, *ways[name]))
            load.append(os.getloadavg()[0])
        memory = worker_peak(prepared, 8 * size.examples), search_peak(size.candidates)
    where = (
        f"{platform.processor() or platform.machine()}, {cores()} cores, torch {version('torch')}, mean load "
        f"{statistics.mean(load):.1f}, {time.perf_counter() - begun:.0f} s in all"
    )
    text = "\n".join(page(found, memory, size, where)) + "\n"
    print(text)
    if not quick:
        PAGE.write_text(text)
    gain, over, kept = ratios(found)
    result = {
        "over_one": gain,
        "over_unpinned": over,
        "processor_time": kept,
        "worker_bytes": memory[0],
        "search_bytes": memory[1],
        "timed": {name: [vars(t) for t in timed] for name, timed in found.items()},
        "load": load,
        "machine": platform.processor() or platform.machine(),
        "cores": cores(),
        **vars(size),
        **{name: version(name) for name in ("torch", "prefect", "mlflow")},
    }
    print("RESULT", json.dumps(result))


if __name__ == "__main__":
    main()
