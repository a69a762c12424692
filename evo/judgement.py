"""Judgement: the error that selection takes a child to have, when all are read at the same lineage age.

An inherited child also reports how long its lineage was trained, so that of two equal networks the one with more
ancestors wins. What age alone makes of the error is estimated from the search's own evaluations and taken away. Size is
regressed beside it, since the old are large: without that, the merit of size would be taken for that of age. Founders
are judged but not regressed: training from scratch gains far more from its first budget than any heir from a further
one. How well raw and judged errors agree with training from scratch is measured in docs/fidelity.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from search import Evaluation

Judging = Literal["raw", "corrected"]
LEAST = 8  # heirs: fewer say nothing of a trend in two variables
RIDGE = 1e-2  # variance of the logarithms below which they are no evidence


@dataclass
class Judgement:
    """The errors of one search as selection sees them; a function of the evaluations that were noted, in their order.

    Sums are kept instead of evaluations, so that judging costs the same however long the search is.

    Attributes:
        kind: `raw` is the measured error, `corrected` the one at equal age.
        count: how many were regressed.
        sums: of each variable of `_variables`, by name.
        products: of each pair of them, by their names.
    """

    kind: Judging = "raw"
    count: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    products: dict[tuple[str, str], float] = field(default_factory=dict)

    def note(self, evaluation: Evaluation) -> None:
        """Takes note of a result; only one that was trained on from a parent's weights says what age is worth."""
        if self.kind == "raw" or not _heir(evaluation) or not (variables := _variables(evaluation)):
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
        older = variables["age"] - self.sums["age"] / self.count
        return {**evaluation.objectives, "error": variables["error"] - self._slope() * older}

    def _slope(self) -> float:
        """Returns how error falls with age at equal size, by least squares in both, drawn to zero by `RIDGE`.

        Never above zero: training on makes no network worse, so where the old are worse, their structure is.
        """
        aa, ss = self._covariance("age", "age") + RIDGE, self._covariance("size", "size") + RIDGE
        both, ae, se = (self._covariance(*pair) for pair in (("age", "size"), ("age", "error"), ("size", "error")))
        return min(0.0, (ae * ss - se * both) / (aa * ss - both * both))

    def _covariance(self, one: str, other: str) -> float:
        return (self.products[one, other] - self.sums[one] * self.sums[other] / self.count) / self.count


def judged(kind: Judging, evaluations: Iterable[Evaluation]) -> dict[int, float]:
    """Returns the judged error of each success by number, with all that is known."""
    judgement, told = Judgement(kind), list(evaluations)
    for evaluation in told:
        judgement.note(evaluation)
    return {e.number: judgement.objectives(e)["error"] for e in told if e.ok and "error" in e.objectives}


def _heir(evaluation: Evaluation) -> bool:
    """Says whether a candidate was trained, and its lineage before it."""
    return evaluation.twin is None and evaluation.cost.get("lineage_examples", 0.0) > evaluation.cost.get(
        "examples", 0.0
    )


def _variables(evaluation: Evaluation) -> dict[str, float]:
    """Returns what is regressed: error on the logarithms of lineage age (in examples) and size (in parameters).

    Empty for a failure, and where a number is missing or cannot be regressed.
    """
    examples, parameters = evaluation.cost.get("lineage_examples", 0.0), evaluation.objectives.get("parameters", 0.0)
    error = evaluation.objectives.get("error", math.nan)
    if not evaluation.ok or min(examples, parameters) < 0 or not math.isfinite(error + examples + parameters):
        return {}
    return {"age": math.log1p(examples), "size": math.log1p(parameters), "error": error}
