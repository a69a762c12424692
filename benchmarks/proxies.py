"""Whether zero-cost proxies rank networks better than their parameter count does.

    fashion   random members of the residual space, each trained on Fashion-MNIST with several seeds; a score is
              compared with the mean validation accuracy; seeds among themselves are the ceiling
    nb201     with --nasbench FILE: random cells of NAS-Bench-201 as genomes, 15 cells deep as they were trained; a
              score is compared with the published validation accuracy on CIFAR-10. Proxies see noise as images and
              random labels, since the data are not needed for anything else here

Spearman's rank correlation; intervals are 95 % percentile bootstraps over the networks. Beside each proxy stands the
sum of its ranks and those of the parameter count, and how much its correlation exceeds that of the count, resampled in
pairs. A full run writes docs/proxies.md.

FILE is a gzip CSV with the columns arch (six digits: the operation on edges 0-1, 0-2, 1-2, 0-3, 1-3, 2-3, with 0 none,
1 skip, 2 conv 1 x 1, 3 conv 3 x 3, 4 average pool) and c10_val.

Usage: python benchmarks/proxies.py [--quick] [--nasbench FILE]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the cores are for processes

import argparse
import csv
import gzip
import itertools
import json
import multiprocessing
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from genomes import Genome, Module, cost
from genomes.operations import (
    Add,
    AvgPool,
    BatchNorm,
    Call,
    Conv,
    Flatten,
    GlobalPool,
    Identity,
    Input,
    Linear,
    Operation,
    Output,
    ReLU,
)
from genomes.spaces.residual import ResidualLimits, ResidualSpace
from morphism.realise import initial
from search import Fidelity
from training import DataSpec, Prepared, Recipe, build, load, prepare
from training.evaluate import error
from training.latency import processor
from training.loop import normalised, train
from training.proxies import PROXIES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "proxies.md"
SPACE = ResidualSpace((1, 28, 28), 10, ResidualLimits(parameters=60_000, macs=3_000_000))
RECIPE = Recipe(batch_size=128, learning_rate=0.15, crop=2, flip=True)
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
RESAMPLES = 2_000

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Protocol:
    """How much of everything."""

    children: int = 24
    seeds: int = 2
    examples: int = 8_000
    judged: int = 5_000
    batch: int = 64
    cells: int = 120
    processes: int = 2


QUICK = Protocol(children=4, seeds=2, examples=256, judged=256, batch=8, cells=4)


def members(count: int) -> list[Genome]:
    """Returns so many different random members of the space."""
    found: dict[Genome, None] = {}
    for number in itertools.count():
        if len(found) == count:
            return list(found)
        found[SPACE.sample(random.Random(f"proxies:{number}"))] = None
    raise AssertionError


def scores(genome: Genome, images: torch.Tensor, labels: torch.Tensor) -> tuple[dict[str, float], dict[str, float]]:
    """Returns a network's scores, and the processor milliseconds that each took."""
    network, counted = build(genome, initial(genome, 0)), cost(genome)
    found, taken = {"parameters": float(counted.parameters), "macs": float(counted.macs)}, dict[str, float]()
    for name, proxy in PROXIES.items():
        begun = time.process_time()
        found[name] = proxy(network, images, labels)
        taken[name] = 1000 * (time.process_time() - begun)
    return found, taken


def child(genome: Genome, seed: int, file: Path, protocol: Protocol) -> float:
    """Returns the validation accuracy after one complete short schedule."""
    torch.set_num_threads(1)
    prepared = Prepared.at(file)
    split = load(prepared)
    network, generator = build(genome, initial(genome, seed)), torch.Generator().manual_seed(seed)
    fidelity = Fidelity(protocol.examples)
    train(network, split.train.images, split.train.labels, RECIPE, fidelity, generator, prepared.normal)
    judged = [tensor[: protocol.judged] for tensor in split.validation]
    return 1 - error(network, judged[0], judged[1], prepared.normal)


def fashion(protocol: Protocol, directory: Path) -> tuple[list[tuple[dict[str, float], dict[str, float]]], Numbers]:
    """Returns the scores of children, and their accuracies `[child, seed]`."""
    prepared = prepare(DataSpec("fashion_mnist", validation=0.1), directory)
    chosen, images = members(protocol.children), load(prepared).train
    batch = normalised(images.images[: protocol.batch], prepared.normal), images.labels[: protocol.batch]
    jobs = [(genome, seed) for seed in range(protocol.seeds) for genome in chosen]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(protocol.processes, mp_context=context) as pool:
        futures = [pool.submit(child, genome, seed, prepared.file, protocol) for genome, seed in jobs]
        found = [scores(genome, *batch) for genome in chosen]
        accuracies = np.array([future.result() for future in futures])
    return found, accuracies.reshape(protocol.seeds, protocol.children).T


def nb201(file: Path, protocol: Protocol) -> tuple[list[tuple[dict[str, float], dict[str, float]]], Numbers]:
    """Returns the scores of random cells, and their published accuracies `[cell, 1]`."""
    with gzip.open(file, "rt") as text:
        rows = [row for row in csv.DictReader(text) if alive(row["arch"])]
    chosen = random.Random("nb201").sample(rows, protocol.cells)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(protocol.batch // 2, 3, 32, 32, generator=generator)
    labels = torch.randint(0, 10, (len(images),), generator=generator)
    found = [scores(stacked(row["arch"]), images, labels) for row in chosen]
    return found, np.array([[float(row["c10_val"])] for row in chosen])


def alive(cell: str) -> bool:
    """Says whether the output of a cell depends on its input."""
    reached = {0}
    for source, target in sorted(EDGES, key=lambda edge: edge[1]):
        if source in reached and cell[EDGES.index((source, target))] != "0":
            reached.add(target)
    return 3 in reached


def useful(cell: str) -> set[int]:
    """Returns the nodes of a cell that its output depends on, or could."""
    found = {3}
    for source, target in sorted(EDGES, key=lambda edge: -edge[1]):
        if target in found and cell[EDGES.index((source, target))] != "0":
            found.add(source)
    return found


def stacked(cell: str) -> Genome:
    """Returns the network of a cell: stem, three stages of five cells, two residual reductions, head.

    Source: Dong & Yang 2020, NAS-Bench-201, section 2.1 and figure 1.
    """
    body: list[tuple[str, Operation]] = [("stem", Conv.same(16, 3)), ("norm", BatchNorm())]
    for stage in range(3):
        body += [("reduce", Call(f"reduce{stage}"))] if stage else []
        body += [("cell", Call(f"cell{stage}"))] * 5
    body += [("norm", BatchNorm()), ("relu", ReLU()), ("pool", GlobalPool()), ("flat", Flatten()), ("head", Linear(10))]
    modules = {"net": chain([("image", Input(0, (3, 32, 32))), *body])}
    for stage in range(3):
        width = 16 << stage
        modules |= {f"conv{kernel}_{stage}": layer(width, kernel) for kernel in (1, 3)}
        modules |= {f"cell{stage}": cell_module(cell, stage)} | ({f"reduce{stage}": reduction(width)} if stage else {})
    called = {operation.module for module in modules.values() for operation in calls(module)}
    return Genome.of({name: module for name, module in modules.items() if name == "net" or name in called})


def calls(module: Module) -> list[Call]:
    """Returns a module's calls."""
    return [operation for _, operation in module.nodes if isinstance(operation, Call)]


def chain(steps: Sequence[tuple[str, Operation]]) -> Module:
    """Returns a module whose nodes follow one another."""
    nodes = {f"{name}_{number}": operation for number, (name, operation) in enumerate(steps)} | {"y": Output()}
    return Module.of(nodes, list(itertools.pairwise(nodes)))


def layer(width: int, kernel: int) -> Module:
    """Returns activation, convolution, norm."""
    return chain([("x", Input()), ("relu", ReLU()), ("conv", Conv.same(width, kernel)), ("norm", BatchNorm())])


def reduction(width: int) -> Module:
    """Returns the residual block that halves the extent."""
    nodes: dict[str, Operation] = {
        "x": Input(), "relu1": ReLU(), "conv1": Conv.same(width, 3, stride=2), "norm1": BatchNorm(),
        "relu2": ReLU(), "conv2": Conv.same(width, 3), "norm2": BatchNorm(),
        "pool": AvgPool(2, 2), "point": Conv(width, 1), "sum": Add(), "y": Output(),
    }  # fmt: skip
    path = ["x", "relu1", "conv1", "norm1", "relu2", "conv2", "norm2", "sum", "y"]
    edges: list[tuple[str, str, int]] = [(a, b, 0) for a, b in itertools.pairwise(path)]
    return Module.of(nodes, [*edges, ("x", "pool", 0), ("pool", "point", 0), ("point", "sum", 1)])


def cell_module(cell: str, stage: int) -> Module:
    """Returns a cell: each node is the sum of what its edges make of earlier nodes; what leads nowhere is left out."""
    operations: Mapping[str, Operation] = {
        "1": Identity(), "2": Call(f"conv1_{stage}"), "3": Call(f"conv3_{stage}"), "4": AvgPool(3, 1, 1),
    }  # fmt: skip
    nodes: dict[str, Operation] = {"x": Input(), "y": Output()}
    edges: list[tuple[str, str, int]] = []
    values = {0: "x"}
    for node in (1, 2, 3):
        terms = []
        for (source, target), kind in zip(EDGES, cell, strict=True):
            if target in useful(cell) and target == node and kind != "0" and source in values:
                nodes[name := f"edge{source}{target}"] = operations[kind]
                edges.append((values[source], name, 0))
                terms.append(name)
        if terms:
            nodes[f"sum{node}"] = Add() if len(terms) > 1 else Identity()
            edges += [(term, f"sum{node}", port) for port, term in enumerate(terms)]
            values[node] = f"sum{node}"
    return Module.of(nodes, [*edges, (values[3], "y", 0)])


def ranks(values: Numbers) -> Numbers:
    """Returns the rank of each value, ties sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse].astype(np.float64)


def spearman(one: Numbers, other: Numbers) -> float:
    """Returns the rank correlation; 0 if one side is constant."""
    a, b = ranks(one), ranks(other)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else 0.0


def compared(table: Mapping[str, Numbers], target: Numbers) -> dict[str, dict[str, list[float]]]:
    """Returns for each score its correlation and its lead over the parameter count: value, lower and upper bound."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(target), (RESAMPLES, len(target)))
    results = {}
    for name, values in table.items():
        pairs = [(spearman(values[d], target[d]), spearman(table["parameters"][d], target[d])) for d in drawn]
        rho, lead = np.array([a for a, _ in pairs]), np.array([a - b for a, b in pairs])
        whole = spearman(values, target)
        results[name] = {
            "rho": [whole, *np.percentile(rho, [2.5, 97.5])],
            "lead": [whole - spearman(table["parameters"], target), *np.percentile(lead, [2.5, 97.5])],
        }
    return results


def judged(found: Sequence[tuple[Mapping[str, float], Mapping[str, float]]], accuracies: Numbers) -> dict[str, object]:
    """Returns the correlations of all scores, and of their ranks added to those of the count, with the accuracies."""
    table = {name: np.array([score[name] for score, _ in found]) for name in found[0][0]}
    size = ranks(table["parameters"])
    table |= {f"{name} + parameters": ranks(values) + size for name, values in table.items() if name in PROXIES}
    ceiling = spearman(accuracies[:, 0], accuracies[:, 1]) if accuracies.shape[1] > 1 else None
    return {
        "scores": compared(table, accuracies.mean(1)),
        "milliseconds": {name: float(np.median([taken[name] for _, taken in found])) for name in PROXIES},
        "networks": len(found),
        "ceiling": ceiling,
        "accuracy": [float(accuracies.min()), float(accuracies.mean()), float(accuracies.max())],
        "parameters": [float(table["parameters"].min()), float(table["parameters"].max())],
    }


def shown(values: Sequence[float]) -> str:
    """Returns a number with its interval."""
    return f"{values[0]:+.2f} [{values[1]:+.2f}, {values[2]:+.2f}]"


def rows(result: Mapping[str, dict[str, object]]) -> str:
    """Returns the results as a table."""
    lines = ["| score | " + " | ".join(f"{p}: rho | {p}: lead over parameters" for p in result) + " | CPU ms |"]
    lines.append("|---|" + "--:|" * (2 * len(result) + 1))
    first = next(iter(result.values()))
    for name in first["scores"]:  # type: ignore[attr-defined]
        cells = [shown(part["scores"][name][key]) for part in result.values() for key in ("rho", "lead")]  # type: ignore[index]
        taken = first["milliseconds"].get(name)  # type: ignore[attr-defined]
        lines.append(f"| {name} | {' | '.join(cells)} | {f'{taken:.0f}' if taken else ''} |")
    return "\n".join(lines)


def page(result: Mapping[str, dict[str, object]], protocol: Protocol) -> str:
    """Returns the page of a full run."""
    beaten = {
        part: [n for n in PROXIES if told["scores"][n]["lead"][1] > 0]  # type: ignore[index]
        for part, told in result.items()
    }
    verdict = [
        f"On {part}, {' and '.join(names) or 'no proxy'} ranks better than the parameter count beyond the interval."
        for part, names in beaten.items()
    ]
    facts = {"machine": processor(), "torch": version("torch"), "table": rows(result), "verdict": "\n".join(verdict)}
    fashion_mnist = result["fashion"]
    low, mean, high = (100 * share for share in fashion_mnist["accuracy"])  # type: ignore[attr-defined]
    small, large = fashion_mnist["parameters"]  # type: ignore[misc]
    spread = f"{low:.1f} to {high:.1f} %, mean {mean:.1f} %"
    cells = ""
    if "nb201" in result:
        cells = CELLS.format(networks=result["nb201"]["networks"], images=protocol.batch // 2)
    ceiling = f"{fashion_mnist['ceiling']:+.2f}"
    sizes = f"{small:,.0f} to {large:,.0f}"
    return TEMPLATE.format(**facts, **vars(protocol), spread=spread, sizes=sizes, ceiling=ceiling, cells_page=cells)


CELLS = """
**nb201**: {networks} random cells of NAS-Bench-201 that compute something, built as genomes 15 cells deep; the target
is the published CIFAR-10 validation accuracy after 200 epochs. Proxies see {images} images of noise with random labels,
so those that read data may do better than here.
"""
TEMPLATE = """# Zero-cost proxies against the parameter count

Written by `benchmarks/proxies.py` on {machine}, torch {torch}, one thread a process. Spearman's rank
correlation with the accuracy after training, with 95 % bootstrap intervals over the networks. *Lead* is the difference
from the parameter count's correlation, resampled in pairs; *+ parameters* is the sum of both ranks.

**fashion**: {children} random members of the residual space ({sizes} parameters), each trained on {examples:,}
Fashion-MNIST images with {seeds} seeds; accuracy on {judged:,} validation images {spread}. Proxies see
{batch} training images. One seed ranks the networks like another with rho = {ceiling}: the ceiling of any score.
{cells_page}
{table}

{verdict}

A screen is off by default. `strategy: {{screen: {{proxy: NAME, draws: 4}}}}` switches one on; `parameters` is among the
names, as the control that a proxy has to beat. Mind that the schedule is short, which favours what learns fast.
"""


def main() -> None:
    """Measures and prints a table, and the result as JSON in the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer networks, hardly trained")
    parser.add_argument("--nasbench", type=Path, help="gzip CSV of NAS-Bench-201: arch, c10_val")
    given = parser.parse_args()
    protocol = QUICK if given.quick else Protocol()
    torch.set_num_threads(1)
    begun, load_before = time.perf_counter(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        result = {"fashion": judged(*fashion(protocol, Path(scratch)))}
    if given.nasbench:
        result["nb201"] = judged(*nb201(given.nasbench, protocol))
    print(rows(result))
    if not given.quick:
        PAGE.write_text(page(result, protocol))
    facts = {
        "machine": processor(),
        "load": load_before,
        "seconds": time.perf_counter() - begun,
        "torch": version("torch"),
    }
    print("RESULT", json.dumps({**result, **vars(protocol), **facts}))


if __name__ == "__main__":
    main()
