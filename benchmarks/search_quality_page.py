"""The page of search_quality.py: what is measured so far, in tables, and sentences that the numbers choose."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ablation import Interval, interval, volume, words
from arms import DRAWN, INHERITED, LARGE, OPTUNA, Size

DOCS = Path(__file__).resolve().parents[1] / "docs"
PIXELS = ("14 x 14", "28 x 28")
MEANING = {
    INHERITED: "NSGA-II with the product's founders and settings; a child begins with its parents' weights.",
    "from scratch": "the same, but each child begins with fresh weights; no-op controls are left out.",
    "random": "random search with the product's settings.",
    "largest": f"of {DRAWN} random members those with the most parameters; nothing is trained before the retraining.",
    "starter": "the first starter under every bound: what retraining alone gives.",
    "no search": """the first starter, trained in one schedule that costs the whole budget. It is not retrained, so that
  its training is far longer than the retraining of the others: it shows what the budget buys where nobody searches.""",
    OPTUNA: """on the chains of the space (width, stages, blocks of each, kernel, stride, separable), with its own
  settings; a draw over the limits costs nothing. It has no edits, so its space is smaller.""",
}
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Study:
    """What is measured so far.

    Attributes:
        size: how much was asked for.
        arms: that were asked for.
        seeds: how many.
        records: by arm and seed.
    """

    size: Size
    arms: Sequence[str]
    seeds: int
    records: Mapping[tuple[str, int], Record]

    def done(self, arm: str) -> list[Record]:
        """Returns an arm's records, by seed."""
        return [self.records[arm, seed] for seed in range(self.seeds) if (arm, seed) in self.records]

    def missing(self) -> list[str]:
        """Returns what was asked for and is not measured, in words."""
        lacking = {arm: [seed for seed in range(self.seeds) if (arm, seed) not in self.records] for arm in self.arms}
        return [f"{arm} (seed {', '.join(map(str, seeds))})" for arm, seeds in lacking.items() if seeds]

    def values(self, arm: str, measure: str) -> list[float]:
        """Returns what an arm has of a measure, by seed."""
        return [value for record in self.done(arm) if (value := self.value(record, measure)) is not None]

    def value(self, record: Record, measure: str) -> float | None:
        """Returns a measure of one record; None if it has none, since no network is so small.

        Args:
            record: of an arm and a seed.
            measure: `volume`, `parameters` of the pick under the last bound, the name of a cost, or a bound, for the
                retrained error under it; with `left` before it for the error of what the search left, with `on` for
                that of the pick when it is trained on from there.
        """
        if measure.startswith("left"):
            return record.get("left", {}).get(measure.removeprefix("left"))  # records of early versions have none
        if measure == "volume":
            return volume([(one["error"], one["parameters"]) for one in record["picks"]], self.size.bounds[-1])
        if measure in ("search", "retraining", "children"):
            return float(record[measure])
        name, bound = "on" if measure.startswith("on") else "error", measure.removeprefix("on")
        if measure == "parameters":
            name, bound = measure, str(self.size.bounds[-1])
        return next((float(one[name]) for one in record["picks"] if int(bound) in one["bounds"] and name in one), None)

    def difference(self, arm: str, measure: str, ours: str = "") -> Interval:
        """Returns ours, or another measure of ours, minus the arm's, within a seed: the mean and its 95 % interval."""
        found = list[float]()
        for seed in range(self.seeds):
            asked = ((INHERITED, ours or measure), (arm, measure))
            records = ((self.records.get((one, seed)), what) for one, what in asked)
            pair = [value for r, what in records if r and (value := self.value(r, what)) is not None]
            if len(pair) == 2:
                found.append(pair[0] - pair[1])
        return interval(found)


def spread(found: Interval, form: str, unit: float = 1.0) -> str:
    """Returns a mean with its interval, where there is one."""
    middle, low, high = (unit * value for value in found)
    if math.isnan(middle):
        return "none"
    return f"{middle:{form}} ({low:{form}} to {high:{form}})" if math.isfinite(low) else f"{middle:{form}}"


def costs(study: Study) -> Iterator[str]:
    """Yields the rows of the first table: what each arm picks without a bound but the limit, and what it cost."""
    last = str(study.size.bounds[-1])
    for arm in study.arms:
        columns = [(last, ".2f", 100.0), ("parameters", ",.0f", 1.0), ("volume", ".2f", 100.0)]
        columns += [("search", ",.0f", 1.0), ("retraining", ",.0f", 1.0), ("children", ",.0f", 1.0)]
        cells = [spread(interval(study.values(arm, name)), form, unit) for name, form, unit in columns]
        yield f"| {arm} | {len(study.done(arm))} | {' | '.join(cells)} |"


def bounded(study: Study, kind: str = "") -> Iterator[str]:
    """Yields the rows of a table by bound: an error in per cent, of no kind, `left` or `on` as `Study.value` has it."""
    for arm in study.arms:
        cells = [spread(interval(study.values(arm, f"{kind}{bound}")), ".2f", 100.0) for bound in study.size.bounds]
        yield f"| {arm} | {' | '.join(cells)} |"


def onward(study: Study) -> Iterator[str]:
    """Yields a section on the picks, trained on from what the search left; nothing if no record of ours has it."""
    bounds = [str(bound) for bound in study.size.bounds]
    if not any(study.values(INHERITED, f"on{bound}") for bound in bounds):
        return
    rule = "|---" + "|--:" * len(bounds) + "|"
    yield f"""
## Trained on instead

The same picks, trained by the same recipe and schedule not from fresh weights but from those that the search left in
them, in as many processor seconds: their error in per cent. None: the search trains nothing, or the record is of a
version that did not look.

| arm | {" | ".join(f"at most {int(bound):,}" for bound in bounds)} |
{rule}"""
    yield from bounded(study, "on")
    yield f"""
By how many points that of inherited evolution differs, within a seed, from that of each arm's picks.

| trained on, minus | {" | ".join(f"at most {int(bound):,}" for bound in bounds)} |
{rule}"""
    for kind, meaning in (("", "from fresh weights"), ("on", "trained on")):
        for arm in study.arms:
            told = [words(study.difference(arm, f"{kind}{bound}", f"on{bound}"), 100) for bound in bounds]
            if (kind, arm) != ("on", INHERITED) and study.values(arm, f"{kind}{bounds[-1]}"):
                yield f"| {arm}, {meaning} | {' | '.join(told)} |"


def compared(study: Study, measures: Sequence[str]) -> Iterator[str]:
    """Yields rows of a table: ours minus each other arm, in points."""
    for arm in study.arms:
        if arm != INHERITED:
            yield f"| {arm} | {' | '.join(words(study.difference(arm, name), 100) for name in measures)} |"


def sorted_out(study: Study, measure: str, sign: int) -> dict[str, list[str]]:
    """Returns the other arms by what the interval of the difference says: `worse` or `better` than ours, or neither.

    Those with fewer than two seeds beside ours have no interval, and are `unknown`.

    Args:
        study: all of it.
        measure: as of `Study.value`.
        sign: 1 if less is better, -1 if more is.
    """
    found: dict[str, list[str]] = {"worse": [], "better": [], "not told apart": [], "unknown": []}
    for arm in study.arms:
        if arm != INHERITED:
            _, low, high = sorted_ends(study.difference(arm, measure), sign)
            told = "worse" if high < 0 else "better" if low > 0 else "not told apart"
            found[told if math.isfinite(low) else "unknown"].append(arm)
    return found


def sorted_ends(found: Interval, sign: int) -> Interval:
    """Returns an interval, mirrored at zero if the sign is -1."""
    middle, low, high = found
    return found if sign > 0 else (-middle, -high, -low)


def verdict(study: Study) -> str:
    """Returns what the intervals of the differences say, in sentences that the numbers choose."""
    if len(study.done(INHERITED)) < 2:
        return "One seed tells no difference from chance."
    told = list[str]()
    measures = [(f"with at most {bound:,} parameters", str(bound), 1) for bound in study.size.bounds]
    for where, measure, sign in (*measures, ("in hypervolume", "volume", -1)):
        found = sorted_out(study, measure, sign)
        phrases = {
            "worse": "beats {}",
            "better": "**loses to {}**",
            "not told apart": "is not told apart from {}",
            "unknown": "was seen too rarely beside {} to say",
        }
        said = [
            phrase.format(", ".join(f"*{arm}*" for arm in found[kind]))
            for kind, phrase in phrases.items()
            if found[kind]
        ]
        told.append(f"- {where}, inherited evolution {'; '.join(said)}.")
    won = all(len(sorted_out(study, m, s)["worse"]) == len(study.arms) - 1 for _, m, s in measures)
    goal = (
        "The goal, that inherited evolution wins beyond chance against every control under every bound of parameters,"
    )
    return "\n".join([f"{goal} is {'reached' if won else '**missed**'}.\n", *told])


def place(size: Size) -> Path:
    """Returns the file of a size's page; that of its records has another suffix."""
    return DOCS / f"search_quality{'_large' * (size.limits == LARGE.limits)}.md"


def page(study: Study) -> str:
    """Returns the page of what is measured."""
    size, missing, large = study.size, study.missing(), study.size.limits == LARGE.limits
    shown = [record for arm in study.arms for record in study.done(arm)]
    total = sum(record["search"] + record["retraining"] for record in shown)
    load = statistics.mean(record["load"] for record in shown)
    bounds = " | ".join(f"at most {bound:,}" for bound in size.bounds)
    used = ", ".join(f"{name} {number}" for name, number in versions(study).items())
    rule = "|---" + "|--:" * len(size.bounds)
    arms = "\n".join(f"- *{arm}*: {MEANING[arm]}" for arm in study.arms)
    undated = sum(not record.get("revision") for record in shown)
    older = f" {undated} of the records do not say of which version of the code they are." if undated else ""
    alone = " With one bound it is of one pick, and mostly says how small that is." if len(size.bounds) == 1 else ""
    left = f"**Not measured yet** of what was asked for: {', '.join(missing)}.\n\n" if missing else ""
    return f"""# What the search finds, against its controls

Generated by `python benchmarks/search_quality.py{" --large" * large}`: Fashion-MNIST at {PIXELS[large]} pixels,
{len(shown)} of {study.seeds * len(study.arms)} searches, {size.budget:,.0f} processor seconds of children each,
networks of at most {size.limits.parameters:,} parameters and {size.limits.macs:,} MACs.
{platform.processor() or platform.machine()},
{os.cpu_count()} cores, mean load {load:.1f}, {used}; {total:,.0f} processor seconds in all. What each search picked
is in [the records]({place(size).with_suffix(".jsonl").name}).{older}

{left}## The arms

{arms}

A child is shown {size.examples:,} examples. Under each bound the {size.finalists} networks with the least judged error
(of *largest*: the largest ones) are trained from scratch with {size.retrained:,} examples by the recipe of the
children, in every arm alike. The one with the least validation error is chosen, trained anew ({size.trainings} x; the
mean counts), and judged on the second validation part, which no search sees; the test part is not read.
Budgets count what children
cost to inherit, train and judge, not what it costs to propose them, in no arm. Mean and 95 % interval (t) over
seeds; with few seeds the intervals are wide, and they are not corrected for the number of comparisons.

| arm | seeds | error, % | parameters | hypervolume, % | search, CPU s | retraining, CPU s | children |
|---|--:|--:|--:|--:|--:|--:|--:|
{chr(10).join(costs(study))}

Hypervolume is what the retrained picks dominate in error and parameters, as a share of error 0 to 1 and parameters 0 to
{size.bounds[-1]:,}.{alone}

## At equal parameters

Retrained error in per cent, of the pick with at most so many parameters.

| arm | {bounds} |
{rule}|
{chr(10).join(bounded(study))}

Inherited minus the other arm, within a seed, in points: below zero speaks for inheritance in error, above zero in
hypervolume.

| arm | {bounds} | hypervolume |
{rule}|--:|
{chr(10).join(compared(study, [*map(str, size.bounds), "volume"]))}

{verdict(study)}

## As the search leaves them

Error in per cent of the networks with the weights that they have when the budget is spent, on the same part: of those
with at most so many parameters the one with the least measured error. Nothing is retrained, so the first table's
retraining is not spent; a child that inherits has its ancestors' training, that of *no search* the whole budget's, the
others have {size.examples:,} examples. None: nothing is trained, or the record is of a version that did not look.

| arm | {bounds} |
{rule}|
{chr(10).join(bounded(study, "left"))}

Inherited minus the other arm, within a seed, in points.

| arm | {bounds} |
{rule}|
{chr(10).join(compared(study, [f"left{bound}" for bound in size.bounds]))}
{chr(10).join(onward(study))}
"""


def versions(study: Study) -> dict[str, str]:
    """Returns the versions of what counts."""
    names = ("torch", "deap", "optuna") if OPTUNA in study.arms else ("torch", "deap")
    return {name: version(name) for name in names}
