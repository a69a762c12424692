"""What successive halving saves: processor seconds to keep the best children, against training every one in full (B6).

Children are random members of the residual space with random edits, trained from scratch on Fashion-MNIST at 14 x 14
pixels on three complete schedules, with several seeds, and judged on as many images as the product judges them on.
`SuccessiveHalving` itself decides, from the errors that one seed measured, who is promoted from the shortest schedule
to the middle one; its answer is the best quarter. The truth is the mean error of the *other* seeds on the full
schedule: an arm is never judged by its own measurement. Recall is the share of the true top 3 in the answer. The other
arms answer in the same way: every child on one schedule, and the most parameters.

The same runs say how often a rule against hopeless children would have fired: in the first half of the schedule the
mean loss is at the level of guessing, the logarithm of the number of classes, or above.

The test part is not read. A full run writes docs/ladder.md.

Usage: python benchmarks/ladder.py [--quick] [--keep FILE]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the cores are for processes

import argparse
import json
import math
import multiprocessing
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from ablation import interval
from family import DATA
from scipy.stats import spearmanr

from genomes import Genome, cost
from genomes.spaces.residual import ResidualLimits, ResidualSpace
from morphism.realise import initial
from search import Candidate, Evaluation, Fidelity
from strategies import LadderSettings, RandomSearch, SuccessiveHalving
from training import Prepared, Recipe, build, load, prepare
from training.errors import NonFinite
from training.evaluate import error
from training.evaluate import judged as judged_on
from training.loop import train

PAGE = Path(__file__).resolve().parents[1] / "docs" / "ladder.md"
SPACE = ResidualSpace((1, 14, 14), 10, ResidualLimits(parameters=10_000, macs=500_000))
RECIPE = Recipe(batch_size=128, learning_rate=0.15, crop=2, flip=True)
TOP, SHARE = 3, 0.25  # what has to be kept, and how much may be kept
SAVES, RECALL = 6.0, 0.9  # the goals of B6
GUESSING = math.log(10)  # the loss of it


@dataclass(frozen=True)
class Protocol:
    """How much of everything: children, seeds, examples of the three schedules."""

    children: int = 24
    seeds: int = 3
    rungs: tuple[int, int, int] = (3_000, 9_000, 81_000)  # thirds, as they are promoted


QUICK = Protocol(8, 2, (256, 512, 1_024))

Key = tuple[int, int, int]  # child, seed, examples
Run = dict[str, float]
Runs = Mapping[Key, Run]


def trained(genome: Genome, key: Key, file: Path) -> tuple[Key, Run]:
    """Trains a child from scratch; returns its error, its processor seconds, and the loss of the first half."""
    torch.set_num_threads(1)
    prepared = Prepared.at(file)
    split, normal = load(prepared), prepared.normal
    child, seed, examples = key
    seen = judged_on(Fidelity(examples), len(split.validation.labels))
    begun = time.process_time()
    network = build(genome, initial(genome, 1_000 * seed + child))
    generator = torch.Generator().manual_seed(1_000 * seed + child)
    try:
        curve = train(network, *split.train, RECIPE, Fidelity(examples), generator, normal)
    except NonFinite:  # as bad as a child can be
        return key, {"error": 1.0, "seconds": time.process_time() - begun, "half": GUESSING, "middle": GUESSING}
    wrong = error(network, *(part[:seen] for part in split.validation), normal)
    half = statistics.mean(point["loss"] for point in curve[: len(curve) // 2])
    middle = curve[len(curve) // 2 - 1]["loss"]
    return key, {"error": wrong, "seconds": time.process_time() - begun, "half": half, "middle": middle}


def measured(genomes: Sequence[Genome], file: Path, protocol: Protocol, kept: Path) -> Runs:
    """Trains every child on every schedule with every seed, on all cores; runs that are kept already are not repeated.

    Args:
        genomes: the children.
        file: of the data.
        protocol: how much.
        kept: a file of one line of JSON for each run, which is added to.
    """
    keys = [(c, s, e) for s in range(protocol.seeds) for e in reversed(protocol.rungs) for c in range(len(genomes))]
    lines = map(json.loads, kept.read_text().splitlines() if kept.exists() else ())
    same = (line for line in lines if line["genome"] == genomes[line["child"]].digest)
    runs: dict[Key, Run] = {(line["child"], line["seed"], line["examples"]): line["run"] for line in same}
    keys, begun = [key for key in keys if key not in runs], time.perf_counter()
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(trained, genomes[key[0]], key, file) for key in keys]
        for number, future in enumerate(as_completed(waiting), 1):
            key, run = future.result()
            runs[key] = run
            with kept.open("a") as record:
                told = dict(zip(("child", "seed", "examples"), key, strict=True))
                print(json.dumps({**told, "genome": genomes[key[0]].digest, "run": run}), file=record)
            if number % 24 == 0 or number == len(waiting):
                print(f"{number}/{len(waiting)} in {time.perf_counter() - begun:.0f} s", flush=True)
    return runs


class Given:
    """A strategy that proposes given genomes."""

    def __init__(self, genomes: Sequence[Genome]) -> None:
        self.genomes, self.asked = genomes, 0

    def ask(self, n: int) -> list[Candidate]:
        """Returns the next `n`."""
        found = self.genomes[self.asked : self.asked + n]
        self.asked += len(found)
        return [Candidate(self.asked - len(found) + i, genome) for i, genome in enumerate(found)]

    def tell(self, candidate: Candidate, evaluation: Evaluation) -> None:
        """Takes no note."""


def halved(genomes: Sequence[Genome], runs: Runs, seed: int, protocol: Protocol) -> tuple[list[int], float]:
    """Returns the children that successive halving orders, the best first, and its processor seconds."""
    low, middle, _ = protocol.rungs
    settings = LadderSettings("halving", (low,), promotion="retrain", bracket=len(genomes))
    strategy, child_of, seconds = SuccessiveHalving(Given(genomes), settings, Fidelity(middle)), dict[int, int](), 0.0
    place = dict[int, tuple[int, float, int]]()
    while asked := strategy.ask(1):
        (candidate,) = asked
        new = candidate.promotes is None
        child = child_of[candidate.number] = candidate.number if new else child_of[candidate.promotes or 0]
        run = runs[child, seed, candidate.fidelity.examples]
        seconds += run["seconds"]
        place[child] = (-candidate.fidelity.examples, run["error"], child)
        strategy.tell(candidate, Evaluation(candidate.number, "ok", {"error": run["error"]}, weights="0" * 64))
    return sorted(place, key=place.__getitem__), seconds


def by(values: Mapping[int, float]) -> list[int]:
    """Returns children by rising value."""
    return sorted(values, key=lambda child: (values[child], child))


def arms(genomes: Sequence[Genome], runs: Runs, seed: int, protocol: Protocol) -> dict[str, tuple[list[int], float]]:
    """Returns, for each arm, its order of the children and its processor seconds, with one seed's measurements."""
    children = range(len(genomes))
    found = {"halving": halved(genomes, runs, seed, protocol)}
    for examples in reversed(protocol.rungs):
        errors = {child: runs[child, seed, examples]["error"] for child in children}
        seconds = sum(runs[child, seed, examples]["seconds"] for child in children)
        found[f"all at {examples:,}"] = by(errors), seconds
    found["most parameters"] = by({child: -float(cost(genomes[child]).parameters) for child in children}), 0.0
    return found


def judged(genomes: Sequence[Genome], runs: Runs, protocol: Protocol) -> dict[str, dict[str, list[float]]]:
    """Returns what each arm's answers come to, seed by seed: recall, rank correlation, seconds, saving."""
    full, children = protocol.rungs[-1], range(len(genomes))
    kept = math.ceil(SHARE * len(genomes))
    table: dict[str, dict[str, list[float]]] = {}
    for seed in range(protocol.seeds):
        others = [other for other in range(protocol.seeds) if other != seed]
        truth = {c: statistics.mean(runs[c, other, full]["error"] for other in others) for c in children}
        whole = sum(runs[c, seed, full]["seconds"] for c in children)
        for name, (order, seconds) in arms(genomes, runs, seed, protocol).items():
            row = table.setdefault(name, {"recall": [], "correlation": [], "seconds": [], "saves": []})
            row["recall"].append(len(set(by(truth)[:TOP]) & set(order[:kept])) / TOP)
            row["correlation"].append(float(spearmanr(range(len(order)), [truth[c] for c in order]).statistic))
            row["seconds"].append(seconds)
            row["saves"].append(whole / seconds if seconds else math.inf)
    return table


def hopeless(runs: Runs, protocol: Protocol) -> dict[str, dict[str, int]]:
    """Returns how often each form of the rule would have stopped a run, and one of a child of the true top."""
    full = protocol.rungs[-1]
    children = sorted({child for child, _, _ in runs})
    mean = {c: statistics.mean(runs[c, seed, full]["error"] for seed in range(protocol.seeds)) for c in children}
    best = set(by(mean)[: math.ceil(SHARE * len(children))])
    table = {}
    for examples in protocol.rungs:
        mine = {key: run for key, run in runs.items() if key[2] == examples}
        for rule in ("half", "middle"):
            fired = [key for key, run in mine.items() if run[rule] >= GUESSING]
            wrong = sum(key[0] in best for key in fired)
            table[f"{examples:,} {rule}"] = {"runs": len(mine), "fired": len(fired), "wrongly": wrong}
    return table


TEXT = """# What a fidelity ladder saves (B6)

Written by `python benchmarks/ladder.py`, not by hand: {children} random members of the residual space with random
edits ({smallest:,} to {largest:,} parameters), Fashion-MNIST at 14 x 14 pixels, schedules of {low:,}, {middle:,} and
{full:,} examples, {seeds} seeds, from scratch, each judged on as many validation images as the product judges it on.
{cores} cores ({machine}), torch {torch}, load {load:.1f}, {minutes:.0f} processor minutes in all. Seconds are of the
processor, to train and to judge. {diverged} of {runs} trainings diverged, which counts as an error of 1.

*Halving* trains all at {low:,} examples, promotes a third of them to {middle:,} and answers with the best quarter. The
truth for one seed is the mean error of the other seeds at {full:,}. *Recall* is the share of the true top {top} in the
best quarter (guessing: {share:.2f}); *rank correlation* is Spearman's, over all children. Mean and 95 % interval over
the seeds by Student's t; a recall moves in steps of a third, so intervals are wide, and there is none where all agree.
The children are the same for all seeds: for others this says nothing. The schedules were chosen after others
(6,000, 18,000 and 90,000) had missed the goal, with 5.9 times less, and before anything of these was seen.

| arm | recall | rank correlation | processor seconds | times less than in full |
|---|--:|--:|--:|--:|
{rows}

{verdict}

## Hopeless children

Would it be safe, and of use, to stop a child whose mean loss over the first half of its schedule (*half*), or over the
eighth before its middle (*middle*), is at least that of guessing, log 10? *Wrongly* counts stopped runs of children in
the true best quarter.

| schedule, rule | runs | stopped | wrongly |
|---|--:|--:|--:|
{stops}

{stopping}
"""


def rows(table: Mapping[str, Mapping[str, Sequence[float]]]) -> Iterator[str]:
    """Yields the rows of the first table."""
    for name, row in table.items():
        recall, correlation, seconds = (_words(row[key]) for key in ("recall", "correlation", "seconds"))
        saves = _words(row["saves"], ".1f") if math.isfinite(row["saves"][0]) else "costs nothing"
        yield f"| {name} | {recall} | {correlation} | {seconds} | {saves} |"


def _words(values: Sequence[float], form: str = ".2f") -> str:
    mean, low, high = interval(values)
    return f"{mean:{form}} ({low:{form}} to {high:{form}})" if low < high else f"{mean:{form}}"


def verdict(table: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Returns sentences that the numbers choose."""
    found, plain = table["halving"], table["most parameters"]
    saves, recall = statistics.mean(found["saves"]), statistics.mean(found["recall"])
    ceiling = statistics.mean(next(row["recall"] for name, row in reversed(table.items()) if name.startswith("all")))
    full = statistics.mean(max((row for name, row in table.items() if name.startswith("all")), key=_cost)["recall"])
    goal = f"The goal, {SAVES:g} times less at a recall of {RECALL:g},"
    met = saves >= SAVES and recall >= RECALL
    words = f"{goal} is {'met' if met else '**missed**'}: {saves:.1f} times less at {recall:.2f}."
    words += f" Every child in full, judged by another seed, has {full:.2f}; the shortest schedule alone {ceiling:.2f}."
    size = statistics.mean(plain["recall"])
    if size >= recall:
        words += f" The number of parameters alone, which costs nothing, has {size:.2f}: no ladder is needed for that."
    else:
        words += f" The number of parameters alone has {size:.2f}."
    return words


def _cost(row: Mapping[str, Sequence[float]]) -> float:
    return statistics.mean(row["seconds"])


def stopping(table: Mapping[str, Mapping[str, int]]) -> str:
    """Returns a sentence that the numbers choose."""
    fired, wrong = (sum(row[key] for row in table.values()) for key in ("fired", "wrongly"))
    if not fired:
        return "No run would have been stopped: there is nothing to save, so Morphogen has no such rule."
    if wrong:
        return f"{wrong} of {fired} stops would have been wrong: no such rule is safe, so Morphogen has none."
    return f"All {fired} stops would have been right."


def main() -> None:
    """Measures, prints the tables, and the result as JSON in the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="few children, hardly any training: only that it runs")
    parser.add_argument("--keep", type=Path, help="a file of finished runs; given again, the program goes on from it")
    given, begun = parser.parse_args(), time.perf_counter()
    quick = given.quick
    protocol = QUICK if quick else Protocol()
    genomes = [c.genome for c in RandomSearch(SPACE, SPACE.limits.budgets, 0).ask(protocol.children)]
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare(DATA, Path(scratch))
        runs = measured(genomes, prepared.file, protocol, given.keep or Path(scratch) / "runs.jsonl")
    table, stops, seconds = judged(genomes, runs, protocol), hopeless(runs, protocol), time.perf_counter() - begun
    print("\n".join([*rows(table), verdict(table), *map(str, stops.items()), stopping(stops)]))
    sizes, machine = [cost(genome).parameters for genome in genomes], platform.processor() or platform.machine()
    if not quick:
        PAGE.write_text(
            TEXT.format(
                **{**vars(protocol), "low": protocol.rungs[0], "middle": protocol.rungs[1], "full": protocol.rungs[2]},
                smallest=min(sizes),
                largest=max(sizes),
                cores=os.cpu_count(),
                machine=machine,
                torch=version("torch"),
                load=os.getloadavg()[0],
                minutes=sum(run["seconds"] for run in runs.values()) / 60,
                top=TOP,
                share=SHARE,
                rows="\n".join(rows(table)),
                verdict=verdict(table),
                stops="\n".join(f"| {n} | {s['runs']} | {s['fired']} | {s['wrongly']} |" for n, s in stops.items()),
                stopping=stopping(stops),
                diverged=sum(run["error"] == 1 for run in runs.values()),
                runs=len(runs),
            )
        )
    means = {
        name: {key: interval(row[key]) for key in ("recall", "correlation", "seconds")} for name, row in table.items()
    }
    saves = interval(table["halving"]["saves"])
    told = {"arms": means, "saves": saves, "hopeless": stops, "seconds": seconds, "seeds": protocol.seeds}
    facts = {"machine": machine, "cores": os.cpu_count(), "load": os.getloadavg()[0], "torch": version("torch")}
    print("RESULT", json.dumps({**told, **facts}))


if __name__ == "__main__":
    sys.exit(main())
