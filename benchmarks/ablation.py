"""Ablation: pairs of searches that differ in one setting of variation, seed by seed side by side; what programs share.

Two searches of a seed run at the same time; both train one child at a time, so that each is a function of its seed.
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

from scipy import stats  # type: ignore[import-untyped]

from evo import NSGA2, NSGA2Settings, VariationSettings
from genomes.spaces.residual import ResidualLimits, ResidualSpace
from search import Budget, Candidate, Done, Evaluation, Fidelity, Ledger, WeightStore, drive
from training import DataSpec, Prepared, Recipe, Trainer, prepare

PARAMETERS = 30_000  # at most, of a network
COMPARED = (("best validation error, %", "error"), ("hypervolume, %", "volume"))
Interval = tuple[float, float, float]  # mean, and the ends of its 95 % interval


@dataclass(frozen=True)
class Size:
    """How much is measured: seeds, candidates of a search, training examples of a candidate, founders of a search.

    Founders are few, since the arms have them in common.
    """

    seeds: int
    candidates: int
    examples: int
    founders: int = 12


@dataclass(frozen=True)
class Outcome:
    """What one search came to.

    Attributes:
        error: the best on validation.
        volume: that is dominated in error and parameters, as a share of all.
    """

    error: float
    volume: float


Judged = TypeVar("Judged", bound=Outcome)


@dataclass(frozen=True)
class Pairs(Generic[Judged]):
    """The outcomes of both arms, in the order of the seeds.

    Attributes:
        names: of the arms, the one without what is asked about first.
        plain: its outcomes.
        changed: the other's.
        where: machine, load and time, in words.
    """

    names: tuple[str, str]
    plain: Sequence[Judged]
    changed: Sequence[Judged]
    where: str

    def difference(self, attribute: str) -> Interval:
        """Returns the mean difference, changed minus plain, within a seed."""
        pairs = zip(self.plain, self.changed, strict=True)
        return interval([getattr(other, attribute) - getattr(one, attribute) for one, other in pairs])

    def table(self) -> Iterator[str]:
        """Yields the lines of a table of errors and volumes."""
        yield f"| | {' | '.join(self.names)} | difference |\n|---|---|---|---|"
        for name, attribute in COMPARED:
            means = [statistics.mean(getattr(o, attribute) for o in arm) for arm in (self.plain, self.changed)]
            shown = " | ".join(f"{100 * mean:.2f}" for mean in means)
            yield f"| {name} | {shown} | {words(self.difference(attribute), 100)} |"

    def conclusion(self, subject: str, default: str) -> str:
        """Returns what the intervals of the differences say, in one sentence.

        Args:
            subject: of the sentence.
            default: what follows from there being no difference.
        """
        error, covered = self.difference("error"), self.difference("volume")
        better, worse = error[2] < 0 or covered[1] > 0, error[1] > 0 or covered[2] < 0
        if better and worse:
            return f"Here {subject} is better in one measure and worse in the other, each beyond chance."
        if not (better or worse):
            return (
                f"No difference is beyond chance, so nothing speaks for {subject} here, and {default}; "
                "an effect within the intervals is not excluded."
            )
        return f"Here {subject} {'helps' if better else 'harms'}: the interval of a difference leaves out zero."


Search = Callable[[Prepared, int, Size], Judged]


def compared(arms: Mapping[str, Search[Judged]], size: Size, prepared: Prepared) -> Pairs[Judged]:
    """Runs both arms, seed by seed.

    Args:
        arms: two searches by name, the one without what is asked about first.
        size: of each.
        prepared: the data.
    """
    found: dict[str, list[Judged]] = {name: [] for name in arms}
    begun, load = time.perf_counter(), list[float]()
    with ThreadPoolExecutor(len(arms)) as pool:
        for seed in range(size.seeds):
            running = {name: pool.submit(search, prepared, seed, size) for name, search in arms.items()}
            for name, future in running.items():
                found[name].append(future.result())
            load.append(os.getloadavg()[0])
            print(f"{seed + 1}/{size.seeds} seeds in {time.perf_counter() - begun:.0f} s", flush=True)
    where = f"{os.cpu_count()} cores, mean load {statistics.mean(load):.1f}, {time.perf_counter() - begun:.0f} s in all"
    one, other = found
    return Pairs((one, other), found[one], found[other], where)


@contextmanager
def asked(full: Size) -> Iterator[tuple[Prepared, Size, bool]]:
    """Reads the command line and yields the data, what is to be measured, and whether that is all of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="two small pairs of searches; writes no page")
    quick = parser.parse_args().quick
    size = Size(2, 14, 1_000, founders=4) if quick else full
    with tempfile.TemporaryDirectory() as cache:
        yield prepare(DataSpec("digits", validation=0.25), Path(cache)), size, not quick


def tell(pairs: Pairs[Judged], lines: Iterable[str], size: Size, page: Path | None, **more: Any) -> None:
    """Prints a page and the result as JSON in the last line, and writes the page if there is a place for it."""
    text = "\n".join(lines) + "\n"
    print(text)
    if page:
        page.write_text(text)
    outcomes = dict(zip(pairs.names, ([vars(o) for o in arm] for arm in (pairs.plain, pairs.changed)), strict=True))
    found = {attribute: pairs.difference(attribute) for _, attribute in COMPARED}
    machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "where": pairs.where}
    versions = {name: version(name) for name in ("torch", "deap")}
    result = {"difference": found, "outcomes": outcomes, **more, **vars(size), **machine, **versions}
    print("RESULT", json.dumps(result))


def against_control(
    candidates: Mapping[int, Candidate], judged: Mapping[int, Evaluation]
) -> Iterator[tuple[Candidate, float]]:
    """Yields the changed children whose first parent has a judged no-op control, and by how much they beat it."""
    controls = {c.parents[0]: judged[n].objectives["error"] for n, c in candidates.items() if c.control and n in judged}
    for number, candidate in candidates.items():
        if number in judged and candidate.edits and candidate.parents[0] in controls:
            yield candidate, controls[candidate.parents[0]] - judged[number].objectives["error"]


def run(
    prepared: Prepared, variation: VariationSettings, seed: int, size: Size, gradients: bool = False
) -> tuple[dict[int, Candidate], dict[int, Evaluation]]:
    """Runs one search and returns its candidates and its successful evaluations."""
    space = ResidualSpace(prepared.shape, prepared.classes, ResidualLimits(parameters=PARAMETERS, macs=2_000_000))
    fidelity = Fidelity(size.examples)
    settings = NSGA2Settings(founders=size.founders)
    strategy = NSGA2(space.founders(seed), space.limits.budgets, seed, settings, variation, fidelity)
    with tempfile.TemporaryDirectory() as scratch, Ledger.create(Path(scratch) / "search", {}) as ledger:
        store = WeightStore(Path(scratch) / "weights")
        results, limits = Path(scratch) / "results", space.limits.budgets
        trainer = Trainer(store, prepared, Recipe(), seed, 300, results, limits, gradients=gradients)

        def dispatch(candidate: Candidate, parents: Mapping[int, Evaluation], done: Done) -> None:
            done(trainer(candidate, parents))

        drive(strategy, dispatch, ledger, Budget(candidates=size.candidates))
        return strategy.known, {number: e for number, e in ledger.evaluations().items() if e.ok}


def best(judged: Mapping[int, Evaluation]) -> tuple[float, float]:
    """Returns the least error, and the dominated volume."""
    points = [(e.objectives["error"], e.objectives["parameters"]) for e in judged.values()]
    return min(points)[0], volume(points, PARAMETERS)


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


def words(found: Interval, unit: float) -> str:
    """Returns an interval for people, in other units."""
    middle, low, high = (unit * value for value in found)
    return f"{middle:+.2f} ({low:+.2f} to {high:+.2f})" if math.isfinite(low) else "too few"
