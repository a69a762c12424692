"""What crossover brings: searches with and without it, of one budget in candidates, seed by seed side by side.

Two searches of a seed run at the same time, one without crossover and one in which a child has two parents by a chance
of one half; both train one child at a time, so each is a function of its seed. All else is equal. Writes
docs/crossover.md.

Usage: python benchmarks/crossover.py [--quick]
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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from scipy import stats  # type: ignore[import-untyped]

from evo import NSGA2, VariationSettings
from genomes.spaces.residual import ResidualLimits, ResidualSpace
from search import Budget, Candidate, Done, Evaluation, Fidelity, Ledger, WeightStore, drive
from training import DataSpec, Prepared, Recipe, Trainer, prepare

ARMS = {"without": 0.0, "with": 0.5}  # the chance that a child has two parents
KINDS = ("replay", "cross.donor", "cross.region", "one parent")
PARAMETERS = 30_000  # at most, of a network
PAGE = Path(__file__).parents[1] / "docs" / "crossover.md"
Interval = tuple[float, float, float]  # mean, and the ends of its 95 % interval


@dataclass(frozen=True)
class Size:
    """How much is measured: seeds, candidates of a search, training examples of a candidate."""

    seeds: int
    candidates: int
    examples: int


@dataclass(frozen=True)
class Outcome:
    """What one search came to.

    Attributes:
        error: the best on validation.
        volume: that is dominated in error and parameters, as a share of all.
        gains: for each kind of child, by how much its error is below that of its first parent's no-op control.
        counts: how many children there were of each kind, judged or not.
    """

    error: float
    volume: float
    gains: Mapping[str, list[float]]
    counts: Mapping[str, int]


def searched(prepared: Prepared, variation: VariationSettings, seed: int, size: Size) -> Outcome:
    """Runs one search and judges it."""
    candidates, judged = run(prepared, variation, seed, size)
    return Outcome(
        min(e.objectives["error"] for e in judged.values()),
        volume([(e.objectives["error"], e.objectives["parameters"]) for e in judged.values()], PARAMETERS),
        gains(candidates, judged),
        {kind: sum(kind_of(c) == kind for c in candidates.values()) for kind in KINDS},
    )


def run(
    prepared: Prepared, variation: VariationSettings, seed: int, size: Size, gradients: bool = False
) -> tuple[dict[int, Candidate], dict[int, Evaluation]]:
    """Runs one search and returns its candidates and its successful evaluations."""
    space = ResidualSpace(prepared.shape, prepared.classes, ResidualLimits(parameters=PARAMETERS, macs=2_000_000))
    fidelity = Fidelity(size.examples)
    strategy = NSGA2(space.starters(), space.limits.budgets, seed, None, variation, fidelity)
    with tempfile.TemporaryDirectory() as scratch, Ledger.create(Path(scratch) / "search", {}) as ledger:
        store = WeightStore(Path(scratch) / "weights")
        results, limits = Path(scratch) / "results", space.limits.budgets
        trainer = Trainer(store, prepared, Recipe(), seed, 300, results, limits, gradients=gradients)

        def dispatch(candidate: Candidate, parents: Mapping[int, Evaluation], done: Done) -> None:
            done(trainer(candidate, parents))

        drive(strategy, dispatch, ledger, Budget(candidates=size.candidates))
        return strategy.population.known, {number: e for number, e in ledger.evaluations().items() if e.ok}


def kind_of(candidate: Candidate) -> str:
    """Returns how a candidate came to be."""
    if not candidate.edits:
        return "control" if candidate.parents else "founder"
    if len(candidate.parents) < 2:
        return "one parent"
    rule = candidate.edits[0].rule
    return rule if rule in KINDS else "replay"


def gains(candidates: Mapping[int, Candidate], judged: Mapping[int, Evaluation]) -> dict[str, list[float]]:
    """Returns the gains over the no-op control by kind, for the children whose first parent has a judged control."""
    controls = {c.parents[0]: judged[n].objectives["error"] for n, c in candidates.items() if c.control and n in judged}
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number, candidate in candidates.items():
        if number in judged and candidate.edits and candidate.parents[0] in controls:
            error = judged[number].objectives["error"]
            found[kind_of(candidate)].append(controls[candidate.parents[0]] - error)
    return found


def volume(points: Sequence[tuple[float, float]], most: float) -> float:
    """Returns the share of error in [0, 1] and parameters in [0, `most`] that the points dominate."""
    area, height = 0.0, 1.0
    for error, parameters in sorted(points):
        if parameters / most < height:  # by rising error, each smaller network adds the strip that was left free
            area += (1 - error) * (height - parameters / most)
            height = parameters / most
    return area


def interval(values: Sequence[float]) -> Interval:
    """Returns the mean and its 95 % interval by Student's t; not a number where there are too few values."""
    if len(values) < 2:
        return (values[0] if values else math.nan, math.nan, math.nan)
    middle, deviation = statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * deviation
    return middle, middle - reach, middle + reach


def conclusion(error: Interval, covered: Interval) -> str:
    """Returns what the intervals of the differences (with minus without) say, in one sentence."""
    better, worse = error[2] < 0 or covered[1] > 0, error[1] > 0 or covered[2] < 0
    if better == worse:
        return (
            "No difference is beyond chance, so nothing speaks for crossover here, and it is off by default; "
            "an effect within the intervals is not excluded."
        )
    return f"Crossover {'helps' if better else 'harms'} here: the interval of a difference leaves out zero."


def page(outcomes: Mapping[str, Sequence[Outcome]], size: Size, where: str) -> Iterator[str]:
    """Yields the lines of docs/crossover.md."""
    plain, crossed = outcomes["without"], outcomes["with"]
    yield "# What crossover brings\n"
    yield (
        f"Generated by `python benchmarks/crossover.py`: NSGA-II on digits, {size.seeds} seeds, {size.candidates} "
        f"candidates of {size.examples:,} examples a search, {where}. With crossover, a child has two parents by a "
        f"chance of {ARMS['with']}, if two are selected and something new comes out. Means; differences with the 95 % "
        "interval (Student's t) over seeds. Gains are those of all children together, which are related, so that their "
        "intervals are rather too narrow; replayed edits may be disruptions, as those of one parent.\n"
    )
    yield "| | without | with | difference |\n|---|---|---|---|"
    for name, attribute in (("best validation error, %", "error"), ("hypervolume, %", "volume")):
        means = [f"{100 * statistics.mean(getattr(o, attribute) for o in arm):.2f}" for arm in (plain, crossed)]
        yield f"| {name} | {' | '.join(means)} | {words(differences(plain, crossed, attribute), 100)} |"
    yield "\n| child | share of changed children, % | gain over the no-op control, points of error |\n|---|---|---|"
    total = sum(sum(o.counts.values()) for o in crossed)
    for kind in KINDS:
        every = [gain for o in crossed for gain in o.gains[kind]]
        share = sum(o.counts[kind] for o in crossed) / total
        yield f"| {kind} | {100 * share:.0f} | {words(interval(every), 100)} (n = {len(every)}) |"
    yield f"\n{conclusion(differences(plain, crossed, 'error'), differences(plain, crossed, 'volume'))}"


def differences(plain: Sequence[Outcome], crossed: Sequence[Outcome], attribute: str) -> Interval:
    """Returns the mean difference, with minus without, within a seed."""
    pairs = zip(plain, crossed, strict=True)
    return interval([getattr(other, attribute) - getattr(one, attribute) for one, other in pairs])


def words(found: Interval, unit: float) -> str:
    """Returns an interval for people, in other units."""
    middle, low, high = (unit * value for value in found)
    return f"{middle:+.2f} ({low:+.2f} to {high:+.2f})" if math.isfinite(low) else "too few"


def main() -> None:
    """Measures, writes the page (unless quick), and prints it and the result as JSON in the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="two small pairs of searches; writes no page")
    quick = parser.parse_args().quick
    size = Size(2, 14, 1_000) if quick else Size(12, 80, 4_000)
    outcomes: dict[str, list[Outcome]] = {name: [] for name in ARMS}
    begun, load = time.perf_counter(), list[float]()
    with tempfile.TemporaryDirectory() as cache, ThreadPoolExecutor(len(ARMS)) as pool:
        prepared = prepare(DataSpec("digits", validation=0.25), Path(cache))
        for seed in range(size.seeds):
            runs = {
                name: pool.submit(searched, prepared, VariationSettings(crossover=chance), seed, size)
                for name, chance in ARMS.items()
            }
            for name, run in runs.items():
                outcomes[name].append(run.result())
            load.append(os.getloadavg()[0])
    where = f"{os.cpu_count()} cores, mean load {statistics.mean(load):.1f}, {time.perf_counter() - begun:.0f} s in all"
    text = "\n".join(page(outcomes, size, where)) + "\n"
    print(text)
    if not quick:
        PAGE.write_text(text)
    every = {name: [vars(outcome) for outcome in arm] for name, arm in outcomes.items()}
    machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "load": load}
    versions = {name: version(name) for name in ("torch", "deap")}
    pair = outcomes["without"], outcomes["with"]
    found = {name: differences(*pair, name) for name in ("error", "volume")}
    print("RESULT", json.dumps({"difference": found, "outcomes": every, **vars(size), **machine, **versions}))


if __name__ == "__main__":
    main()
