"""Judgement: the error that selection takes a child to have, when all are read at the same lineage age.

An inherited child reports above all how long its lineage was trained, so that of two equal networks the one with more
ancestors wins. The judged error is what the search's own evaluations make expect of a network of this size at their
mean age, plus a share of what remains: the rest is mostly chance (docs/fidelity.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from search import Evaluation

Judging = Literal["raw", "corrected"]
KEPT = 0.5  # of what neither age nor size explains; measured, docs/fidelity.md
LEAST = 8  # evaluations: fewer say nothing of a trend in two variables
RIDGE = 1e-2  # variance of the logarithms below which they are no evidence


@dataclass
class Judgement:
    """The errors of one search as selection sees them; a function of the evaluations that were noted, in their order.

    Sums are kept instead of evaluations, so that judging costs the same however long the search is.

    Attributes:
        kind: `raw` is the measured error, `corrected` the one at equal age.
        count: how many evaluations were noted.
        sums: of each variable of `_variables`, by name.
        products: of each pair of them, by their names.
    """

    kind: Judging = "raw"
    count: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    products: dict[tuple[str, str], float] = field(default_factory=dict)

    def note(self, evaluation: Evaluation) -> None:
        """Takes note of a result; failures and results without an error say nothing."""
        if self.kind == "raw" or not (variables := _variables(evaluation)):
            return
        self.count += 1
        for one, value in variables.items():
            self.sums[one] = self.sums.get(one, 0.0) + value
            for other, factor in variables.items():
                self.products[one, other] = self.products.get((one, other), 0.0) + value * factor

    def objectives(self, evaluation: Evaluation) -> Mapping[str, float]:
        """Returns an evaluation's objectives with the judged error in place of the measured one."""
        if self.kind == "raw" or self.count < LEAST or not (variables := _variables(evaluation)):
            return evaluation.objectives
        age, size, error = (variables[name] - self.sums[name] / self.count for name in ("age", "size", "error"))
        by_age, by_size = self._slopes()
        expected = by_size * size
        surprise = error - by_age * age - expected
        return {**evaluation.objectives, "error": self.sums["error"] / self.count + expected + KEPT * surprise}

    def _slopes(self) -> tuple[float, float]:
        """Returns how error changes with age and with size, by least squares in both, drawn to zero by `RIDGE`."""
        aa, ss = self._covariance("age", "age") + RIDGE, self._covariance("size", "size") + RIDGE
        both, ae, se = (self._covariance(*pair) for pair in (("age", "size"), ("age", "error"), ("size", "error")))
        determinant = aa * ss - both * both
        return (ae * ss - se * both) / determinant, (se * aa - ae * both) / determinant

    def _covariance(self, one: str, other: str) -> float:
        return (self.products[one, other] - self.sums[one] * self.sums[other] / self.count) / self.count


def judged(kind: Judging, evaluations: Iterable[Evaluation]) -> dict[int, float]:
    """Returns the judged error of each success by number, with all that is known."""
    judgement, told = Judgement(kind), list(evaluations)
    for evaluation in told:
        judgement.note(evaluation)
    return {e.number: judgement.objectives(e)["error"] for e in told if e.ok and "error" in e.objectives}


def _variables(evaluation: Evaluation) -> dict[str, float]:
    """Returns what is regressed: error on the logarithms of lineage age (in examples) and size (in parameters).

    Empty for a failure, and where a number is missing or cannot be regressed.
    """
    examples, parameters = evaluation.cost.get("lineage_examples", 0.0), evaluation.objectives.get("parameters", 0.0)
    error = evaluation.objectives.get("error", math.nan)
    if not evaluation.ok or min(examples, parameters) < 0 or not math.isfinite(error + examples + parameters):
        return {}
    return {"age": math.log1p(examples), "size": math.log1p(parameters), "error": error}
