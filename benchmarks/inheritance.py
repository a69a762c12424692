"""What inheriting weights saves: steps that the same network needs from scratch to be as good as the inherited child.

For every seed a parent is trained for N steps. For every morphism an edit of it is drawn; the child is trained for M
steps with inherited weights, and for M, 2 M, 4 M and 8 M steps from scratch, each time over a complete schedule of its
own. The steps that scratch needs to be as good are interpolated in their logarithm. Controls: the parent, trained on
for M steps (no edit), and what scratch reaches in the N + M steps that the whole chain has cost.

Data: Fashion-MNIST, 10,000 training images, 5,000 validation images; the test part is not read. A full run writes
docs/inheritance.md.

Usage: python benchmarks/inheritance.py [--quick]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the cores are for processes

import argparse
import json
import math
import multiprocessing
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from ablation import interval
from torch import Tensor

from genomes import Genome, cost
from genomes.spaces.residual import ResidualSpace
from morphism import CATALOGUE, Edit, Inapplicable
from morphism.realise import initial, realise
from search import Fidelity
from training import DataSpec, Prepared, Recipe, build, load, prepare, state
from training.evaluate import error
from training.loop import train

PAGE = Path(__file__).resolve().parents[1] / "docs" / "inheritance.md"
FAMILIES = {
    "width": ("widen.split", "widen.pair", "widen.zero_fanout"),
    "depth": ("deepen.residual", "deepen.prelu"),
    "kernel": ("kernel.grow",),
    "skip": ("skip.add",),
    "branch": ("branch.replicate",),
    "activation": ("act.blend",),
    "attention": ("se.insert", "attention.insert"),
}
SPACE = ResidualSpace((1, 28, 28), 10)
TABLE = {morphism.name: morphism for morphism in CATALOGUE}
TIMES = (1, 2, 4, 8)  # M steps, from scratch
GOAL = 3.0  # design.md, section 9: equal accuracy in at most a third of the steps


@dataclass(frozen=True)
class Protocol:
    """How much of everything: steps of parent and child, images, seeds, rules."""

    parent: int = 480
    child: int = 120
    images: int = 10_000
    judged: int = 5_000
    seeds: int = 3
    rules: tuple[str, ...] = tuple(rule for rules in FAMILIES.values() for rule in rules)


QUICK = Protocol(8, 2, 1_000, 500, 2, ("widen.split", "deepen.residual"))
RECIPE = Recipe(batch_size=128, learning_rate=0.15, crop=2, flip=True, precision="float32")


@lru_cache(maxsize=1)
def data(file: Path, protocol: Protocol) -> tuple[Any, ...]:
    """Returns images and labels to train on, those to judge by, and the moments to normalise by."""
    prepared = Prepared.at(file)
    split = load(prepared)
    chosen = [
        tensor[:count]
        for part, count in ((split.train, protocol.images), (split.validation, protocol.judged))
        for tensor in part
    ]
    return *chosen, prepared.normal


def trained(
    genome: Genome, weights: Mapping[str, Tensor], steps: int, seed: int, source: tuple[Path, Protocol]
) -> tuple[float, dict[str, Tensor]]:
    """Returns the accuracy on the validation images after one schedule, and the weights."""
    images, labels, judged, answers, normal = data(*source)
    network = build(genome, weights)
    if steps:
        fidelity = Fidelity(examples=steps * RECIPE.batch_size)
        train(network, images, labels, RECIPE, fidelity, torch.Generator().manual_seed(seed), normal)
    return 1 - error(network, judged, answers, normal), state(network)


def founder(seed: int, source: tuple[Path, Protocol]) -> tuple[int, float, dict[str, Tensor]]:
    """Returns a seed, its trained parent's accuracy and weights."""
    torch.set_num_threads(1)
    genome = parent()
    return seed, *trained(genome, initial(genome, seed), source[1].parent, seed, source)


def parent() -> Genome:
    """Returns the network that all children come from."""
    return SPACE.member(8, [0, 1, 1])


def control(seed: int, weights: dict[str, Tensor], source: tuple[Path, Protocol]) -> dict[str, Any]:
    """Trains the parent on, without an edit."""
    torch.set_num_threads(1)
    accuracy, _ = trained(parent(), weights, source[1].child, 1_000 + seed, source)
    return {"rule": "none", "seed": seed, "inherited": accuracy}


def case(rule: str, seed: int, weights: dict[str, Tensor], source: tuple[Path, Protocol]) -> dict[str, Any]:
    """Compares a child that inherits with the same genome from scratch."""
    torch.set_num_threads(1)
    protocol, edit = source[1], drawn(rule, seed)
    start = realise(edit, weights)
    scratch = {
        times: trained(edit.genome, initial(edit.genome, seed), times * protocol.child, 1_000 + seed, source)[0]
        for times in TIMES
    }
    return {
        "rule": rule,
        "seed": seed,
        "site": dict(edit.site),
        "parameters": cost(edit.genome).parameters,
        "at_once": trained(edit.genome, start, 0, seed, source)[0],
        "inherited": trained(edit.genome, start, protocol.child, 1_000 + seed, source)[0],
        "scratch": scratch,
    }


def drawn(rule: str, seed: int) -> Edit:
    """Returns an edit of the parent at a random site.

    Raises:
        Inapplicable: none of twenty draws could be planned.
    """
    rng = random.Random(f"{rule} {seed}")
    for _ in range(20):
        try:
            return TABLE[rule].plan(parent(), rng.choice(TABLE[rule].sites(parent())), rng)
        except Inapplicable:
            continue
    raise Inapplicable(f"{rule} must have a site in the parent")


def steps_needed(wanted: float, scratch: Mapping[int, float]) -> tuple[float, bool]:
    """Returns after how many times M steps scratch is as good, interpolated in the logarithm, and whether it was seen.

    Below the first point the first point is returned, beyond the last one the last: a bound, not a measurement.
    """
    points = sorted(scratch.items())
    if scratch[points[0][0]] >= wanted:
        return float(points[0][0]), False
    for (few, low), (many, high) in pairwise(points):
        if low < wanted <= high:
            return few * (many / few) ** ((wanted - low) / (high - low)), True
    return float(points[-1][0]), False


def reached(times: float, scratch: Mapping[int, float]) -> float:
    """Returns the accuracy of scratch after some times M steps, interpolated in the logarithm."""
    points = sorted(scratch.items())
    for (few, low), (many, high) in pairwise(points):
        if few <= times <= many:
            return low + (high - low) * math.log(times / few) / math.log(many / few)
    raise ValueError(f"times must be in [{points[0][0]}, {points[-1][0]}], got {times}")


def measured(protocol: Protocol, file: Path) -> dict[str, Any]:
    """Trains everything on all cores."""
    begun, source, cases = time.perf_counter(), (file, protocol), list[dict[str, Any]]()
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        parents = {
            seed: (accuracy, weights)
            for seed, accuracy, weights in pool.map(founder, range(protocol.seeds), [source] * protocol.seeds)
        }
        waiting = [pool.submit(control, seed, weights, source) for seed, (_, weights) in parents.items()]
        waiting += [
            pool.submit(case, rule, seed, weights, source)
            for rule in protocol.rules
            for seed, (_, weights) in parents.items()
        ]
        for number, future in enumerate(as_completed(waiting), 1):
            cases.append(future.result())
            spent = time.perf_counter() - begun
            print(f"{number}/{len(waiting)} in {spent:.0f} s: {cases[-1]['rule']}", flush=True)
    cases.sort(key=lambda one: (one["rule"], one["seed"]))
    return {
        "parents": [accuracy for accuracy, _ in parents.values()],
        "controls": [one["inherited"] for one in cases if one["rule"] == "none"],
        "cases": [one for one in cases if one["rule"] != "none"],
    }


def judged(found: Mapping[str, Any], protocol: Protocol) -> dict[str, Any]:
    """Returns, for each family and for all, what the cases come to."""
    chain = 1 + protocol.parent / protocol.child
    for one in found["cases"]:
        one["ratio"], one["seen"] = steps_needed(one["inherited"], one["scratch"])
        one["gain"] = one["inherited"] - found["controls"][one["seed"]]
        one["for_the_chain"] = reached(chain, one["scratch"])
    families = {family: _family(found["cases"], rules, protocol) for family, rules in FAMILIES.items()}
    every = tuple(rule for rules in FAMILIES.values() for rule in rules)
    return {
        **found,
        "families": {family: numbers for family, numbers in families.items() if numbers},
        "all": _family(found["cases"], every, protocol),
    }


def _family(cases: Sequence[Mapping[str, Any]], rules: Sequence[str], protocol: Protocol) -> dict[str, Any]:
    mine = [one for one in cases if one["rule"] in rules]
    if not mine:
        return {}

    def by_seed(name: str) -> list[float]:
        return [statistics.mean(one[name] for one in mine if one["seed"] == seed) for seed in range(protocol.seeds)]

    logs = [
        statistics.mean(math.log(one["ratio"]) for one in mine if one["seed"] == seed) for seed in range(protocol.seeds)
    ]
    return {
        "cases": len(mine),
        "bounds_only": sum(not one["seen"] for one in mine),
        "ratio": [math.exp(value) for value in interval(logs)],
        "ratios": sorted(one["ratio"] for one in mine),
        "inherited": interval(by_seed("inherited")),
        "scratch": statistics.mean(one["scratch"][1] for one in mine),
        "for_the_chain": interval(by_seed("for_the_chain")),
        "gain": interval(by_seed("gain")),
    }


TEXT = """# What inheritance saves

Written by `python benchmarks/inheritance.py`, not by hand: Fashion-MNIST, {images:,} training and {judged:,} validation
images, {cores} cores ({machine}), torch {torch}, float32, {minutes:.0f} minutes, seeds 0 to {last_seed}.

A parent of {parameters:,} parameters is trained for {parent} steps of 128 examples: {parents} %. Each child is one edit
of it at a random site, trained for M = {child} steps. *Steps saved* is how many times M steps the same genome needs
from scratch, each time over a complete schedule, to be as accurate: geometric mean, 95 % interval over the seeds by
Student's t (few seeds, wide intervals), and the least and the largest of all cases. A case beyond what was run, M to
{longest} M, counts as the end of that range and is a bound, not a measurement.

| family | rules | cases (bounds) | steps saved | least to largest | inherited | scratch | scratch, {chain:g} M | gain |
|---|---|--:|--:|--:|--:|--:|--:|--:|
{rows}

Accuracies in per cent after M steps, or as many as the column says; *gain* is over the control without an edit, in
points. That control, the parent trained on for M steps: {controls} %.

## How to read it

**For one candidate.** {candidate}

**For a chain.** The child's accuracy has cost its ancestor's steps as well: {chain:g} M in all. In as many steps the
same genomes reach {from_scratch:.1f} % from scratch, on average; the inherited children have {inherited:.1f} %.
{chained}

**For the edit itself.** {edits}

One data set, one small parent, one edit a child, short schedules: other settings may differ.
"""


def rows(outcome: Mapping[str, Any]) -> Iterator[str]:
    """Yields the rows of the table."""
    for family, n in [*outcome["families"].items(), ("**all**", outcome["all"])]:
        rules = ", ".join(FAMILIES.get(family, ()))
        ratio, low, high = n["ratio"]
        yield (
            f"| {family} | {rules} | {n['cases']} ({n['bounds_only']}) | {ratio:.1f} ({low:.1f} to {high:.1f}) | "
            f"{n['ratios'][0]:.1f} to {n['ratios'][-1]:.1f} | {_percent(n['inherited'])} | {100 * n['scratch']:.1f} | "
            f"{_percent(n['for_the_chain'])} | {_percent(n['gain'], '+')} |"
        )


def _percent(numbers: Sequence[float], sign: str = "") -> str:
    mean, low, high = (100 * number for number in numbers)
    return f"{mean:{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})"


def words(outcome: Mapping[str, Any]) -> dict[str, str]:
    """Returns sentences that the numbers choose."""
    (ratio, low, _), gain = outcome["all"]["ratio"], outcome["all"]["gain"]
    missed = [family for family, n in outcome["families"].items() if n["ratio"][0] < GOAL]
    goal = f"the goal, equal accuracy in at most 1/{GOAL:g} of the steps,"
    if low >= GOAL:
        candidate = f"Inheritance saves a factor of {ratio:.1f} in steps; {goal} is met, the whole interval beyond it."
    elif ratio >= GOAL:
        candidate = (
            f"Inheritance saves a factor of {ratio:.1f}; {goal} is met on average, but not by the whole interval."
        )
    else:
        candidate = f"Inheritance saves a factor of {ratio:.1f}; {goal} is **missed**."
    candidate += (
        f" On average it is missed by: {', '.join(missed)}." if missed else " Every family meets it on average."
    )
    ahead = outcome["all"]["inherited"][0] - outcome["all"]["for_the_chain"][0]
    chained = (
        "So a single chain saves nothing, and a final network should be trained from scratch. Whether it pays that one "
        "parent serves many children is not measured here."
        if ahead <= 0
        else f"Here the chain is ahead of scratch by {100 * ahead:.1f} points."
    )
    if gain[1] > 0:
        edits = "The children are better than the parent trained on for as long: the edits themselves help."
    elif gain[2] < 0:
        edits = "The children are worse than the parent trained on for as long: in M steps the edits cost."
    else:
        edits = (
            "The children cannot be told from the parent trained on for as long: in M steps no edit is seen to help."
        )
    return {"candidate": candidate, "chained": chained, "edits": edits}


def page(outcome: Mapping[str, Any], protocol: Protocol, seconds: float) -> str:
    """Returns docs/inheritance.md."""
    return TEXT.format(
        images=protocol.images,
        judged=protocol.judged,
        cores=os.cpu_count(),
        machine=platform.processor() or platform.machine(),
        torch=version("torch"),
        minutes=seconds / 60,
        last_seed=protocol.seeds - 1,
        parameters=cost(parent()).parameters,
        parent=protocol.parent,
        child=protocol.child,
        parents=_percent(interval(outcome["parents"])),
        controls=_percent(interval(outcome["controls"])),
        longest=TIMES[-1],
        chain=1 + protocol.parent / protocol.child,
        rows="\n".join(rows(outcome)),
        from_scratch=100 * outcome["all"]["for_the_chain"][0],
        inherited=100 * outcome["all"]["inherited"][0],
        **words(outcome),
    )


def main() -> None:
    """Measures, prints a table, and the result as JSON in the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="two morphisms, hardly any training: only that it runs")
    quick, begun = parser.parse_args().quick, time.perf_counter()
    protocol = QUICK if quick else Protocol()
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare(DataSpec("fashion_mnist", validation=0.1, second_validation=0.1), Path(scratch))
        outcome = judged(measured(protocol, prepared.file), protocol)
    print("\n".join(rows(outcome)))
    print("\n".join(words(outcome).values()))
    seconds = time.perf_counter() - begun
    if not quick:
        PAGE.write_text(page(outcome, protocol, seconds))
    machine = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    print(
        "RESULT",
        json.dumps({**outcome, "seconds": seconds, "seeds": protocol.seeds, "torch": version("torch"), **machine}),
    )


if __name__ == "__main__":
    sys.exit(main())
