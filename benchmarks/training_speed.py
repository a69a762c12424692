"""How fast a child is trained: against a conventional recipe, against the best loop by hand, against the processor.

Three reference children of one family (five convolutions in three stages, a residual block in the first) are trained
on Fashion-MNIST by the three ways of trainings.py, which differ in nothing else: round by round, all ways one after
another, each round with a seed of its own. Each way has a process of its own on one thread; the project's and that of
the loop by hand have the allocator settings of training.worker. Rates are images a second of processor time of the
training alone; ratios are taken within a round. A full run writes docs/training_speed.md.

Usage: python benchmarks/training_speed.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

from ablation import Interval, interval
from trainings import ARMS, Job, Trained, multiplied, trained

from genomes import Genome, cost
from genomes.spaces.residual import ResidualSpace
from training import DataSpec, prepare
from training.worker import ENVIRONMENT

SPACE = ResidualSpace((1, 28, 28), 10)
PAGE = Path(__file__).parents[1] / "docs" / "training_speed.md"
GOAL, LEAST, BY_HAND, OF_MATRICES = 3.3, 2.7, 0.95, 0.6


@dataclass(frozen=True)
class Child:
    """A reference child: its genome, and how many images it is shown in a round."""

    genome: Genome
    examples: int

    @property
    def flops(self) -> int:
        """Floating-point operations of training on one image: two a MAC, thrice: backward takes twice as many."""
        return 6 * cost(self.genome).macs


CHILDREN = {
    "small": Child(SPACE.member(6, [1, 0, 0]), 6_400),
    "medium": Child(SPACE.member(13, [1, 0, 0]), 3_840),
    "large": Child(SPACE.member(32, [1, 0, 0]), 1_920),
}
Rounds = Mapping[str, Sequence[Mapping[str, Trained]]]  # by child: for each round, by way


def started(stack: ExitStack, arm: str) -> ProcessPoolExecutor:
    """Returns a process of its own, with the environment that a way of training has."""
    before = dict(os.environ)
    os.environ.update({"OMP_NUM_THREADS": "1"} if arm == "conventional" else ENVIRONMENT)
    try:
        pool = stack.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
        pool.submit(multiplied, 64, 1).result()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return pool


def measured(file: str, rounds: int, share: float) -> tuple[Rounds, list[float], list[float]]:
    """Returns all trainings, the matrix rate of each round in GFLOP/s, and the load at the end of each."""
    found: dict[str, list[Mapping[str, Trained]]] = {name: [] for name in CHILDREN}
    matrices, load = list[float](), list[float]()
    with ExitStack() as stack:
        pools = {arm: started(stack, arm) for arm in ARMS}
        for number in range(-1, rounds):  # the first one warms up
            for name, child in CHILDREN.items():
                examples = round(child.examples * share) if number >= 0 else 256
                job = Job(child.genome.to_json(), examples, max(number, 0), file)
                ways = {arm: pools[arm].submit(trained, arm, job).result() for arm in turned(list(ARMS), number)}
                if number >= 0:
                    found[name].append(ways)
            if number >= 0:
                matrices.append(pools["project"].submit(multiplied).result())
                load.append(os.getloadavg()[0])
    return found, matrices, load


def turned(names: Sequence[str], number: int) -> list[str]:
    """Returns the names beginning with another one each time."""
    start = number % len(names)
    return [*names[start:], *names[:start]]


def ratio(rounds: Sequence[Mapping[str, Trained]], other: str) -> Interval:
    """Returns the geometric mean of the project's rate over another's, and its 95 % interval."""
    middle, low, high = interval([math.log(r["project"].rate / r[other].rate) for r in rounds])
    return math.exp(middle), math.exp(low), math.exp(high)


def overall(found: Rounds, other: str) -> Interval:
    """Returns the same over all children: the geometric mean of a round's children, then over rounds."""
    per_round = zip(*found.values(), strict=True)
    logs = [statistics.mean(math.log(r["project"].rate / r[other].rate) for r in children) for children in per_round]
    middle, low, high = interval(logs)
    return math.exp(middle), math.exp(low), math.exp(high)


def of_matrices(found: Rounds, matrices: Sequence[float]) -> Interval:
    """Returns the large child's arithmetic rate as a share of the matrix rate of the same round."""
    flops = CHILDREN["large"].flops
    pairs = zip(found["large"], matrices, strict=True)
    return interval([1e-9 * flops * r["project"].rate / matrix for r, matrix in pairs])


def error_difference(found: Rounds, other: str) -> Interval:
    """Returns by how much the project's errors are above another's, in points; pairs of one child and one seed."""
    pairs = [r for rounds in found.values() for r in rounds]
    return interval([100 * (r["project"].error - r[other].error) for r in pairs])


def page(found: Rounds, matrices: Sequence[float], where: str) -> Iterator[str]:
    """Yields the lines of docs/training_speed.md."""
    rounds = len(matrices)
    yield "# How fast a child is trained\n"
    yield (
        f"Generated by `python benchmarks/training_speed.py`: {rounds} rounds, {where}. Three children (five "
        "convolutions, three stages) are trained on Fashion-MNIST from the same weights, with the same optimiser, "
        "schedule, batch (128), augmentation and number of images, on one thread: by the project; by a conventional "
        "recipe (DataLoader, torchvision transforms for each sample, float32); and by the best loop that plain PyTorch "
        "allows (resident tensor, bfloat16, channels last, fused optimiser). Rates are images a second of processor "
        "time, medians; ratios are geometric means within rounds with their 95 % intervals (Student's t).\n"
    )
    yield "| child | parameters | MACs | images | project | conventional | by hand | over conventional | over by hand |"
    yield "|---|--:|--:|--:|--:|--:|--:|---|---|"
    for name, child in CHILDREN.items():
        counted, of = cost(child.genome), found[name]
        rates = [f"{statistics.median(r[arm].rate for r in of):,.0f}" for arm in ARMS]
        ratios = [words(ratio(of, other), "×") for other in ("conventional", "by hand")]
        row = [name, f"{counted.parameters:,}", f"{counted.macs:,}", f"{of[0]['project'].shown:,}", *rates, *ratios]
        yield f"| {' | '.join(row)} |"
    yield "\n| goal | found | |\n|---|---|---|"
    least = min(ratio(of, "conventional")[0] for of in found.values())
    for what, goal, got in (
        ("times the conventional rate, geometric mean of all", GOAL, overall(found, "conventional")),
        ("the same, slowest child", LEAST, (least, math.nan, math.nan)),
        ("times the rate of the loop by hand, geometric mean of all", BY_HAND, overall(found, "by hand")),
        ("large child: share of the core's bfloat16 matrix rate", OF_MATRICES, of_matrices(found, matrices)),
    ):
        yield f"| {what}: at least {goal} | {words(got, '')} | {'met' if got[0] >= goal else '**missed**'} |"
    yield (
        f"\nMatrix products of 1,024 × 1,024 reach {statistics.median(matrices):.0f} GFLOP/s on the same core. Judging "
        "an image in float32 takes the project "
        + ", ".join(f"{judging(of):.2f} ({name})" for name, of in found.items())
        + " of the time of training on one.\n"
    )
    yield "Validation error after these few steps, project minus other in points, over all children and seeds:\n"
    for other in ("conventional", "by hand"):
        low, high = error_difference(found, other)[1:]
        verdict = "no difference seen" if low <= 0 <= high else "**a difference beyond seed noise**"
        yield f"- {other}: {words(error_difference(found, other), '', sign='+')}: {verdict}"
    yield "\n| child | project | conventional | by hand |\n|---|---|---|---|"
    for name, of in found.items():
        errors = [[100 * r[arm].error for r in of] for arm in ARMS]
        yield f"| {name} | {' | '.join(f'{statistics.mean(e):.2f} ± {statistics.stdev(e):.2f} %' for e in errors)} |"


def judging(rounds: Sequence[Mapping[str, Trained]]) -> float:
    """Returns the project's time of judging an image over that of training on one."""
    return statistics.median(r["project"].judging * r["project"].rate for r in rounds)


def words(found: Interval, unit: str, sign: str = "") -> str:
    """Returns an interval as text."""
    middle, low, high = found
    text = f"{middle:{sign}.2f}{unit}"
    return text if math.isnan(low) else f"{text} ({low:{sign}.2f} to {high:{sign}.2f})"


def main() -> None:
    """Measures, writes the page (unless quick), and prints it and the result as JSON in the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="two short rounds; writes no page")
    quick = parser.parse_args().quick
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as cache:
        prepared = prepare(DataSpec("fashion_mnist", validation=0.1), Path(cache))
        found, matrices, load = measured(str(prepared.file), *((2, 0.2) if quick else (5, 1.0)))
    where = (
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {version('torch')}, mean load "
        f"{statistics.mean(load):.1f}, {time.perf_counter() - begun:.0f} s in all"
    )
    text = "\n".join(page(found, matrices, where)) + "\n"
    print(text)
    if not quick:
        PAGE.write_text(text)
    result = {
        "over_conventional": {name: ratio(of, "conventional") for name, of in found.items()},
        "over_by_hand": {name: ratio(of, "by hand") for name, of in found.items()},
        "overall": {other: overall(found, other) for other in ("conventional", "by hand")},
        "of_matrices": of_matrices(found, matrices),
        "error_difference": {other: error_difference(found, other) for other in ("conventional", "by hand")},
        "rounds": {name: [{arm: asdict(t) for arm, t in r.items()} for r in of] for name, of in found.items()},
        "matrices": matrices,
        "load": load,
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": version("torch"),
    }
    print("RESULT", json.dumps(result))


if __name__ == "__main__":
    main()
