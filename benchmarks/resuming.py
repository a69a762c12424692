"""How long a search takes until it goes on where it stopped, by the number of its candidates.

The evaluator is null. Each search is made once, in memory where the system has a place for files there, and resumed in
a process of its own, which remembers nothing. A resumed search then asks for one more candidate, which is measured too:
what was seen is looked into when it is asked about. "Parsing" is what reading every genome would take by itself.

Usage: python benchmarks/resuming.py [--quick] [--sizes N ...]
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
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from evo import NSGA2
from genomes import Genome, cost
from genomes.spaces.residual import ResidualSpace
from search import Budget, Candidate, Done, Evaluation, Ledger, Progress, Strategy, drive
from strategies import RandomSearch

MEMORY = Path("/dev/shm")
SPACE = ResidualSpace((1, 28, 28), 10)
EXAMPLES = 20_000.0  # of a child: lineages of one age are as many as in a real search


class Seconds(NamedTuple):
    """Processor seconds.

    Attributes:
        resume: until the search asks.
        ask: for the first new candidate.
        parsing: for reading all genomes.
    """

    resume: float
    ask: float
    parsing: float


def null(candidate: Candidate, parents: Mapping[int, Evaluation]) -> Evaluation:
    """Returns a made-up evaluation: luck, and the size."""
    age = parents[candidate.parents[0]].cost["lineage_examples"] if candidate.parents else 0.0
    luck = int(candidate.genome.digest[:8], 16) / 16**8
    numbers = {"error": luck, "parameters": cost(candidate.genome).parameters}
    spent = {"seconds": 0.0, "examples": EXAMPLES, "lineage_examples": age + EXAMPLES}
    return Evaluation(candidate.number, "ok", numbers, spent, weights=candidate.genome.digest)


def made(kind: str) -> Strategy:
    """Returns a fresh strategy."""
    if kind == "random":
        return RandomSearch(SPACE, SPACE.limits.budgets, 0)
    return NSGA2(SPACE.founders(0), SPACE.limits.budgets, 0)


def search(directory: Path, kind: str, candidates: int) -> float:
    """Runs or resumes a search; returns the processor seconds until it first reports, which is before it asks."""
    begun, reported = time.process_time(), list[float]()

    def dispatch(candidate: Candidate, parents: Mapping[int, Evaluation], done: Done) -> None:
        done(null(candidate, parents))

    def watch(_: Progress) -> None:
        if not reported:
            reported.append(time.process_time() - begun)

    with Ledger.create(directory, {}) as ledger:
        drive(made(kind), dispatch, ledger, Budget(candidates=candidates), watch=watch)
    return reported[0]


def measured(directory: Path, kind: str, candidates: int) -> Seconds:
    """Resumes a search of so many candidates for one more."""
    begun = time.process_time()
    resume = search(directory, kind, candidates + 1)
    ask, begun = time.process_time() - begun - resume, time.process_time()
    with Ledger.read(directory) as ledger:
        for candidate in ledger.candidates().values():
            Genome.from_json(candidate.genome.to_json())
    return Seconds(resume, ask, time.process_time() - begun)


def repeated(kind: str, candidates: int, times: int) -> list[Seconds]:
    """Returns measurements of searches that grow by the candidate of each."""
    found = []
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as scratch:
        directory = Path(scratch) / "search"
        search(directory, kind, candidates)
        for time_ in range(times):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                found.append(pool.submit(measured, directory, kind, candidates + time_).result())
    return found


def main() -> None:
    """Measures and prints a table, and the result as JSON in the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="few candidates")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of candidates", default=[])
    options = parser.parse_args()
    sizes, times = options.sizes or ([60] if options.quick else [200, 2_000, 10_000]), 2 if options.quick else 3
    figures: dict[str, dict[int, list[Seconds]]] = {}
    for kind in ("nsga2", "random"):
        for candidates in sizes:
            found = figures.setdefault(kind, {})[candidates] = repeated(kind, candidates, times)
            resume, ask, parsing = (statistics.median(column) for column in zip(*found, strict=True))
            print(
                f"{kind:7} {candidates:6,} candidates: resumed in {resume:7.3f} s of processor time "
                f"({1000 * resume / candidates:.2f} ms each), first new one {ask:7.3f} s; parsing all {parsing:.3f} s",
                flush=True,
            )
    machine = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
    }
    print("RESULT", json.dumps({"cpu_seconds": figures, "times": times, **machine}))


if __name__ == "__main__":
    main()
