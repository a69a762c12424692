"""What random erasing and averaging of the weights are worth: one fixed network, from scratch, with and without each.

Every seed trains the network once in each of five ways, from the same first weights and over the same complete
schedule; the ways take turns. Compared are errors on the two validation parts together, paired by seed; the test part
is not read. A full run writes docs/recipe.md.

Data: Fashion-MNIST, 48,000 training images, 12,000 to judge by.

Usage: python benchmarks/recipe.py [--quick] [--keep FILE]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the cores are for processes

import argparse
import json
import multiprocessing
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from ablation import interval

from genomes import cost
from genomes.spaces.residual import ResidualSpace
from morphism.realise import initial
from search import Fidelity
from training import DataSpec, Prepared, Recipe, build, load, prepare
from training.evaluate import error
from training.loop import train

PAGE = Path(__file__).resolve().parents[1] / "docs" / "recipe.md"
GENOME = ResidualSpace((1, 28, 28), 10).member(8, [0, 1, 1])
PLAIN = Recipe(batch_size=128, learning_rate=0.15, crop=2, flip=True)
WAYS: Mapping[str, Recipe] = {
    "plain": PLAIN,
    "erasing": replace(PLAIN, erasing=0.5),
    "statistics": replace(PLAIN, averaging=1e-9),  # over less than a step: the last weights, their statistics anew
    "averaging": replace(PLAIN, averaging=0.05),
    "both": replace(PLAIN, erasing=0.5, averaging=0.05),
}


@dataclass(frozen=True)
class Protocol:
    """How much of everything: training examples, images to judge by of each part, seeds."""

    examples: int = 120_000
    judged: int = 6_000
    seeds: int = 3


QUICK = Protocol(1_000, 500, 2)


def trained(way: str, seed: int, file: Path, protocol: Protocol) -> dict[str, Any]:
    """Trains the network once and returns its error and what it took, in processor seconds."""
    torch.set_num_threads(1)
    prepared = Prepared.at(file)
    split = load(prepared)
    for examples in (PLAIN.batch_size, protocol.examples):  # once for the imports of a first step
        begun, network = time.process_time(), build(GENOME, initial(GENOME, seed))
        generator, fidelity = torch.Generator().manual_seed(seed), Fidelity(examples)
        train(network, *split.train, WAYS[way], fidelity, generator, prepared.normal)
    seconds = time.process_time() - begun
    parts = (split.validation, split.second_validation)
    images, labels = (torch.cat([part[index][: protocol.judged] for part in parts]) for index in (0, 1))
    return {"way": way, "seed": seed, "error": error(network, images, labels, prepared.normal), "seconds": seconds}


def measured(protocol: Protocol, file: Path, keep: Path) -> list[dict[str, Any]]:
    """Trains everything that is not kept yet on all cores, the ways in turn, and returns all of it."""
    found = [json.loads(line) for line in keep.read_text().splitlines()] if keep.exists() else []
    known = {(one["way"], one["seed"]) for one in found}
    jobs = [(way, seed) for seed in range(protocol.seeds) for way in WAYS if (way, seed) not in known]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(trained, way, seed, file, protocol) for way, seed in jobs]):
            found.append(future.result())
            print("{way:10} seed {seed}: error {error:.4f} in {seconds:.0f} CPU s".format(**found[-1]), flush=True)
            with keep.open("a") as kept:
                kept.write(json.dumps(found[-1]) + "\n")
    return sorted(found, key=lambda one: one["seed"])


def judged(found: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns for each way its errors by seed, how much less they are than the plain ones, and its relative cost."""
    errors = {way: [one["error"] for one in found if one["way"] == way] for way in WAYS}
    seconds = {way: statistics.mean(one["seconds"] for one in found if one["way"] == way) for way in WAYS}
    return {
        way: {
            "errors": errors[way],
            "gain": interval([plain - one for plain, one in zip(errors["plain"], errors[way], strict=True)]),
            "cost": seconds[way] / seconds["plain"],
        }
        for way in WAYS
    }


def rows(ways: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yields the rows of the table."""
    for way, numbers in ways.items():
        errors = ", ".join(f"{100 * one:.2f}" for one in numbers["errors"])
        mean, low, high = (100 * number for number in numbers["gain"])
        gain = "" if way == "plain" else f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"
        yield f"| {way} | {100 * statistics.mean(numbers['errors']):.2f} | {errors} | {gain} | {numbers['cost']:.2f} |"


def verdict(way: str, numbers: Mapping[str, Any]) -> str:
    """Returns in words what the interval says."""
    _, low, high = numbers["gain"]
    if low > 0:
        return f"{way} pays"
    return f"{way} costs accuracy" if high < 0 else f"{way} cannot be told from nothing"


TEXT = """# What erasing and averaging are worth

Written by `python benchmarks/recipe.py`, not by hand: Fashion-MNIST, {parameters:,} parameters from scratch,
{examples:,} examples in one complete schedule, seeds 0 to {last_seed}, {judged:,} validation images to judge by,
{cores} cores ({machine}, shared with other work), torch {torch}, {minutes:.0f} minutes of
processor time.

*Erasing*: half of the images have a random rectangle covered with noise (Zhong et al. 2020). *Averaging*: training ends
with the exponential moving average of the weights, its time constant a twentieth of the steps, and the statistics of
batch norms are measured anew. *Statistics*: only these are. *Both*: erasing and averaging. Errors in per cent; *gain*
is the plain error of the same seed minus this one, mean and 95 % interval by Student's t (few seeds, wide intervals);
*cost* is processor time over that of plain.

| way | error | by seed | gain | cost |
|---|--:|--:|--:|--:|
{rows}

By these intervals: {verdicts}.

One network and one length of schedule: erasing is known to pay in long schedules of large networks, and this is
neither.
"""


def page(ways: Mapping[str, Mapping[str, Any]], protocol: Protocol, seconds: float) -> str:
    """Returns docs/recipe.md."""
    return TEXT.format(
        parameters=cost(GENOME).parameters,
        examples=protocol.examples,
        last_seed=protocol.seeds - 1,
        judged=2 * protocol.judged,
        cores=os.cpu_count(),
        machine=platform.processor() or platform.machine(),
        torch=version("torch"),
        minutes=seconds / 60,
        rows="\n".join(rows(ways)),
        verdicts="; ".join(verdict(way, numbers) for way, numbers in ways.items() if way != "plain"),
    )


def main() -> None:
    """Measures, prints a table, and the result as JSON in the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="hardly any training: only that it runs")
    parser.add_argument("--keep", type=Path, help="file of finished trainings, so that a run that was cut off goes on")
    given = parser.parse_args()
    quick, protocol = given.quick, QUICK if given.quick else Protocol()
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare(DataSpec("fashion_mnist", validation=0.1, second_validation=0.1), Path(scratch))
        found = measured(protocol, prepared.file, given.keep or Path(scratch) / "kept.jsonl")
    ways, seconds = judged(found), sum(one["seconds"] for one in found)
    print("\n".join(rows(ways)))
    if not quick:
        PAGE.write_text(page(ways, protocol, seconds))
    machine = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    told = {"ways": ways, "examples": protocol.examples, "seeds": protocol.seeds, "cpu_seconds": seconds}
    print("RESULT", json.dumps({**told, "torch": version("torch"), **machine}))


if __name__ == "__main__":
    sys.exit(main())
