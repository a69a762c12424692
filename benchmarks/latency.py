"""How repeatable a measured latency is, what it costs a child, and whether MACs could stand in for it.

    repeatability   the same networks again and again, in three conditions that alternate: nobody trains; one sibling
                    trains on each other core; the same siblings train and give way, as they do in a search
    cost            how long a child waits for stillness, how long it measures, and what the others pay
    rank            Spearman's correlation of latency with MACs and parameters, one image and 128 at a time

The spread of a network is the largest of its repeated measurements over the smallest, less 1; medians over networks.
A full run writes docs/latency.md.

Usage: python benchmarks/latency.py [--quick]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the cores are for processes

import argparse
import json
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.synchronize import Event, Semaphore
from pathlib import Path

import numpy as np
import torch
from torch import fx

from genomes import Genome, cost
from genomes.spaces.residual import ResidualSpace
from morphism.realise import initial
from search import Fidelity
from training import Recipe, build
from training.latency import Latency, latency, processor
from training.loop import train
from training.measurement import LatencySettings
from training.stillness import Stillness

PAGE = Path(__file__).resolve().parents[1] / "docs" / "latency.md"
SPACE = ResidualSpace((1, 28, 28), 10)
CONDITIONS = ("nobody trains", "siblings train", "siblings give way")
CONTEXT = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Protocol:
    """How much of everything."""

    networks: int = 10
    rounds: int = 7
    ranked: int = 24
    repeats: int = 30


QUICK = Protocol(networks=2, rounds=2, ranked=4, repeats=5)


@dataclass(frozen=True)
class Taken:
    """One measurement under one condition, and the wall seconds of waiting for it and of making it."""

    found: Latency
    waiting: float
    measuring: float


def networks(count: int, label: str) -> list[tuple[Genome, fx.GraphModule]]:
    """Returns random members of the space, built."""
    genomes = [SPACE.sample(random.Random(f"{label}:{number}")) for number in range(count)]
    return [(genome, build(genome, initial(genome, 0))) for genome in genomes]


def sibling(directory: Path | None, go: Event, ready: Semaphore) -> None:
    """Says that it is ready, then trains while `go` is set; gives way to who measures, if a directory is given."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    genome = SPACE.member(16, [1, 1, 1])
    network = build(genome, initial(genome, 0))
    images = torch.randint(0, 256, (2048, *SPACE.shape), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (2048,), generator=generator)
    recipe, normal = Recipe(learning_rate=1e-3), (0.3, 0.3)
    train(network, images, labels, recipe, Fidelity(256), generator, normal)  # imports the optimiser
    ready.release()
    network.register_forward_pre_hook(lambda *_: (go.wait(), None)[1])
    with Stillness(directory) if directory else nullcontext() as still:
        if still:
            still.attend(network)
        train(network, images, labels, recipe, Fidelity(10**9), generator, normal)


@contextmanager
def siblings(directory: Path | None, count: int) -> Iterator[Event]:
    """Yields the switch of so many trainings in processes of their own."""
    go, ready = CONTEXT.Event(), CONTEXT.Semaphore(0)
    processes = [CONTEXT.Process(target=sibling, args=(directory, go, ready), daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        for _ in processes:
            ready.acquire()
        yield go
    finally:
        for process in processes:
            process.kill()
            process.join()


def measured(network: fx.GraphModule, settings: LatencySettings, still: Stillness | None) -> Taken:
    """Returns a latency and what it cost; alone in the room if one is given."""
    begun = time.perf_counter()
    if still is None:
        return Taken(latency(network, SPACE.shape, settings), 0.0, time.perf_counter() - begun)
    with still.alone():
        alone = time.perf_counter()
        found = latency(network, SPACE.shape, settings)
        ended = time.perf_counter()
    return Taken(found, alone - begun, ended - alone)


def repeated(protocol: Protocol, directory: Path) -> dict[str, list[list[Taken]]]:
    """Returns measurements by condition, network and round; conditions alternate."""
    settings, chosen = LatencySettings(repeats=protocol.repeats), networks(protocol.networks, "repeated")
    taken: dict[str, list[list[Taken]]] = {condition: [[] for _ in chosen] for condition in CONDITIONS}
    others = max(1, len(os.sched_getaffinity(0)) - 1)
    with siblings(None, others) as rude, siblings(directory, others) as polite:
        for _ in range(protocol.rounds):
            for condition in CONDITIONS:
                (rude.set if condition == "siblings train" else rude.clear)()
                (polite.set if condition == "siblings give way" else polite.clear)()
                time.sleep(0.5)
                rounded(condition, taken[condition], [network for _, network in chosen], settings, directory)
    return taken


def rounded(
    condition: str,
    taken: list[list[Taken]],
    chosen: Sequence[fx.GraphModule],
    settings: LatencySettings,
    directory: Path,
) -> None:
    """Adds one measurement of each network."""
    if condition != "siblings give way":
        for values, network in zip(taken, chosen, strict=True):
            values.append(measured(network, settings, None))
        return
    with Stillness(directory) as still:
        for values, network in zip(taken, chosen, strict=True):
            values.append(measured(network, settings, still))
            time.sleep(0.05)  # the siblings are at work again


def spread(values: Sequence[float]) -> float:
    """Returns the largest over the smallest, less 1."""
    return max(values) / min(values) - 1


def summary(taken: Sequence[Sequence[Taken]]) -> dict[str, float]:
    """Returns the spreads of one condition, medians over networks, and the costs in milliseconds."""
    flat = [one for values in taken for one in values]
    return {
        "spread": statistics.median(spread([one.found.seconds for one in values]) for values in taken),
        "ratio_spread": statistics.median(spread([one.found.objectives["latency_ratio"] for one in v]) for v in taken),
        "seconds": statistics.median(one.found.seconds for one in flat),
        "waiting": statistics.median(one.waiting for one in flat),
        "waiting_most": max(one.waiting for one in flat),
        "measuring": statistics.median(one.measuring for one in flat),
    }


def courtesy(directory: Path, times: int = 10_000) -> float:
    """Returns the microseconds that giving way takes if nobody waits, which each forward pass pays."""
    with Stillness(directory) as still:
        begun = time.perf_counter()
        for _ in range(times):
            still.give_way()
        return 1e6 * (time.perf_counter() - begun) / times


def ranked(protocol: Protocol, batch: int) -> dict[str, float]:
    """Returns the rank correlations of latency with MACs and parameters over random members."""
    chosen = networks(protocol.ranked, "ranked")
    settings = LatencySettings(batch, protocol.repeats if batch == 1 else max(5, protocol.repeats // 3))
    taken = np.array([latency(network, SPACE.shape, settings).objectives["latency_ratio"] for _, network in chosen])
    counted = [cost(genome) for genome, _ in chosen]
    return {
        name: correlation(taken, np.array([float(getattr(one, name)) for one in counted]))
        for name in ("macs", "parameters")
    }


def correlation(one: np.ndarray, other: np.ndarray) -> float:  # type: ignore[type-arg]
    """Returns Spearman's rank correlation of values without ties."""
    return float(np.corrcoef(one.argsort().argsort(), other.argsort().argsort())[0, 1])


def page(summaries: dict[str, dict[str, float]], ranks: dict[str, dict[str, float]], facts: dict[str, object]) -> str:
    """Returns the page of a full run."""
    lines = "\n".join(
        f"| {condition} | {100 * told['spread']:.1f} % | {100 * told['ratio_spread']:.1f} % "
        f"| {1000 * told['seconds']:.3f} |"
        for condition, told in summaries.items()
    )
    table = "\n".join(f"| {batch} | {told['macs']:.2f} | {told['parameters']:.2f} |" for batch, told in ranks.items())
    polite = summaries["siblings give way"]
    return TEMPLATE.format(
        **facts,
        lines=lines,
        table=table,
        gain=100 * (polite["spread"] - summaries["siblings train"]["spread"]),
        waiting=1000 * polite["waiting"],
        most=1000 * polite["waiting_most"],
        measuring=1000 * polite["measuring"],
    )


TEMPLATE = """# Latency, measured

Written by `benchmarks/latency.py` on {machine}, torch {torch}, one thread a process, float32,
load average {load_before:.1f} before and {load_after:.1f} after. "Nobody trains" means none that this program started:
what else the machine did, trainings among it, is in that load.

{networks} networks, {rounds} measurements each in each condition, one image at a time; a measurement is the shortest
of {repeats} runs that alternate with those of a fixed reference network. The spread is the largest of a network's
measurements over the smallest, less 1; medians over the networks.

| condition | spread of the latency | spread of its ratio to the reference | median latency, ms |
|---|--:|--:|--:|
{lines}

Against siblings that train on, giving way changes the spread by {gain:+.1f} points.

Where siblings give way, a child waits {waiting:.1f} ms (median; at most {most:.0f} ms) until they stand still, and
keeps them so for {measuring:.0f} ms (median). Each forward pass of a sibling pays {courtesy:.1f} microseconds for
asking whether somebody waits. The wait is the rest of a training step, so it grows with the load of the machine.

Spearman's rank correlation of the latency (as a ratio) of {ranked} random members with what is counted from the graph:

| images at a time | with MACs | with parameters |
|--:|--:|--:|
{table}
"""


def main() -> None:
    """Measures and prints tables, and the result as JSON in the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer networks and repetitions")
    quick = parser.parse_args().quick
    protocol = QUICK if quick else Protocol()
    torch.set_num_threads(1)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        taken, courteous = repeated(protocol, Path(scratch)), courtesy(Path(scratch))
    summaries = {condition: summary(values) for condition, values in taken.items()}
    ranks = {str(batch): ranked(protocol, batch) for batch in (1, 128)}
    for condition, told in summaries.items():
        print(f"{condition:18}", ", ".join(f"{name} {value:.4f}" for name, value in told.items()))
    for batch, found in ranks.items():
        print(f"batch {batch:>3}: Spearman with MACs {found['macs']:.2f}, with parameters {found['parameters']:.2f}")
    facts = {
        "machine": processor(),
        "torch": torch.__version__,
        "load_before": load_before,
        "courtesy": courteous,
        "load_after": os.getloadavg()[0],
        **vars(protocol),
    }
    if not quick:
        PAGE.write_text(page(summaries, ranks, facts))
    print("RESULT", json.dumps({"conditions": summaries, "spearman": ranks, **facts}))


if __name__ == "__main__":
    main()
