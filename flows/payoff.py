"""Payoff: what edits were worth, against the parent trained on for as long without change."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from search import Candidate, Evaluation

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Payoff:
    """What one family of edits was worth.

    Attributes:
        rule: the edits' name.
        uses: candidates that were made with it, alone or among others; those in training count.
        failures: of these.
        compared: of these, whose parent has a no-op control of the same fidelity.
        mean: gain, as a share of wrongly classified images; None if none is compared.
        low: lower end of the mean's 95 % interval; None if fewer than two controls can be compared with.
        high: its upper end.
        best: the largest gain; None if none is compared.
    """

    rule: str
    uses: int
    failures: int
    compared: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    best: float | None = None


def controls(candidates: Mapping[int, Candidate], evaluations: Mapping[int, Evaluation]) -> dict[int, int]:
    """Returns for each child that was made by edits the number of its parent's no-op control of the same fidelity.

    Only successes are compared, and no twins, which repeat what began with other weights; whoever has no control to be
    compared with is left out.
    """
    trained = {n for n, evaluation in evaluations.items() if evaluation.ok and evaluation.twin is None}
    good = {n: c for n, c in candidates.items() if c.parents and n in trained}
    found = {(c.parents[0], c.fidelity): n for n, c in good.items() if c.control}
    pairs = {n: found.get((c.parents[0], c.fidelity)) for n, c in good.items() if c.edits}
    return {n: control for n, control in pairs.items() if control is not None}


def gains(candidates: Mapping[int, Candidate], evaluations: Mapping[int, Evaluation]) -> dict[int, float]:
    """Returns for each child whose parent has a no-op control of the same fidelity: the control's error minus its own.

    Both started from the same weights and were trained for as many examples, so a positive gain is the edit's merit.
    """
    pairs = controls(candidates, evaluations)
    return {n: evaluations[c].objectives["error"] - evaluations[n].objectives["error"] for n, c in pairs.items()}


def payoffs(candidates: Mapping[int, Candidate], evaluations: Mapping[int, Evaluation]) -> list[Payoff]:
    """Returns what each family of edits was worth, the largest mean gain first; those never compared come last.

    A child that was made by several edits counts for each of them: its gain cannot be divided.
    """
    gained, against = gains(candidates, evaluations), controls(candidates, evaluations)
    by_rule: dict[str, list[int]] = {}
    for number, candidate in candidates.items():
        for rule in {edit.rule for edit in candidate.edits}:
            by_rule.setdefault(rule, []).append(number)
    found = []
    for rule, numbers in by_rule.items():
        failures = sum(number in evaluations and not evaluations[number].ok for number in numbers)
        values = [(against[number], gained[number]) for number in numbers if number in gained]
        found.append(Payoff(rule, len(numbers), failures, len(values), *_estimate(values)))
    return sorted(found, key=lambda payoff: (payoff.mean is None, -(payoff.mean or 0), payoff.rule))


def _estimate(values: Iterable[tuple[int, float]]) -> tuple[float | None, float | None, float | None, float | None]:
    """Returns mean, lower and upper end of its interval, and the largest of gains, each given with its control.

    Children of one control share its noise, so each control makes one cluster (Liang and Zeger 1986, with the factor
    for few clusters) and Student's t has a degree of freedom less than there are clusters. If each control has one
    child, this is the ordinary interval of a mean.
    """
    pairs = list(values)
    if not pairs:
        return None, None, None, None
    mean, best = fmean(gain for _, gain in pairs), max(gain for _, gain in pairs)
    off: dict[int, float] = {}
    for control, gain in pairs:
        off[control] = off.get(control, 0.0) + gain - mean
    if len(off) < 2:
        return mean, None, None, best
    from scipy.special import stdtrit  # type: ignore[import-untyped]  # half a second, and only this needs it

    clusters = len(off)
    deviation = math.sqrt(clusters / (clusters - 1) * sum(value**2 for value in off.values())) / len(pairs)
    reach = float(stdtrit(clusters - 1, (1 + CONFIDENCE) / 2)) * deviation
    return mean, mean - reach, mean + reach, best
