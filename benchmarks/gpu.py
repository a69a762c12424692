"""What a GPU brings: children a minute, a fast network's images a second, what graphs gain, and a search end to end.

    G1  64 children (16 networks of 2,600 to 170,000 parameters, four times each), 5 epochs of 50,000 made-up images of
        28 x 28 in batches of 512, evaluation and every start-up included; against the same without graphs in batches of
        128, and against a float32 DataLoader loop with a process for each child. These two train fewer children: what
        they take beyond their start-up is scaled.
    G2  the network, batch and epochs of airbench94 (arXiv 2404.00498) on made-up images of 32 x 32 x 3, by the
        project's trainer and by a loop in the way of that paper, both in one process, warmed up
    G3  one child of 5 epochs with and without a graph, whose capture is part of its time
    G4  with --full only, an hour: search and retraining on Fashion-MNIST by the command line, one seed

Ways alternate; ratios are geometric means with 95 % intervals (Student's t). Without a CUDA device nothing is measured:
exit code 2, or with --quick a last line that says so. All but --quick write docs/gpu.md.

Usage: python benchmarks/gpu.py [--quick | --full]
"""

from __future__ import annotations

import os

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as children have it

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import gpu_trainings as work
import torch
from gpu_trainings import GENOMES, JUDGED, TRAIN, Bench, Timed

from training import DataSpec, prepare

DEVICE, PAGE = "cuda:0", Path(__file__).resolve().parents[1] / "docs" / "gpu.md"
NOTHING = "no CUDA device"
CHILDREN, EPOCHS = 64, 5  # of G1's definition
PER_MINUTE, OVER_OWN, OVER_CONVENTIONAL, OF_FAST, BY_GRAPH = 120, 3.0, 10.0, 0.8, 3.0
SHARE = JUDGED / (TRAIN + JUDGED + 2)  # of the made-up images, to judge by; each of the other parts has one
SEARCHES: Mapping[str, Mapping[str, Any]] = {  # by name: the space, the search's seconds, the test error to reach
    "gpu-large": {"parameters": 1_000_000, "macs": 60_000_000, "width": [8, 64], "seconds": 900, "goal": 0.046},
    "gpu-small": {"parameters": 100_000, "macs": 20_000_000, "width": [4, 24], "seconds": 600, "goal": 0.060},
}


@dataclass(frozen=True)
class Size:
    """How much of everything.

    Attributes:
        rounds: of G1; of G2 and G3.
        children: of G1, by way.
        slots: on the device.
        epochs: of each child.
        fast_epochs: of G2.
        batches: of G3.
    """

    rounds: tuple[int, int] = (5, 5)
    children: tuple[int, int, int] = (CHILDREN, 32, 8)
    slots: int = 4
    epochs: float = EPOCHS
    fast_epochs: float = work.FAST_EPOCHS
    batches: tuple[int, ...] = (128, 512, 2048)


QUICK = Size(rounds=(1, 2), children=(32, 8, 4))


class Interval(NamedTuple):
    """A geometric mean and its 95 % interval; without one if there is a single value."""

    middle: float
    low: float | None
    high: float | None


Pairs = Sequence[Mapping[str, float]]  # for each round, by way


def geometric(values: Sequence[float]) -> Interval:
    """Returns the geometric mean with its interval by Student's t on the logarithms."""
    from scipy import stats  # type: ignore[import-untyped]  # not at the start of each process that is measured

    logs = [math.log(value) for value in values]
    middle = statistics.mean(logs)
    if len(logs) < 2:
        return Interval(math.exp(middle), None, None)
    reach = float(stats.t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return Interval(math.exp(middle), math.exp(middle - reach), math.exp(middle + reach))


def ratio(rounds: Pairs, way: str, other: str) -> Interval:
    """Returns by how much one way's number is above another's of the same round."""
    return geometric([found[way] / found[other] for found in rounds])


def a_minute(timed: Timed, wanted: int = CHILDREN) -> float:
    """Returns the children a minute if so many were trained; what was taken beyond the start-up is scaled."""
    seconds = timed.startup + (timed.seconds - timed.startup) * wanted / len(timed.errors)
    return 60 * wanted / seconds


def turned(names: Sequence[str], number: int) -> list[str]:
    """Returns the names beginning with another one each time."""
    start = number % len(names)
    return [*names[start:], *names[:start]]


def apart(function: Callable[..., Any], *given: Any) -> Any:
    """Returns what a function returns in a process of its own, which begins with its interpreter."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(function, *given).result()


def conventional(file: str, count: int, examples: int, slots: int) -> Timed:
    """Trains children in a process each, some at a time."""
    begun = time.time()

    def child(number: int) -> float:
        genome = GENOMES[number % len(GENOMES)].to_json()
        return apart(work.conventional, genome, file, examples, number)

    with ThreadPoolExecutor(slots) as threads:
        errors = tuple(threads.map(child, range(count)))
    return Timed(time.time() - begun, 0.0, errors)


def children(file: str, count: int, batch: int, examples: int, slots: int, graph: bool) -> Timed:
    """Trains children by the project."""
    with tempfile.TemporaryDirectory() as place:
        found = apart(work.children, file, place, count, batch, examples, slots, graph, time.time())
    return Timed(found["seconds"], found["startup"], tuple(found["errors"]))


def throughput(file: str, size: Size) -> list[dict[str, Timed]]:
    """Returns G1: for each round, by way."""
    examples, (most, some, few) = round(size.epochs * TRAIN), size.children
    ways: Mapping[str, Callable[[], Timed]] = {
        "project": lambda: children(file, most, 512, examples, size.slots, True),
        "launched, batch 128": lambda: children(file, some, 128, examples, size.slots, False),
        "conventional": lambda: conventional(file, few, examples, size.slots),
    }
    return [{way: ways[way]() for way in turned(list(ways), number)} for number in range(size.rounds[0])]


def anchored(bench: Bench, size: Size) -> list[dict[str, float]]:
    """Returns G2: images a second, for each round by way; the first round warms up and does not count."""
    names = {"project": False, "by hand": True}
    rounds = [
        {way: bench.fast(size.fast_epochs, names[way]) for way in turned(list(names), number)}
        for number in range(size.rounds[1] + 1)
    ]
    return rounds[1:]


class Gain(NamedTuple):
    """G3 for one batch size: seconds and errors, for each round by way."""

    seconds: list[dict[str, float]]
    errors: list[dict[str, float]]


def gains(bench: Bench, size: Size) -> dict[int, Gain]:
    """Returns G3, by batch size; before that one child each way warms up."""
    ways = {"graph": True, "launched": False}
    found = {batch: Gain([], []) for batch in size.batches}
    for number in range(-1, size.rounds[1]):
        for batch, gain in found.items():
            examples = round(size.epochs * TRAIN) if number >= 0 else 100 * batch
            got = {way: bench.child(batch, examples, number + 1, ways[way]) for way in turned(list(ways), number)}
            if number >= 0:
                gain.seconds.append({way: seconds for way, (seconds, _) in got.items()})
                gain.errors.append({way: error for way, (_, error) in got.items()})
    return found


def configured(name: str) -> dict[str, Any]:
    """Returns the configuration of a search of G4."""
    asked, training = SEARCHES[name], {"batch_size": 512, "learning_rate": 0.2, "crop": 2, "flip": True}
    return {
        "name": name,
        "data": {"name": "fashion_mnist", "validation": 0.1, "second_validation": 0.1},
        "space": {key: asked[key] for key in ("parameters", "macs", "width")},
        "fidelity": {"examples": EPOCHS * 48_000},
        "recipe": training,
        "retrain": {
            "top": 3,
            "seeds": 1,
            "fidelity": {"examples": 100 * 48_000},
            "recipe": {**training, "erasing": 0.3, "averaging": 0.05},
        },
        "budget": {"seconds": asked["seconds"]},
        "slots": {"cuda": {"devices": [0], "per_device": 4}},
    }


def searched(name: str) -> dict[str, Any]:
    """Returns G4 for one search: minutes of wall clock, and the champion's error on the test part."""
    import yaml

    from flows.assembly import RETRAIN
    from flows.home import Home
    from search import Retrainings

    begun = time.time()
    with tempfile.TemporaryDirectory() as folder:
        config, home = Path(folder) / "config.yaml", Path(folder) / "home"
        config.write_text(yaml.safe_dump(configured(name)))
        command = [sys.executable, "-c", "from flows.cli import main; main()"]
        for words in (["search", "--config", str(config)], ["retrain", name]):
            subprocess.run([*command, *words, "--home", str(home)], check=True, stdout=subprocess.DEVNULL)
        with Retrainings.read(Home(home).search(name) / RETRAIN) as record:
            errors = record.test_errors()
    (test,) = errors.values()
    return {"minutes": (time.time() - begun) / 60, "test_error": test}


def page(found: Mapping[str, Any], size: Size, where: str) -> Iterator[str]:
    """Yields the lines of docs/gpu.md."""
    g1, g2, g3 = found["g1"], found["g2"], found["g3"]
    yield "# What a GPU brings\n"
    yield (
        f"Generated by `python benchmarks/gpu.py`: {where}. Ratios are geometric means within rounds, with 95 % "
        f"intervals (Student's t); {size.rounds[0]} rounds of children a minute, {size.rounds[1]} of the others. All "
        "images but those of whole searches are made up.\n"
    )
    yield "| what | goal | found | |\n|---|---|---|---|"
    rates = [{way: a_minute(timed) for way, timed in one.items()} for one in g1]
    rows: list[tuple[str, float | None, Interval]] = [
        ("children a minute", PER_MINUTE, geometric([one["project"] for one in rates])),
        ("times the rate without graphs in batches of 128", OVER_OWN, ratio(rates, "project", "launched, batch 128")),
        ("times the rate of the conventional way", OVER_CONVENTIONAL, ratio(rates, "project", "conventional")),
        ("images a second over those of the fast loop by hand", OF_FAST, ratio(g2, "project", "by hand")),
    ]
    for batch, gain in g3.items():
        goal = BY_GRAPH if batch == 128 else None
        rows.append((f"times the speed by a graph, batch {batch}", goal, ratio(gain.seconds, "launched", "graph")))
    for what, goal, got in rows:
        verdict = "" if goal is None else "met" if got.middle >= goal else "**missed**"
        yield f"| {what} | {goal or ''} | {words(got)} | {verdict} |"
    yield f"\n| way | of {CHILDREN} children, a minute | trained | seconds | of these start-up | error % |"
    yield "|---|--:|--:|--:|--:|--:|"
    for way in g1[0]:
        timed = [one[way] for one in g1]
        means = [statistics.mean(of) for of in zip(*((t.seconds, t.startup) for t in timed), strict=True)]
        wrong = 100 * statistics.mean(error for t in timed for error in t.errors)
        rate = geometric([one[way] for one in rates]).middle
        yield f"| {way} | {rate:.0f} | {len(timed[0].errors)} | {means[0]:.1f} | {means[1]:.1f} | {wrong:.2f} |"
    fast = {way: statistics.median(one[way] for one in g2) for way in g2[0]}
    yield f"\nThe fast network: {fast['project']:,.0f} images a second, {fast['by hand']:,.0f} by hand.\n"
    yield "| batch | seconds with a graph | launched | difference of their errors, points |\n|--:|--:|--:|--:|"
    for batch, gain in g3.items():
        both = [statistics.median(one[way] for one in gain.seconds) for way in ("graph", "launched")]
        apart = 100 * statistics.mean(one["graph"] - one["launched"] for one in gain.errors)
        yield f"| {batch} | {both[0]:.2f} | {both[1]:.2f} | {apart:+.2f} |"
    yield from ended(found.get("g4"))


def ended(found: Mapping[str, Mapping[str, Any]] | None) -> Iterator[str]:
    """Yields the lines about whole searches."""
    if found is None:
        yield "\nSearch and retraining end to end were not run (`--full`)."
        return
    yield "\n| search and retraining, Fashion-MNIST | minutes | test error % | goal | |\n|---|--:|--:|--:|---|"
    for name, got in found.items():
        asked = SEARCHES[name]
        verdict = "met" if got["test_error"] <= asked["goal"] else "**missed**"
        row = [f"at most {asked['parameters']:,} parameters", f"{got['minutes']:.1f}", f"{100 * got['test_error']:.2f}"]
        yield f"| {' | '.join(row)} | {100 * asked['goal']:.1f} | {verdict} |"


def words(found: Interval) -> str:
    """Returns an interval as text."""
    text = f"{found.middle:.2f}"
    return text if found.low is None else f"{text} ({found.low:.2f} to {found.high:.2f})"


def measured(size: Size, full: bool, device: str = DEVICE) -> dict[str, Any]:
    """Returns all that is measured; G1 first, as long as this process has no part of the device."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as cache:
        prepared = prepare(DataSpec("gpu_trainings:pictures", None, 32, SHARE, 1e-6, 1e-6), Path(cache))
        found["g1"] = throughput(str(prepared.file), size)
    if full:
        found["g4"] = {name: searched(name) for name in SEARCHES}
    found["g3"] = gains(Bench(device, *work.pictures(), judged=JUDGED), size)
    found["g2"] = anchored(Bench(device, *work.pictures(TRAIN, (3, 32, 32))), size)
    return found


def plain(found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what was measured as JSON values."""
    g1 = [{way: {**asdict(timed), "a_minute": a_minute(timed)} for way, timed in one.items()} for one in found["g1"]]
    return {**found, "g1": g1, "g3": {str(batch): gain._asdict() for batch, gain in found["g3"].items()}}


def main() -> int:
    """Measures, writes the page unless quick, and prints it and the result as JSON in the last line."""
    parser = argparse.ArgumentParser()
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--quick", action="store_true", help="few rounds and children; writes no page")
    either.add_argument("--full", action="store_true", help="whole searches too")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py must have a CUDA device, torch finds none here: nothing is measured", file=sys.stderr)
        if asked.quick:
            print("RESULT", json.dumps({"skipped": NOTHING}))
        return 0 if asked.quick else 2
    size, begun = QUICK if asked.quick else Size(), time.perf_counter()
    found = measured(size, asked.full)
    machine = {
        **work.facts(DEVICE),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "seconds": time.perf_counter() - begun,
    }
    where = (
        f"{machine['device']}, {machine['cores']} cores, torch {machine['torch']}, {machine['seconds']:.0f} s in all"
    )
    text = "\n".join(page(found, size, where)) + "\n"
    print(text)
    if not asked.quick:
        PAGE.write_text(text)
    print("RESULT", json.dumps({**plain(found), "size": asdict(size), "machine": machine}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
