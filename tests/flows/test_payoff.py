"""What edits were worth against the no-op control: who is compared with whom, and how sure the mean is."""

from __future__ import annotations

import random
from dataclasses import replace
from statistics import fmean, stdev

import pytest
from scipy import stats  # type: ignore[import-untyped]

from flows.payoff import Payoff, controls, gains, payoffs
from search import Candidate, Evaluation, Fidelity
from tests.flows.families import kin
from tests.flows.test_report import member, result


def test_gain_is_the_error_of_the_parents_control_minus_ones_own() -> None:
    candidates = {c.number: c for c in (member(0), member(1, 0), member(2, 0, edited=True), member(3, 2, edited=True))}
    errors = {0: 0.4, 1: 0.3, 2: 0.25, 3: 0.1}
    evaluations = {number: result(number, error) for number, error in errors.items()}
    assert candidates[1].control
    assert gains(candidates, evaluations) == {2: pytest.approx(0.05)}  # 3 has no control to compare with


def test_gains_compare_at_one_fidelity_and_count_no_promotion_that_continues() -> None:
    high = Fidelity(60_000)
    control, child = member(1, 0), member(2, 0, edited=True)
    candidates = [
        member(0),
        control,
        child,
        replace(child, number=3, fidelity=high, promotes=2),  # begun again, as the next one is
        replace(control, number=4, fidelity=high, promotes=1),
        replace(child, number=5, parents=(2,), edits=(), fidelity=high, promotes=2),
        replace(control, number=6, parents=(1,), fidelity=high, promotes=1),
    ]
    errors = (0.4, 0.3, 0.25, 0.1, 0.2, 0.15, 0.05)
    evaluations = {number: result(number, error) for number, error in enumerate(errors)}
    found = gains({c.number: c for c in candidates}, evaluations)
    assert found == {2: pytest.approx(0.05), 3: pytest.approx(0.1)}


@pytest.mark.parametrize("failed", [1, 2])
def test_a_failed_control_or_child_gains_nothing(failed: int) -> None:
    candidates = {c.number: c for c in (member(0), member(1, 0), member(2, 0, edited=True))}
    evaluations = {number: result(number, 0.3) for number in candidates} | {failed: Evaluation(failed, "timeout")}
    assert gains(candidates, evaluations) == {}
    assert gains(candidates, {n: e for n, e in evaluations.items() if n != failed}) == {}


@pytest.mark.parametrize("repeating", [1, 2])
def test_a_twin_is_compared_with_nobody_since_what_it_repeats_began_with_other_weights(repeating: int) -> None:
    candidates = {c.number: c for c in (member(0), member(1, 0), member(2, 0, edited=True))}
    evaluations = {number: result(number, 0.3) for number in candidates}
    assert gains(candidates, evaluations) == {2: 0.0}
    assert gains(candidates, evaluations | {repeating: replace(evaluations[repeating], twin=9)}) == {}


def litter(
    errors: dict[int, list[float]], draws: tuple[str, ...] = ("widen",)
) -> tuple[dict[int, Candidate], dict[int, Evaluation]]:
    """Returns parents by number, each with a control of error 0.5 and children of these errors, made by one rule."""
    candidates, told, number = {}, {}, 1000
    for parent, children in errors.items():
        candidates[parent], told[parent] = member(parent), result(parent, 0.6)
        for error in (0.5, *children):
            child = member(number, parent, edited=error != 0.5)
            edits = tuple(replace(edit, rule=rule) for edit in child.edits for rule in draws)
            candidates[number], told[number] = replace(child, edits=edits), result(number, error)
            number += 1
    return candidates, told


def test_with_one_child_for_each_control_the_interval_is_students_of_a_mean() -> None:
    errors = [0.48, 0.47, 0.51, 0.44, 0.46]
    (found,) = payoffs(*litter({n: [error] for n, error in enumerate(errors)}))
    values = [0.5 - error for error in errors]
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    assert (found.rule, found.uses, found.failures, found.compared) == ("widen", 5, 0, 5)
    assert found.mean == pytest.approx(fmean(values))
    assert (found.low, found.high) == (pytest.approx(fmean(values) - reach), pytest.approx(fmean(values) + reach))
    assert found.best == pytest.approx(0.06)


def test_children_of_one_control_make_nobody_surer() -> None:
    single, (twice,) = (
        payoffs(*litter({0: [0.4], 1: [0.3], 2: [0.45]})),
        payoffs(*litter({0: [0.4] * 4, 1: [0.3] * 4, 2: [0.45] * 4})),
    )
    assert twice.compared == 12
    assert (twice.mean, twice.low, twice.high) == tuple(
        pytest.approx(value) for value in (single[0].mean, single[0].low, single[0].high)
    )


def test_one_control_gives_a_mean_and_no_interval() -> None:
    (found,) = payoffs(*litter({0: [0.4, 0.3]}))
    assert found == Payoff("widen", 2, 0, 2, pytest.approx(0.15), None, None, pytest.approx(0.2))


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = random.Random(7)
    held = 0
    for _ in range(400):
        noise = [rng.gauss(0, 0.02) for _ in range(6)]  # of each control, which its three children share
        errors = {n: [0.5 - 0.01 - noise[n] + rng.gauss(0, 0.01) for _ in range(3)] for n in range(6)}
        (found,) = payoffs(*litter(errors))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.01 <= found.high
    assert held / 400 == pytest.approx(0.95, abs=0.035)


def test_uses_and_failures_are_counted_without_a_control_too_and_come_last() -> None:
    candidates, told = litter({0: [0.4, 0.3]})
    orphans = {n: replace(member(n, 1001, edited=True), number=n) for n in (7, 8)}
    named = {n: replace(c, edits=(replace(c.edits[0], rule="branch"),)) for n, c in orphans.items()}
    found = payoffs({**candidates, **named}, {**told, 7: Evaluation(7, "timeout")})
    assert [payoff.rule for payoff in found] == ["widen", "branch"]
    assert found[1] == Payoff("branch", 2, 1, 0)


def test_a_child_of_several_edits_counts_for_each() -> None:
    assert [(p.rule, p.compared) for p in payoffs(*litter({0: [0.4]}, ("widen", "branch")))] == [
        ("branch", 1),
        ("widen", 1),
    ]


def test_each_is_compared_with_the_control_of_its_own_parent() -> None:
    candidates, told = kin(200)
    pairs = controls(candidates, told)
    assert pairs
    for number, control in pairs.items():
        assert candidates[control].control
        assert candidates[control].parents[0] == candidates[number].parents[0]
    assert sum(payoff.compared for payoff in payoffs(candidates, told)) == sum(
        len({edit.rule for edit in candidates[number].edits}) for number in pairs
    )


def test_no_family_paid_nothing() -> None:
    assert payoffs({}, {}) == []
