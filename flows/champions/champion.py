"""Champion: whether a network that retraining chose takes the place of the present champion, and on what evidence.

It does if it is better on the second validation part by more than the noise, within the constraint that the present one
was found under. The first one takes the place without a comparison. Each decision is recorded with its evidence.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

from flows.home import BadInput
from flows.standings import JUDGED, Standing, words
from genomes import Genome, cost
from search import Retraining, Retrainings

COUNTED = {"parameters": "parameters", "macs": "MACs", "activation_bytes": "bytes of activations"}
Outcome = Literal["promoted", "refused", "holds"]
LEVEL = 0.95  # of the one-sided tests


@dataclass(frozen=True)
class Contender:
    """A finalist, as far as it counts for being champion.

    Attributes:
        number: the candidate's.
        seed: of the training whose network stands for it, from 0; None if all failed.
        errors: on the second validation part, one for each seed that went well.
        failures: how many of its trainings failed.
        parameters: trained numbers.
        macs: of one image.
        activation_bytes: of one image.
    """

    number: int
    seed: int | None
    errors: tuple[float, ...]
    failures: int
    parameters: int
    macs: int
    activation_bytes: int

    @classmethod
    def of(cls, standing: Standing, genome: Genome) -> Self:
        """Returns the finalist of a standing."""
        best = min(standing.good, key=lambda one: (one.evaluation.objectives[JUDGED], one.seed), default=None)
        errors, failures = tuple(standing.values(JUDGED)), len(standing.failures)
        counts = asdict(cost(genome))
        return cls(standing.searched.number, best.seed if best else None, errors, failures, **counts)

    @property
    def mean(self) -> float:
        """The mean error; NaN without one."""
        return statistics.mean(self.errors) if self.errors else math.nan

    @property
    def seeds(self) -> str:
        """How many seeds the mean is of, in words."""
        return f"{len(self.errors)} seed{'' if len(self.errors) == 1 else 's'}"


@dataclass(frozen=True)
class Decision:
    """What was decided, and on what evidence.

    Attributes:
        outcome: `promoted`, `refused`, or `holds`: it is the champion already.
        reason: in words.
        challenger: whom retraining chose.
        present: the champion until then, with all that is known of it by now; None for the first one.
        bound: what the difference of the mean errors must exceed; None if they were not compared.
        noise: how the bound came about, in words.
        images: in the second validation part.
        limits: the constraint, by name: what the champion may have of each at most.
        finalists: of the retraining, the best one first.
    """

    outcome: Outcome
    reason: str
    challenger: Contender
    present: Contender | None
    bound: float | None
    noise: str
    images: int
    limits: Mapping[str, int]
    finalists: tuple[Contender, ...]

    @classmethod
    def read(cls, evidence: Mapping[str, Any]) -> Self:
        """Returns the decision that is recorded as `evidence`."""
        present = evidence["present"]
        return cls(
            **{
                **evidence,
                "challenger": _contender(evidence["challenger"]),
                "present": present and _contender(present),
                "finalists": tuple(_contender(one) for one in evidence["finalists"]),
            }
        )

    @property
    def words(self) -> str:
        """The decision in one line."""
        mine, seed = f"child {self.challenger.number}", f", seed {self.challenger.seed}"
        if self.outcome == "refused" and self.present:
            other = "its training now" if self.challenger.number == self.present.number else mine
            return f"Champion: child {self.present.number} stays; {other}{seed} is not promoted: {self.reason}"
        return f"Champion: {mine}{seed} {'is promoted' if self.outcome == 'promoted' else 'stays'}: {self.reason}"


def decide(
    record: Retrainings,
    chosen: Retraining,
    standings: Sequence[Standing],
    genomes: Mapping[int, Genome],
    images: int,
    limits: Mapping[str, int],
) -> Decision:
    """Decides whether a choice becomes champion, and records it with its evidence, once.

    Args:
        record: to add to.
        chosen: the training whose network retraining chose.
        standings: of its finalists, the best one first, which is the challenger.
        genomes: of the finalists.
        images: in the second validation part.
        limits: of the search.
    """
    finalists = tuple(Contender.of(standing, genomes[standing.searched.number]) for standing in standings)
    places = record.holders()
    if places.champion == chosen.key:
        return replace(stored(record, chosen.key), outcome="holds", reason="no other was chosen")
    present = None
    if places.champion:
        before = stored(record, places.champion)
        present = known(record, places.champion, before.challenger)
        limits = {name: min(most, before.limits[name]) for name, most in limits.items()}
    # a network stays withdrawn whatever the seed or the schedule
    withdrawn = chosen.number in {one.number for key, one in record.recorded().items() if key in places.withdrawn}
    decision = judged(finalists, present, images, limits, withdrawn=withdrawn)
    record.decide(chosen.key, "promoted" if decision.outcome == "promoted" else "refused", asdict(decision))
    return decision


def judged(
    finalists: tuple[Contender, ...],
    present: Contender | None,
    images: int,
    limits: Mapping[str, int],
    *,
    withdrawn: bool = False,
) -> Decision:
    """Returns the decision about the first of the finalists.

    Args:
        finalists: the best one first.
        present: the champion, if there is one.
        images: in the second validation part.
        limits: that a champion must keep to.
        withdrawn: whether people took the place from the challenger.
    """
    challenger = finalists[0]
    if present is None:
        reason = "the first one needs no comparison"
        return Decision("promoted", reason, challenger, None, None, "", images, limits, finalists)
    bound, noise = chance(present, challenger, images)
    less = present.mean - challenger.mean
    compared = (
        f"second validation error {challenger.mean:.4f} ({challenger.seeds}) against {present.mean:.4f} "
        f"({present.seeds}) of child {present.number}: {less:.4f} less, {'more' if less > bound else 'not more'} than "
        f"the {bound:.4f} that chance exceeds in 5 % of cases ({noise})"
    )
    obstacle = "it was champion and was withdrawn by hand" if withdrawn else _obstacle(challenger, limits)
    outcome: Outcome = "promoted" if less > bound and not obstacle else "refused"
    return Decision(outcome, obstacle or compared, challenger, present, bound, noise, images, limits, finalists)


def restore(record: Retrainings) -> None:
    """Gives the place back to the champion before; whom it is taken from is not promoted again by itself.

    Raises:
        BadInput: there was none before.
    """
    before = record.holders().previous
    if before is None:
        raise BadInput("a rollback needs a champion before the present one, and there was none")
    record.decide(before, "restored", asdict(stored(record, before)))


def holding(record: Retrainings) -> str | None:
    """Returns in words who is champion; None before the first promotion."""
    if (key := record.holders().champion) is None:
        return None
    one = record.recorded()[key]
    return f"Champion: child {one.number}, seed {one.seed}, with {words(one.evaluation)}"


def last(record: Retrainings) -> Decision | None:
    """Returns the last decision that a retraining led to; None before the first."""
    found = [one.evidence for one in record.promotions() if one.outcome != "restored"]
    return Decision.read(found[-1]) if found else None


def stored(record: Retrainings, key: str) -> Decision:
    """Returns the decision that made a network champion."""
    return Decision.read(next(o.evidence for o in record.promotions() if (o.key, o.outcome) == (key, "promoted")))


def known(record: Retrainings, key: str, before: Contender) -> Contender:
    """Returns a champion with all that is known by now of its trainings with its recipe and schedule.

    Args:
        record: of the trainings.
        key: of the champion's.
        before: what was known when it was promoted.
    """
    trainings = record.recorded()
    mine = trainings[key]
    alike = [one for one in trainings.values() if (one.number, one.setting) == (mine.number, mine.setting)]
    alike = list({one.seed: one for one in (*alike, mine)}.values())  # a seed counts once, whatever it was trained on
    errors = tuple(one.evaluation.objectives[JUDGED] for one in alike if one.evaluation.ok)
    return replace(before, errors=errors, failures=len(alike) - len(errors))


def chance(present: Contender, challenger: Contender, images: int) -> tuple[float, str]:
    """Returns what a difference of means exceeds by chance in 5 % of cases, and in words how that was found.

    With two seeds or more of each: Student's t times the standard error of the difference, from the pooled standard
    deviation of the seeds. That is taken to be one image at least, since errors are multiples of one image, and a few
    of them agree by luck. With one seed its spread is unknown, and the binomial error of the images stands in.

    Args:
        present: the champion.
        challenger: with one error at least, as `present`.
        images: that each error is the share of.
    """
    from scipy.special import ndtri, stdtrit  # type: ignore[import-untyped]  # half a second, and only this needs it

    counts = len(present.errors), len(challenger.errors)
    if min(counts) < 2:
        error = math.hypot(*(_binomial(one.mean, images) for one in (present, challenger)))
        return float(ndtri(LEVEL)) * error, f"binomial error of {images} images, as one of them has one seed only"
    freedom = sum(counts) - 2
    squares = sum((error - one.mean) ** 2 for one in (present, challenger) for error in one.errors)
    deviation = max(math.sqrt(squares / freedom), 1 / images)
    error = deviation * math.sqrt(1 / counts[0] + 1 / counts[1])
    words = f"t-test over {counts[0]} + {counts[1]} seeds, pooled standard deviation {deviation:.4f}"
    return float(stdtrit(freedom, LEVEL)) * error, words


def _obstacle(challenger: Contender, limits: Mapping[str, int]) -> str:
    """Returns what keeps a challenger from the place however good it is; nothing if it is free."""
    if challenger.failures:
        return f"{challenger.failures} of its trainings failed, so that the mean of the others flatters it"
    for name, most in limits.items():
        if (count := getattr(challenger, name)) > most:
            return f"it must keep to the champion's limit of {most:,} {COUNTED[name]}, and has {count:,}"
    return ""


def _binomial(error: float, images: int) -> float:
    """Returns the standard error of an error; by Laplace's estimate, so that no wrong image is not certainty."""
    share = (error * images + 1) / (images + 2)
    return math.sqrt(share * (1 - share) / images)


def _contender(document: Mapping[str, Any]) -> Contender:
    return Contender(**{**document, "errors": tuple(document["errors"])})
