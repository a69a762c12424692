"""Judgement: the error that selection takes a child to have: at equal lineage age, and half of it what is usual.

An inherited child also reports how long its lineage was trained, so that of two equal networks the one with more
ancestors wins; and each error has its share of luck, so that the least of many is mostly luck. Both are estimated from
the search's own evaluations: a ridge regression of the logarithm of the error on that of lineage age and on the
features of the genome says what is usual. What age is worth shows best where nothing else differs, between a network
and its no-op control: old lineages have much in common that would otherwise pass for the reason. Selection sees the
usual error of the genome at one age for all, times the square root of how much better or worse than usual it was
measured. How well raw and judged errors agree with training from scratch is measured in docs/fidelity.md.

Source: Hoerl & Kennard 1970, Ridge regression; on architectures: Baker et al. 2018, Accelerating neural architecture
search using performance prediction, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from search import Evaluation

Judging = Literal["raw", "corrected"]
Numbers = npt.NDArray[np.float64]
LEAST = 16  # results: fewer say nothing of a trend
GROWTH = 1.1  # as many times more results as at the last regression are worth another one
RIDGE = 2.0  # results' worth of evidence that a feature, in units of its deviation, means nothing
SURE = 0.1  # the same for age, which is known to mean something: what old lineages have in common is not to explain it
AGAIN = 100.0  # results' worth of evidence is what a network shows at another age
SHARE = 0.5  # of what is unusual about an error that is taken for merit; the rest is luck
FLOOR = 0.01  # added to errors before their logarithm is taken: below it, differences are not ratios
DIGITS = 9  # of a judged error: the last ones of a regression are another machine's
AGE, SCRATCH = "lineage age", "from scratch"


@dataclass
class Judgement:
    """The errors of one search as selection sees them; a function of the evaluations that were noted, in their order.

    Attributes:
        kind: `raw` is the measured error, `corrected` the judged one.
        rows: what each result is regressed on, by its number.
        errors: the logarithms of their errors, in the same order.
        again: places of two in a row whose features are the same, as a network's and its no-op control's.
        slopes: of the last regression, by name.
        base: its value where all variables are 0.
        equal: age and start at which all are judged.
        fitted: how many results the last regression had.
    """

    kind: Judging = "raw"
    rows: dict[int, dict[str, float]] = field(default_factory=dict)
    errors: list[float] = field(default_factory=list)
    again: list[tuple[int, int]] = field(default_factory=list)
    slopes: Mapping[str, float] = field(default_factory=dict)
    base: float = 0.0
    equal: Mapping[str, float] = field(default_factory=dict)
    fitted: int = 0
    _last: dict[frozenset[tuple[str, float]], int] = field(default_factory=dict)  # place of who had these features

    def note(self, evaluation: Evaluation) -> None:
        """Takes note of a result, and regresses anew if that is worth it."""
        self.add(evaluation)
        if len(self.rows) >= GROWTH * self.fitted:
            self.fit()

    def add(self, evaluation: Evaluation) -> None:
        """Takes note of a result; a twin's says nothing new."""
        if self.kind == "corrected" and evaluation.twin is None and (row := _row(evaluation)):
            alike = frozenset(evaluation.features.items())
            if alike and alike in self._last:
                self.again.append((self._last[alike], len(self.rows)))
            self._last[alike] = len(self.rows)
            self.rows[evaluation.number] = row
            self.errors.append(math.log(FLOOR + evaluation.objectives["error"]))

    def objectives(self, evaluation: Evaluation) -> Mapping[str, float]:
        """Returns the objectives of an evaluation that was noted, with the judged error, which is at most 1."""
        row = self.rows.get(evaluation.number) or self._repeated(evaluation)
        if not self.fitted or not row:
            return evaluation.objectives
        usual = self._usual(row)
        unusual = math.log(FLOOR + evaluation.objectives["error"]) - usual
        moved = sum(self.slopes[name] * (value - row[name]) for name, value in self.equal.items())
        judged = min(1.0, math.exp(usual + moved + SHARE * unusual) - FLOOR)
        return {**evaluation.objectives, "error": round(judged, DIGITS)}

    def _repeated(self, evaluation: Evaluation) -> dict[str, float]:
        """Returns the row of a twin: that of its result, but it began as the one that it repeats, if that is known."""
        if evaluation.twin is None or not (row := _row(evaluation)):
            return {}
        return {**row, SCRATCH: self.rows.get(evaluation.twin, row)[SCRATCH]}

    def _usual(self, row: Mapping[str, float]) -> float:
        return self.base + sum(slope * row.get(name, 0.0) for name, slope in self.slopes.items())

    def fit(self) -> None:
        """Regresses on all that is known, if that is enough.

        Training on makes no network worse: if the old are worse, their structure is, and age is left out; if heirs are
        worse than founders, the start is left out, too.
        """
        if len(self.rows) < LEAST:
            return
        rows = list(self.rows.values())
        heirs, founders = ([row for row in rows if row[SCRATCH] == start] for start in (0, 1))
        self.equal = _middle(heirs or founders)
        names, table = _table(rows)
        for without in ((), (AGE,), (AGE, SCRATCH)):
            table[:, [names.index(name) for name in without]] = 0.0
            self.slopes, self.base = _regression(names, table, np.array(self.errors), self.again)
            harm = self._usual(self.equal) - self._usual(_middle(founders or heirs))
            if max(harm, self.slopes[AGE]) <= 0:
                break
        self.fitted = len(rows)


def judged(kind: Judging, evaluations: Iterable[Evaluation]) -> dict[int, float]:
    """Returns the judged error of each success by number, with all that is known."""
    judgement, told = Judgement(kind), list(evaluations)
    for evaluation in told:
        judgement.add(evaluation)
    judgement.fit()
    return {e.number: judgement.objectives(e)["error"] for e in told if e.ok and "error" in e.objectives}


def _middle(rows: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """Returns the start that all of some rows have, and their mean age."""
    return {SCRATCH: rows[0][SCRATCH], AGE: sum(row[AGE] for row in rows) / len(rows)}


def _row(evaluation: Evaluation) -> dict[str, float]:
    """Returns what an error is regressed on; empty for a failure, and where a number is missing or not finite."""
    shown, lineage = (evaluation.cost.get(name, math.nan) for name in ("examples", "lineage_examples"))
    error = evaluation.objectives.get("error", math.nan)
    if not evaluation.ok or not math.isfinite(shown + lineage + error) or min(lineage, error) < 0:
        return {}
    return {**evaluation.features, AGE: math.log1p(lineage), SCRATCH: float(lineage <= shown)}


def _table(rows: Sequence[Mapping[str, float]]) -> tuple[list[str], Numbers]:
    """Returns the variables' names and their values, `[results, variables]`.

    Where results without features are among them, those of an earlier version, features are left out.
    """
    least = min(rows, key=len)
    names = sorted(least if least.keys() == {AGE, SCRATCH} else set().union(*rows))
    return names, np.array([[row.get(name, 0.0) for name in names] for row in rows])


def _regression(
    names: Sequence[str], table: Numbers, errors: Numbers, again: Sequence[tuple[int, int]]
) -> tuple[dict[str, float], float]:
    """Returns the slopes, by name, and the base of a ridge regression on standardised variables.

    The differences within the pairs in `again` are rows of their own, with the weight of `AGAIN` results.
    """
    mean, deviation = table.mean(0), table.std(0)
    used = deviation > 1e-9
    scaled = (table[:, used] - mean[used]) / deviation[used]
    level = float(errors.mean())
    before, after = np.array(again, dtype=int).reshape(-1, 2).T
    apart, gained = scaled[after] - scaled[before], errors[after] - errors[before]
    doubts = np.array([SURE if name in (AGE, SCRATCH) else RIDGE for name in names])
    squares = scaled.T @ scaled + AGAIN * apart.T @ apart + np.diag(doubts[used])
    slopes = np.zeros(len(names))
    slopes[used] = np.linalg.solve(squares, scaled.T @ (errors - level) + AGAIN * apart.T @ gained) / deviation[used]
    return dict(zip(names, map(float, slopes), strict=True)), level - float(slopes @ mean)
