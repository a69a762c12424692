"""What a child's cheap judgement says of its worth: rank correlation with the same network trained from scratch.

A family is made with real edits from founders that are trained from scratch; each member is trained for a third of the
reference's examples from its parent's weights, as a search does. The reference is the mean error of two seeds from
scratch over a complete schedule, on images that no estimator sees. Everything that a search could judge by is measured
at several budgets, and each estimator is compared with the reference by Spearman's rank correlation, also beyond what
the number of parameters says. A full run writes docs/fidelity.md. It can be stopped at any moment: with `--keep` it
goes on where it was. What is not measured when the time is up, the page names.

Usage: python benchmarks/fidelity.py [--quick] [--keep DIRECTORY] [--seconds N]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from estimators import PRODUCT, Estimator, Numbers, Study, by_the_product, estimators
from family import DATA, QUICK, RECIPE, VARIATION, Record, Size, collect, family, runs
from scipy.stats import rankdata  # type: ignore[import-untyped]

from genomes import cost
from training import prepare

PAGE = Path(__file__).resolve().parents[1] / "docs" / "fidelity.md"
GOAL = 0.6  # of the rank correlation, at a third of the reference's cost
RAW = "inherited, 1/3: error"  # what selection sees without a judgement
RESAMPLES, HALVES = 2_000, 1_000


class Score(NamedTuple):
    """How well an estimator agrees with the reference.

    Attributes:
        name: the estimator's.
        share: what it costs a child, as a share of the reference's examples.
        rho: Spearman's rank correlation, and the ends of its 90 % bootstrap interval.
        beyond: the same for the partial correlation given the number of parameters; NaN for the size itself.
    """

    name: str
    share: float
    rho: tuple[float, float, float]
    beyond: tuple[float, float, float]


def correlation(one: Numbers, other: Numbers) -> Numbers:
    """Returns Spearman's rank correlation along the last axis, ties at their mean rank."""
    a, b = (rankdata(column, axis=-1) - (column.shape[-1] + 1) / 2 for column in (one, other))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Numbers = (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return found


def partial(one: Numbers, other: Numbers, given: Numbers) -> Numbers:
    """Returns the rank correlation of two columns that a third one does not explain; NaN if it explains one."""
    r, x, y = correlation(one, other), correlation(one, given), correlation(other, given)
    rest = (1 - x * x) * (1 - y * y)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Numbers = np.where(rest > 1e-9, (r - x * y) / np.sqrt(np.maximum(rest, 1e-12)), np.nan)
    return found


def scored(study: Study, tried: Sequence[Estimator]) -> list[Score]:
    """Returns the scores, best first; children are resampled, the same draws for all."""
    drawn = np.random.default_rng(0).integers(len(study.children), size=(RESAMPLES, len(study.children)))
    reference, size, scores = study.reference, study.parameters, list[Score]()
    for estimator in tried:
        values = estimator.estimate(study)
        spread = correlation(values[drawn], reference[drawn])
        beyond = partial(values[drawn], reference[drawn], size[drawn])
        scores.append(
            Score(
                estimator.name,
                estimator.share,
                (float(correlation(values, reference)), *_ends(spread)),
                (float(partial(values, reference, size)), *_ends(beyond)),
            )
        )
    return sorted(scores, key=lambda score: -score.rho[0] if math.isfinite(score.rho[0]) else 2)


def gained(study: Study) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Returns by how much the product's judgement agrees better than the measured error, alone and beyond size."""
    drawn = np.random.default_rng(0).integers(len(study.children), size=(RESAMPLES, len(study.children)))
    reference, size = study.reference, study.parameters
    pair = by_the_product(study), study.column(study.key("inherited", 1 / 3))
    alone = [correlation(values, reference) for values in pair]
    beyond = [partial(values, reference, size) for values in pair]
    resampled = [correlation(values[drawn], reference[drawn]) for values in pair]
    resampled_beyond = [partial(values[drawn], reference[drawn], size[drawn]) for values in pair]
    return (
        (float(alone[0] - alone[1]), *_ends(resampled[0] - resampled[1])),
        (float(beyond[0] - beyond[1]), *_ends(resampled_beyond[0] - resampled_beyond[1])),
    )


def _ends(spread: Numbers) -> tuple[float, float]:
    known = spread[np.isfinite(spread)]
    if len(known) < RESAMPLES / 2:
        return math.nan, math.nan
    low, high = np.quantile(known, (0.05, 0.95))
    return float(low), float(high)


def chosen_blindly(study: Study, tried: Sequence[Estimator]) -> tuple[float, float, float]:
    """Returns the correlation on one half of the children of what is best on the other half, and its 90 % range.

    The best of a hundred looks better than it is; this is what choosing it is worth.
    """
    values = np.array([estimator.estimate(study) for estimator in tried])
    rng, found, count = np.random.default_rng(1), list[float](), len(study.children)
    for _ in range(HALVES):
        order = rng.permutation(count)
        seen, unseen = order[: count // 2], order[count // 2 :]
        best = int(
            np.nanargmax(correlation(values[:, seen], np.broadcast_to(study.reference[seen], values[:, seen].shape)))
        )
        found.append(float(correlation(values[best, unseen], study.reference[unseen])))
    low, high = np.nanquantile(found, (0.05, 0.95))
    return float(np.nanmean(found)), float(low), float(high)


def ceiling(study: Study) -> float:
    """Returns the correlation of the reference's two seeds with each other: what a full run itself is worth."""
    one, other = (study.column(study.key("scratch", 1, seed=seed), "reference_error") for seed in (10, 11))
    return float(correlation(one, other))


def words(numbers: tuple[float, float, float]) -> str:
    """Returns a number with its interval."""
    middle, low, high = numbers
    return f"{middle:+.2f} ({low:+.2f} to {high:+.2f})" if math.isfinite(middle) else "–"


def cost_words(share: float) -> str:
    """Returns a share of the reference's examples as a fraction."""
    return f"{round(12 * share)}/12" if share else "0"


TEXT = """# What a cheap judgement of a child is worth

Generated by `python benchmarks/fidelity.py`: Fashion-MNIST at 14 x 14 pixels, {images:,} training images, batches of
{batch}, {cores} cores ({machine}), torch {torch}, {cpu:.0f} CPU-seconds in all. {founders} founders of {least:,} to
{most:,} parameters were trained from scratch for {third:,} examples, then {children} children ({smallest:,} to
{largest:,} parameters) by real edits of founders and of one another, each for as many from its parent's weights:
lineages of {youngest} to {oldest} budgets of training. Edits were drawn as in a search ({edits} a child at most),
parents at random, so that nothing is selected by what is judged here.

**Reference.** The mean error of two seeds from scratch, {full:,} examples each, on {reference:,} images; estimators
see {judged:,} others. {measured} children were measured so, before the time was up: {low:.1f} to {high:.1f} %.
**Ceiling**: the two seeds agree by {ceiling:+.2f}. Every run is a complete schedule of its own (warm-up, cosine to
zero), so each inherited run is a warm restart; *rate* says at how many times the usual peak. *Cost* is a child's, as a
share of one reference run; a control is shared by siblings and not counted. Intervals: 90 %, {resamples:,} bootstrap
samples of the children. Children are related, so the intervals are rather too narrow.

**What selection sees uncorrected**, the error of the inherited child after a third: {raw}.
**Corrected** (`strategy.judgement: corrected`): {product}.
Difference: {gain}; beyond size: {gain_beyond}.
How much of an unusual error counts as merit, one half, was chosen from three shares on this very family, so that the
corrected numbers are flattered. The reference shows fewer images than there are: it says little of long trainings.

{verdict}
**Chosen blindly.** {tried} estimators were tried, and the best of many looks better than it is: what is best at no more
than a third of the cost on a random half of the children agrees with the reference by {blind} on the other half (mean
and 90 % range of {halves:,} halves).

*Beyond size* is the partial rank correlation given the number of parameters, which predicts much by itself: an
estimator that is not above zero there says nothing that counting would not say.

| estimator | cost | rank correlation with the reference | beyond size |
|---|---|---|---|
{rows}

*Shrunk*: half of each inherited kernel and matrix, half a fresh draw (Ash & Adams 2020). *Reset*: the second half of
the tensors drawn anew. *Size*: the number of parameters, more being better. *Expected at its age*: by a regression of
the family's own numbers on the logarithm of the lineage age. *Founder's error plus all gains since*: down the lineage,
each child's error minus that of its parent's no-op control, so that all stand at the age of a founder. *At equal age,
by age and size*: a regression on the logarithms of both, read at the mean age, and a share of what is left unexplained.
*Surrogates*: regressions on parameters, MACs, counts of operations and age, fitted to the family's own short runs and
read at equal age; *without its own run* leaves the child out.
{untried}
One data set, one family, short schedules: an indication, not a law. The first form of this study, at 28 x 28 pixels
with a reference of 12,000 examples, was cut off after one seed: nothing agreed with it there, size and the judged error
no better than the rest. A reference that short ranks what trains fast, not what is good.
"""

LEFT = """
**Not measured** when the time was up, so that what needs it is not in the table (start, rate, examples, seed): {}.
"""


def verdict(scores: Sequence[Score]) -> str:
    """Returns which estimators reach the goal at a third of the cost, in words that the numbers choose."""
    cheap = [score for score in scores if score.share <= 1 / 3 + 1e-9 and math.isfinite(score.rho[0])]
    reached = [score for score in cheap if score.rho[0] >= GOAL]
    best = max(cheap, key=lambda score: score.rho[0])
    informed = [score for score in reached if score.beyond[1] > 0]
    if not reached:
        return (
            f"**The goal, {GOAL:g} at no more than a third of the cost, is missed by all that was tried**; "
            f"the best is *{best.name}*, {words(best.rho)}.\n"
        )
    told = (
        f"**The goal, {GOAL:g} at no more than a third of the cost, is reached by {len(reached)} of {len(cheap)}**; "
        f"the best is *{best.name}*, {words(best.rho)}, beyond size {words(best.beyond)}. "
    )
    if not informed:
        return told + "None of them says more than size beyond doubt.\n"
    first = max(informed, key=lambda score: score.beyond[0])
    return (
        f"{told}{len(informed)} of these say more than size beyond doubt, most of all *{first.name}*: "
        f"{words(first.rho)}, beyond size {words(first.beyond)}.\n"
    )


def rows(scores: Sequence[Score]) -> Iterator[str]:
    """Yields the rows of the table."""
    for score in scores:
        yield f"| {score.name} | {cost_words(score.share)} | {words(score.rho)} | {words(score.beyond)} |"


def page(
    study: Study,
    scores: Sequence[Score],
    blind: tuple[float, float, float],
    untried: Sequence[str],
    facts: dict[str, Any],
) -> str:
    """Returns docs/fidelity.md."""
    counted = [cost(member.genome).parameters for member in study.children]
    founders = [cost(m.genome).parameters for m in study.members if m.parent is None]
    raw, product = (next(score for score in scores if score.name == name) for name in (RAW, PRODUCT))
    alone, beyond = gained(study)
    return TEXT.format(
        **facts,
        batch=RECIPE.batch_size,
        cores=os.cpu_count(),
        machine=platform.processor() or platform.machine(),
        torch=version("torch"),
        cpu=sum(record["seconds"] for record in study.records.values()),
        founders=len(founders),
        least=min(founders),
        most=max(founders),
        third=study.size.full // 3,
        full=study.size.full,
        judged=study.size.judged,
        children=study.size.children,
        measured=len(counted),
        smallest=min(counted),
        largest=max(counted),
        youngest=int(study.ages.min()),
        oldest=int(study.ages.max()),
        edits=VARIATION.edits,
        low=100 * study.reference.min(),
        high=100 * study.reference.max(),
        ceiling=ceiling(study),
        resamples=RESAMPLES,
        raw=f"{words(raw.rho)}, beyond size {words(raw.beyond)}",
        product=f"{words(product.rho)}, beyond size {words(product.beyond)}",
        gain=words(alone),
        gain_beyond=words(beyond),
        verdict=verdict(scores),
        tried=len(scores),
        blind=words(blind),
        halves=HALVES,
        rows="\n".join(rows(scores)),
        untried=LEFT.format("; ".join(untried)) if untried else "",
    )


def studied(size: Size, directory: Path, seconds: float) -> tuple[Study, dict[str, Any]] | None:
    """Returns the study and facts of its data; None if time was up before most of the reference was measured."""
    prepared = prepare(DATA, directory / "data")
    records = collect(size, prepared, directory, seconds)
    known: dict[tuple[int, str], Record] = {(record["member"], record["key"]): record for record in records}
    study = Study(size, family(size), known)
    facts = {"images": prepared.sizes["train"], "reference": prepared.sizes["second_validation"]}
    return (study, facts) if 2 * len(study.children) > size.children else None


def possible(study: Study, estimate: Callable[[Study], Numbers]) -> bool:
    """Says whether all that an estimate needs was measured."""
    try:
        estimate(study)
    except KeyError:
        return False
    return True


def missing(study: Study) -> list[str]:
    """Returns the kinds of runs that were not measured for all children that are judged."""
    wanted = {run.key for run in runs(study.size) if run.member == study.children[0].number}
    return sorted(key for key in wanted if any((m.number, key) not in study.records for m in study.children))


def known(numbers: Sequence[float]) -> list[float | None]:
    """Returns numbers as JSON has them."""
    return [number if math.isfinite(number) else None for number in numbers]


def main() -> None:
    """Measures, writes the page (unless quick), prints the table, and the result as JSON in the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="hardly any training: only that it runs; writes no page")
    parser.add_argument("--keep", type=Path, help="a directory for measurements and weights, to go on with later")
    parser.add_argument("--seconds", type=float, default=math.inf, help="after which no measurement is begun")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = studied(QUICK if given.quick else Size(), given.keep or Path(scratch), given.seconds)
    if found is None:
        print("RESULT", json.dumps({"complete": False}))
        return
    study, facts = found
    tried = [one for one in estimators() if possible(study, one.estimate)]
    untried = missing(study)
    scores = scored(study, tried)
    blind = chosen_blindly(study, [one for one in tried if one.share <= 1 / 3 + 1e-9])
    if not given.quick:
        PAGE.write_text(page(study, scores, blind, untried, facts))
    print("\n".join(rows(scores)))
    print(verdict(scores))
    told = {score.name: [known(score.rho), known(score.beyond)] for score in scores}
    machine = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": version("torch"),
    }
    print(
        "RESULT",
        json.dumps(
            {"complete": not untried, "blind": known(blind), "ceiling": ceiling(study), "scores": told, **machine}
        ),
    )


if __name__ == "__main__":
    main()
