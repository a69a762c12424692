"""A challenger becomes champion only if it is better by more than chance, within the champion's constraint."""

from __future__ import annotations

import math
import random
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats  # type: ignore[import-untyped]

from flows.champions import champion
from flows.champions.champion import Contender, Decision, chance, decide, holding, judged, known, last, restore, stored
from flows.home import BadInput
from flows.standings import ranked
from genomes import Genome, cost
from search import Evaluation, Retraining, Retrainings
from tests.flows.families import genome_of

IMAGES = 1000
LIMITS = {"parameters": 1000, "macs": 10_000, "activation_bytes": 100_000}
PRESENT = Contender(1, 0, (0.10, 0.12, 0.11), 0, 900, 9000, 90_000)
GENOMES: dict[int, Genome] = {1: genome_of((4, 4)), 2: genome_of((3, 3)), 3: genome_of((6, 6))}


def better(by: float, **changes: Any) -> Contender:
    return replace(PRESENT, number=2, errors=tuple(error - by for error in PRESENT.errors), **changes)


def test_the_first_one_is_promoted_without_a_comparison() -> None:
    decision = judged((PRESENT,), None, IMAGES, LIMITS)
    assert (decision.outcome, decision.bound) == ("promoted", None)
    assert decision.words == "Champion: child 1, seed 0 is promoted: the first one needs no comparison"


def test_the_bound_is_that_of_a_one_sided_t_test() -> None:
    rng = random.Random(0)
    for counts in ((2, 2), (3, 3), (2, 5), (10, 4)):
        errors = [tuple(rng.gauss(0.2, 0.01) for _ in range(count)) for count in counts]
        present, challenger = (replace(PRESENT, errors=some) for some in errors)
        bound, _ = chance(present, challenger, 10**9)
        tested = stats.ttest_ind(errors[0], errors[1], alternative="greater")
        assert (present.mean - challenger.mean > bound) == (tested.pvalue < 0.05)
        shifted = tuple(error - (challenger.mean - present.mean) - bound for error in errors[1])
        assert math.isclose(stats.ttest_ind(errors[0], shifted, alternative="greater").pvalue, 0.05, rel_tol=2e-3)


@pytest.mark.parametrize(
    ("by", "outcome"), [(0.016, "refused"), (0.019, "promoted"), (-0.05, "refused"), (0, "refused")]
)
def test_the_difference_must_exceed_the_noise_of_the_seeds(by: float, outcome: str) -> None:
    decision = judged((better(by),), PRESENT, IMAGES, LIMITS)
    assert decision.bound == pytest.approx(2.132 * 0.01 * math.sqrt(2 / 3), rel=1e-3)  # 0.0174
    assert decision.outcome == outcome
    assert ("not more than" in decision.words) == (outcome == "refused")
    assert decision.words.startswith("Champion: child 2" if outcome == "promoted" else "Champion: child 1 stays")
    assert f"against {PRESENT.mean:.4f} (3 seeds) of child 1" in decision.words


def test_another_training_of_the_champions_network_is_called_so() -> None:
    decision = judged((replace(PRESENT, seed=2),), PRESENT, IMAGES, LIMITS)
    assert decision.words.startswith("Champion: child 1 stays; its training now, seed 2 is not promoted: ")


def test_seeds_that_agree_by_luck_do_not_make_one_image_a_proof() -> None:
    agreeing = replace(PRESENT, errors=(0.1, 0.1, 0.1))
    fewer = replace(agreeing, number=2, errors=(0.099, 0.099, 0.099))
    assert judged((fewer,), agreeing, IMAGES, LIMITS).outcome == "refused"
    assert judged((replace(fewer, errors=(0.097, 0.097, 0.097)),), agreeing, IMAGES, LIMITS).outcome == "promoted"


def test_with_one_seed_the_binomial_error_of_the_images_stands_in() -> None:
    present = replace(PRESENT, errors=(0.1,))
    bound, noise = chance(present, PRESENT, IMAGES)
    assert bound == pytest.approx(1.645 * math.sqrt((0.1 * 0.9 + 0.11 * 0.89) / IMAGES), rel=0.01)
    assert "binomial" in noise
    faultless = replace(PRESENT, errors=(0.0,))
    assert chance(faultless, faultless, IMAGES)[0] > 1 / IMAGES  # no wrong image is not certainty
    assert judged((faultless,), replace(present, errors=(0.001,)), IMAGES, LIMITS).outcome == "refused"


@pytest.mark.parametrize("name", list(LIMITS))
def test_a_better_one_over_the_champions_limits_is_not_promoted(name: str) -> None:
    decision = judged((better(0.05, **{name: LIMITS[name] + 1}),), PRESENT, IMAGES, LIMITS)
    assert decision.outcome == "refused"
    assert f"the champion's limit of {LIMITS[name]:,} {champion.COUNTED[name]}" in decision.reason
    assert judged((better(0.05, **{name: LIMITS[name]}),), PRESENT, IMAGES, LIMITS).outcome == "promoted"


def test_one_of_which_a_training_failed_is_not_promoted_over_another() -> None:
    assert "1 of its trainings failed" in judged((better(0.05, failures=1),), PRESENT, IMAGES, LIMITS).words
    assert judged((better(0.05, failures=1),), None, IMAGES, LIMITS).outcome == "promoted"


def training(number: int, seed: int, error: float, setting: str = "short") -> Retraining:
    weights = f"{number}{seed}{setting}".ljust(64, "0")
    seen = {"error": 0.5, "second_validation_error": error, "parameters": 1.0}
    return Retraining(
        f"{number}-{seed}-{setting}", number, seed, {"a": setting}, Evaluation(number, "ok", seen, {}, weights=weights)
    )


def challenged(record: Retrainings, number: int, *errors: float, **limits: int) -> Decision:
    """Records trainings of a finalist and decides about it."""
    ours = [training(number, seed, error) for seed, error in enumerate(errors)]
    for one in ours:
        record.record(one)
    (standing,) = ranked([Evaluation(number, "ok", {"error": 0.5, "parameters": 1.0})], ours)
    chosen = min(ours, key=lambda one: one.evaluation.objectives["second_validation_error"])
    bounds = {**dict.fromkeys(LIMITS, 10**9), **limits}
    return decide(record, chosen, [standing], GENOMES, IMAGES, bounds)


def holder(record: Retrainings) -> list[str | None]:
    return [key and key[:3] for key in record.holders()[:2]]


def test_each_decision_is_recorded_with_its_evidence_once(tmp_path: Path) -> None:
    with Retrainings.open(tmp_path) as record:
        assert last(record) is None
        assert holding(record) is None
        first = challenged(record, 1, 0.10, 0.12, 0.11)
        again = challenged(record, 1, 0.10, 0.12, 0.11)
        assert (first.outcome, again.outcome) == ("promoted", "holds")
        assert again.words == "Champion: child 1, seed 0 stays: no other was chosen"
        worse = challenged(record, 2, 0.10, 0.12, 0.10)
        challenged(record, 2, 0.10, 0.12, 0.10)
        assert worse.outcome == "refused"
        assert holder(record) == ["1-0", None]
        best = challenged(record, 3, 0.01, 0.02, 0.01)
        assert holder(record) == ["3-0", "1-0"]
        assert [one.outcome for one in record.promotions()] == ["promoted", "refused", "promoted"]
        assert (last(record), stored(record, "1-0-short")) == (best, first)
        assert best.challenger.parameters == cost(GENOMES[3]).parameters
        assert best.present is not None
        assert best.present.errors == (0.10, 0.12, 0.11)


def test_the_constraint_is_the_tightest_that_a_champion_was_found_under(tmp_path: Path) -> None:
    roomy = cost(GENOMES[3]).parameters
    with Retrainings.open(tmp_path) as record:
        challenged(record, 1, 0.5, 0.5, parameters=roomy - 1)
        wider = challenged(record, 3, 0.1, 0.1, parameters=roomy + 1)  # the search's limits were widened since
        assert wider.outcome == "refused"
        assert wider.limits["parameters"] == roomy - 1
        assert "limit of" in wider.reason
        assert challenged(record, 2, 0.1, 0.1, parameters=roomy + 1).limits["parameters"] == roomy - 1


def test_a_champion_counts_with_all_seeds_that_are_known_by_now_of_its_own_schedule(tmp_path: Path) -> None:
    with Retrainings.open(tmp_path) as record:
        first = challenged(record, 1, 0.10)
        record.record(training(1, 1, 0.14))
        record.record(training(1, 0, 0.90, "long"))
        record.record(replace(training(1, 0, 0.70), key="0, as another processor trains it"))
        record.record(replace(training(1, 2, 0.5), evaluation=Evaluation(1, "non_finite")))
        now = known(record, "1-0-short", first.challenger)
        assert (now.errors, now.failures) == ((0.10, 0.14), 1)
        assert replace(now, errors=(0.10,), failures=0) == first.challenger


def test_who_was_withdrawn_is_not_promoted_by_itself_and_a_second_rollback_brings_it_back(tmp_path: Path) -> None:
    with Retrainings.open(tmp_path) as record:
        with pytest.raises(BadInput, match="a rollback needs a champion before the present one"):
            restore(record)
        challenged(record, 1, 0.5, 0.5)
        challenged(record, 2, 0.1, 0.1)
        restore(record)
        assert holder(record) == ["1-0", "2-0"]
        assert holding(record) == "Champion: child 1, seed 0, with second validation error 0.5000"
        again = challenged(record, 2, 0.1, 0.1)
        assert (again.outcome, holder(record)) == ("refused", ["1-0", "2-0"])
        assert "withdrawn by hand" in again.words
        other_seed = challenged(record, 2, 0.1, 0.1, 0.05)
        assert (other_seed.outcome, other_seed.challenger.seed) == ("refused", 2)
        assert challenged(record, 3, 0.1, 0.1).outcome == "promoted"
        restore(record)
        restore(record)
        assert holder(record) == ["3-0", "1-0"]


def test_a_decision_survives_the_record(tmp_path: Path) -> None:
    decision = judged((better(0.05), replace(PRESENT, number=7, seed=None, errors=())), PRESENT, IMAGES, LIMITS)
    with Retrainings.open(tmp_path) as record:
        record.record(training(2, 0, 0.5))
        record.decide("2-0-short", "promoted", asdict(decision))
        assert stored(record, "2-0-short") == decision
