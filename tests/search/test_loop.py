"""The loop keeps its slots busy, its budget, and its promises to strategies; resuming is replaying."""

from __future__ import annotations

import errno
import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from genomes import Genome, Module
from genomes.operations import Add, Conv, Flatten, Input, Linear, Output
from search import (
    Budget,
    Candidate,
    ContractBroken,
    DiskFull,
    Dispatch,
    Done,
    Evaluation,
    Fidelity,
    Ledger,
    Progress,
    ReplayDiverged,
    SearchError,
    Status,
    drive,
    twin_key,
)
from search.loop import EXHAUSTED, HOPELESS
from tests.doubles import ToyEvaluator, in_threads, in_turn
from tests.search.toys import CONFIG, Climber, Generations, network, state, widened


def go(place: Path, strategy: Climber, dispatch: Dispatch, budget: Budget | None = None, **options: object) -> Progress:
    with Ledger.create(place / "a", CONFIG) as ledger:
        return drive(strategy, dispatch, ledger, budget or Budget(candidates=12), **options)  # type: ignore[arg-type]


def evaluations(place: Path) -> dict[int, Evaluation]:
    with Ledger.read(place / "a") as ledger:
        return ledger.evaluations()


class Fixed(Climber):
    """Proposes what it is given, one by one."""

    def __init__(self, *candidates: Candidate) -> None:
        super().__init__()
        self.candidates = list(candidates)

    def ask(self, n: int) -> Sequence[Candidate]:
        found, self.candidates = self.candidates[:n], self.candidates[n:]
        return found


def founders(*widths: int) -> Fixed:
    return Fixed(*(Candidate(number, network(width)) for number, width in enumerate(widths)))


# --- budget ----------------------------------------------------------------------------------------------------------


def test_a_budget_of_candidates_is_met_exactly(place: Path) -> None:
    progress = go(place, Climber(3), in_turn(ToyEvaluator()), Budget(candidates=9), slots=4)
    assert progress.spent.candidates == progress.spent.evaluations == 9
    assert progress.share == 1
    assert progress.in_flight == ()


def test_a_budget_of_examples_ends_the_asking_and_what_is_in_flight_is_finished(place: Path) -> None:
    progress = go(place, Climber(3), in_turn(ToyEvaluator()), Budget(examples=750), slots=3)
    assert 750 <= progress.spent.examples <= 750 + 3 * 100
    assert progress.spent.candidates == progress.spent.evaluations


def test_a_budget_of_seconds_counts_all_sessions(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("search.loop.time.monotonic", lambda: clock[0])
    evaluator = ToyEvaluator()

    def slow(candidate: Candidate, parents: Mapping[int, Evaluation], done: Done) -> None:
        clock[0] += 10.0
        if candidate.number == 3 and clock[0] < 5000:
            raise KeyboardInterrupt
        done(evaluator(candidate, parents))

    strategy = [founders(*range(1, 30)) for _ in range(2)]
    with pytest.raises(KeyboardInterrupt):
        go(place, strategy[0], slow, Budget(seconds=65))
    clock[0] = 9000.0  # the time between two sessions is not counted
    progress = go(place, strategy[1], slow, Budget(seconds=65))
    # Candidates 0 to 2 took 30 s, and the attempt that was cut off 10; then 3, 4 and 5 start at 40, 50 and 60 s.
    assert progress.spent.candidates == 6
    assert progress.spent.elapsed_seconds == 70


@pytest.mark.parametrize("bound", [{"candidates": 0}, {"examples": -1}, {"seconds": math.nan}, {"cpu_seconds": 0.0}])
def test_a_bound_that_cannot_be_meant_is_refused(bound: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"budget\.{next(iter(bound))} must be above 0"):
        Budget(**bound)  # type: ignore[arg-type]


def test_a_strategy_that_has_no_more_ends_the_search(place: Path) -> None:
    progress = go(place, Generations(3), in_turn(ToyEvaluator()), Budget(), slots=3)
    assert progress.spent.evaluations == 12


def test_slots_are_kept_busy_and_never_exceeded(place: Path) -> None:
    flying: list[int] = []
    go(
        place,
        Climber(3, founders=20),
        in_threads(ToyEvaluator()),
        slots=3,
        watch=lambda p: flying.append(len(p.in_flight)),
    )
    assert max(flying) == 3


def test_a_larger_budget_goes_on_where_a_smaller_one_ended(place: Path) -> None:
    for candidates in (5, 12):
        go(place, Climber(3), in_turn(ToyEvaluator()), Budget(candidates=candidates), slots=1)
    (place / "b").mkdir()
    go(place / "b", Climber(3), in_turn(ToyEvaluator()), slots=1)
    assert state(place / "a") == state(place / "b" / "a")


# --- twins -----------------------------------------------------------------------------------------------------------


def test_a_twin_is_answered_from_the_ledger_and_costs_nothing(place: Path) -> None:
    evaluator = ToyEvaluator()
    progress = go(place, founders(2, 3, 2), in_turn(evaluator))
    assert set(evaluator.calls) == {0, 1}
    first, _, twin = evaluations(place).values()
    spent = {**first.cost, "seconds": 0.0, "examples": 0.0}
    assert twin == replace(first, number=2, twin=0, curve=(), cost=spent, certificates=(), initial=None)
    assert twin.weights == first.weights
    assert progress.spent.examples == 2 * Fidelity().examples


def joined(first: str, second: str) -> Genome:
    """Returns a network with two unlike branches; the names decide the bytes, not the function."""
    nodes = {
        "image": Input(shape=(1, 4, 4)),
        first: Conv(2, kernel=1),
        second: Conv(2, kernel=3, padding=1),
        "sum": Add(),
        "flat": Flatten(),
        "logits": Linear(2),
        "out": Output(),
    }
    edges = [("image", first), ("image", second), (first, "sum", 0), (second, "sum", 1)]
    edges += [("sum", "flat"), ("flat", "logits"), ("logits", "out")]
    return Genome.of({"net": Module.of(nodes, edges)})


def test_a_twin_with_other_bytes_has_no_weights_of_its_own(place: Path) -> None:
    evaluator = ToyEvaluator()
    go(place, Fixed(Candidate(0, joined("a", "b")), Candidate(1, joined("c", "d"))), in_turn(evaluator))
    first, twin = evaluations(place).values()
    assert set(evaluator.calls) == {0}
    assert twin.objectives == first.objectives
    assert twin.weights is None


def test_function_fidelity_and_lineage_age_make_a_twin() -> None:
    young, old = (Evaluation(0, "ok", cost={"lineage_examples": age}) for age in (100.0, 200.0))
    key = twin_key(Candidate(1, network(2), (0,)), young)
    assert key == twin_key(Candidate(7, network(2), (3,), (widened(2),)), replace(young, number=3))
    assert key != twin_key(Candidate(1, network(2), (0,)), old)
    assert key != twin_key(Candidate(1, network(2)), None)
    assert key != twin_key(Candidate(1, network(3), (0,)), young)
    assert key != twin_key(Candidate(1, network(2), (0,), fidelity=Fidelity(7)), young)


def test_a_failure_answers_nobody(place: Path) -> None:
    evaluator = ToyEvaluator(failures={0: "non_finite"})
    go(place, founders(2, 2), in_turn(evaluator))
    assert set(evaluator.calls) == {0, 1}


@pytest.mark.parametrize(("widths", "failing"), [([1] * 2000, ()), (range(1, 2000), range(1, 2000))])
def test_a_search_that_only_repeats_itself_or_only_fails_from_some_point_on_ends(
    widths: Iterable[int], failing: Iterable[int], place: Path
) -> None:
    evaluator = ToyEvaluator(failures=dict.fromkeys(failing, "build_error"))
    progress = go(place, founders(*widths), in_turn(evaluator), Budget(examples=10**9))
    assert progress.spent.evaluations == 1 + EXHAUSTED


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["killed", "lost", "timeout", "io_error"])
def test_an_infrastructural_failure_is_tried_three_times_and_then_final(status: Status, place: Path) -> None:
    evaluator = ToyEvaluator(failures={1: status})
    progress = go(place, founders(1, 2, 3), in_turn(evaluator))
    assert evaluator.calls == {0: 1, 1: 3, 2: 1}
    assert evaluations(place)[1].status == status
    assert progress.spent.failures == 1
    with Ledger.read(place / "a") as ledger:
        assert ledger.attempts(1) == [status] * 3


def test_an_infrastructural_failure_may_recover(place: Path) -> None:
    go(place, founders(1, 2), in_turn(ToyEvaluator(failures={1: "killed"}, recovers=2)))
    assert evaluations(place)[1].ok


@pytest.mark.parametrize("status", ["build_error", "non_finite", "over_budget", "out_of_memory"])
def test_a_deterministic_failure_is_final_and_told(status: Status, place: Path) -> None:
    evaluator, strategy = ToyEvaluator(failures={1: status}), founders(1, 2, 3)
    go(place, strategy, in_turn(evaluator))
    assert evaluator.calls[1] == 1
    assert [e.status for e in strategy.told] == ["ok", status, "ok"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_objective_that_is_not_finite_is_a_failure(value: float, place: Path) -> None:
    def diverged(candidate: Candidate, parents: Mapping[int, Evaluation]) -> Evaluation:
        good = ToyEvaluator()(candidate, parents)
        wrong = {**good.objectives, "error": value} if candidate.number else good.objectives
        odd = {name: {"a": 1.0, "b": value} for name in ("cost", "gradients", "features")}
        return replace(good, objectives=wrong, curve=({"examples": 1.0, "loss": value},), **odd)

    go(place, strategy := founders(1, 2), in_turn(diverged))
    failed = evaluations(place)[1]
    assert failed == strategy.told[1]
    assert (failed.status, failed.objectives, failed.weights) == ("non_finite", {}, None)
    assert failed.reason == "error is not finite"
    assert [failed.curve[0], failed.cost, failed.gradients, failed.features] == [{"examples": 1.0}, *3 * [{"a": 1.0}]]


def test_a_genome_that_cannot_be_built_is_a_failure(place: Path) -> None:
    broken = Genome.of({"net": Module.of({"image": Input(shape=(1, 4, 4)), "out": Output()}, [])})
    go(place, Fixed(Candidate(0, broken), Candidate(1, network(1))), in_turn(ToyEvaluator()))
    assert [e.status for e in evaluations(place).values()] == ["build_error", "ok"]


def test_if_nothing_ever_succeeds_the_search_ends_and_says_why(place: Path) -> None:
    evaluator = ToyEvaluator(failures=dict.fromkeys(range(99), "build_error"))
    with pytest.raises(SearchError, match=rf"first {HOPELESS} candidates must succeed.*build_error, as the test"):
        go(place, Climber(3), in_turn(evaluator), Budget())
    assert len(evaluations(place)) == HOPELESS


# --- what ends a search leaves it resumable --------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a bug"), MemoryError()])
def test_an_exception_from_an_evaluator_ends_the_search_and_it_can_be_resumed(
    error: BaseException, place: Path
) -> None:
    def broken(candidate: Candidate, parents: Mapping[int, Evaluation], done: Done) -> None:
        answer = error if candidate.number == 4 else ToyEvaluator()(candidate, parents)
        threading.Thread(target=done, args=(answer,)).start()

    with pytest.raises(type(error)):
        go(place, founders(*range(1, 9)), broken)
    go(place, founders(*range(1, 9)), in_turn(ToyEvaluator()))
    assert list(evaluations(place)) == list(range(8))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_pauses_the_search(number: int, place: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(number, "no room")

    with pytest.raises(DiskFull, match=r"search a could not be written.*then resume"):
        go(place, founders(1, 2), full)

    def full_in_the_child(candidate: Candidate, _: object) -> Evaluation:
        return Evaluation(candidate.number, "io_error", reason="disk full: weights")

    with pytest.raises(DiskFull, match="child 0: disk full: weights: make room, then resume"):
        go(place, founders(1, 2), in_turn(full_in_the_child))
    go(place, founders(1, 2), in_turn(ToyEvaluator()))
    assert all(evaluation.ok for evaluation in evaluations(place).values())


def test_another_error_of_the_system_is_not_taken_for_a_full_disk(place: Path) -> None:
    def unreadable(*_: object) -> None:
        raise PermissionError(errno.EACCES, "no")

    with pytest.raises(PermissionError):
        go(place, founders(1), unreadable)


# --- resuming --------------------------------------------------------------------------------------------------------


def test_resuming_a_finished_search_changes_nothing(place: Path) -> None:
    go(place, Climber(3), in_turn(ToyEvaluator()))
    before, evaluator = state(place / "a"), ToyEvaluator()
    seen: list[Progress] = []
    progress = go(place, Climber(3), in_turn(evaluator), watch=seen.append)
    assert state(place / "a") == before
    assert not evaluator.calls
    assert progress.spent.evaluations == 12
    assert progress.best
    assert all((p.best, p.front) == (progress.best, progress.front) for p in seen)


def test_a_resumed_search_keeps_to_fewer_slots(place: Path) -> None:
    def stuck(candidate: Candidate, *_: object) -> None:
        if candidate.number == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(place, founders(*range(1, 13)), stuck, slots=6)
    flying: list[int] = []
    order: list[int] = []

    def dispatch(candidate: Candidate, parents: Mapping[int, Evaluation], done: Done) -> None:
        order.append(candidate.number)
        done(ToyEvaluator()(candidate, parents))

    go(place, founders(*range(1, 13)), dispatch, slots=2, watch=lambda p: flying.append(len(p.in_flight)))
    assert max(flying) == 2
    assert order == list(range(12))


@pytest.mark.parametrize(
    "other",
    [
        Candidate(2, network(4)),
        Candidate(2, network(3), (0,)),
        Candidate(2, network(3), (0,), (widened(5), widened(3))),
        Candidate(2, network(3), (1,), (widened(3),)),
        Candidate(2, network(3), (0,), (widened(3),), Fidelity(1)),
        None,
    ],
)
def test_a_strategy_that_changed_its_mind_is_found_out(other: Candidate | None, place: Path) -> None:
    past = [Candidate(0, network(1)), Candidate(1, network(2)), Candidate(2, network(3), (0,), (widened(3),))]
    go(place, Fixed(*past), in_turn(ToyEvaluator()))
    before = state(place / "a")
    with pytest.raises(ReplayDiverged, match=r"candidate 2 was recorded as toy\.width of \[0\].*start a new one"):
        go(place, Fixed(*past[:2], *([other] if other else [])), in_turn(ToyEvaluator()))
    assert state(place / "a") == before


# --- the contract ----------------------------------------------------------------------------------------------------


def test_a_second_answer_for_a_candidate_is_ignored(place: Path) -> None:
    def twice(candidate: Candidate, parents: Mapping[int, Evaluation], done: Done) -> None:
        done(ToyEvaluator(seed=1)(candidate, parents))
        done(ToyEvaluator(seed=2)(candidate, parents))

    go(place, founders(1, 2, 3), twice, slots=2)
    go(place / "b", founders(1, 2, 3), in_turn(ToyEvaluator(seed=1)), slots=2)
    assert state(place / "a") == state(place / "b" / "a")


def test_an_answer_for_another_candidate_is_refused(place: Path) -> None:
    with pytest.raises(ContractBroken, match="evaluation of candidate 0 must say so, it says 7"):
        go(place, founders(1), in_turn(lambda *_: Evaluation(7, "ok")))


@pytest.mark.parametrize("number", [0, 3])
def test_numbers_are_consecutive(number: int, place: Path) -> None:
    with pytest.raises(ContractBroken, match=f"next candidate must be number 1, got {number}"):
        go(place, Fixed(Candidate(0, network(1)), Candidate(number, network(2))), in_turn(ToyEvaluator()))
    assert list(evaluations(place)) == [0]


def test_a_parent_that_was_not_told_is_refused(place: Path) -> None:
    with pytest.raises(ContractBroken, match=r"candidate 1's parents must have been told, \[0\] were not"):
        go(place, Fixed(Candidate(0, network(1)), Candidate(1, network(2), (0,))), lambda *_: None, slots=2)


def test_progress_shows_the_best_and_the_front(place: Path) -> None:
    seen: list[Progress] = []
    go(place, Climber(3), in_turn(ToyEvaluator(failures={1: "timeout"})), watch=seen.append)
    assert seen[0].best is None
    last = seen[-1]
    with Ledger.read(place / "a") as ledger:
        assert last.front == tuple(ledger.front(("error", "parameters")))
        assert replace(last.spent, elapsed_seconds=0.0) == replace(ledger.spent(), elapsed_seconds=0.0)
        assert last.best == min((e for e in ledger.evaluations().values() if e.ok), key=lambda e: e.objectives["error"])
    assert sorted(p.share for p in seen) == [p.share for p in seen]


def test_many_threads_answer_one_loop(place: Path) -> None:
    go(place, Climber(3), in_threads(ToyEvaluator()), Budget(candidates=60), slots=8)
    go(place, Climber(3), in_threads(ToyEvaluator()), Budget(candidates=61), slots=1)  # replays what threads ordered
    assert list(evaluations(place)) == list(range(61))


def test_if_all_that_can_be_proposed_fails_the_search_says_so(place: Path) -> None:
    evaluator = ToyEvaluator(failures={0: "build_error", 1: "timeout"})
    with pytest.raises(SearchError, match=r"nothing to propose.*all 2 candidates failed.*timeout, as the test"):
        go(place, founders(1, 2), in_turn(evaluator))
    assert len(evaluations(place)) == 2
