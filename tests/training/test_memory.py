"""What becomes of a child for which there is no memory: one more try alone, a recorded failure, a lesson."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genomes import Genome, cost
from genomes.spaces.residual import ResidualSpace
from search import Budget, Candidate, Done, Evaluation, Fidelity, Ledger, WeightStore, drive
from tests.training import jobs
from tests.training.samples import SHAPE
from training import DataSpec, Prepared, Recipe, Trainer, prepare
from training.child import evaluate
from training.inherit import Heritage
from training.pool import Pool
from training.slots import Slot
from training.worker import Outcome

LIGHT = Fidelity(64)
SPACE = ResidualSpace(SHAPE, 4)
SMALL, MIDDLE, LARGE, HUGE = (SPACE.member(width, [1]) for width in (4, 8, 16, 2048))  # the last has 300 MB of weights
HALVES = (Slot("cpu:0", share=0.5), Slot("cpu:1", share=0.5))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(DataSpec("tests.training.samples:blobs"), tmp_path_factory.mktemp("data"))


def trainer(prepared: Prepared, place: Path, pool: Pool) -> Trainer:
    return Trainer(WeightStore(place / "weights"), prepared, Recipe(), 7, 60.0, place / "scratch", pool=pool)


def test_a_warm_slot_gives_the_weights_of_a_cold_one_bit_for_bit(prepared: Prepared, tmp_path: Path) -> None:
    warm = trainer(prepared, tmp_path / "warm", Pool([Slot("cpu:0", warm=True)]))
    cold = trainer(prepared, tmp_path / "cold", Pool([Slot("cpu:0")]))
    try:
        for number, genome in enumerate([SMALL, MIDDLE, SMALL]):
            candidate = Candidate(number, genome, fidelity=LIGHT)
            one, other = warm(candidate, {}), cold(candidate, {})
            assert one.ok, one.reason
            assert one == replace(other, cost=one.cost)
    finally:
        warm.pool.close()


def test_an_evaluation_says_in_which_slot_it_was_made(prepared: Prepared, tmp_path: Path) -> None:
    assert trainer(prepared, tmp_path, Pool([Slot("cpu:7")]))(Candidate(0, SMALL, fidelity=LIGHT), {}).slot == "cpu:7"


def test_who_runs_out_of_memory_in_company_is_tried_once_more_alone(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = trainer(prepared, tmp_path, Pool(HALVES))
    monkeypatch.setattr("training.trainer.evaluate", jobs.fitting_alone)
    got = evaluator(Candidate(0, MIDDLE, fidelity=LIGHT), {})
    assert (got.status, got.slot) == ("ok", "cpu alone")
    assert evaluator.pool.occupied() == ()
    assert evaluator.lessons.refusal("cpu", MIDDLE) is None, "it fits"


def test_a_network_that_does_not_fit_is_a_recorded_failure_and_what_needs_no_less_is_refused(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = trainer(prepared, tmp_path, Pool(HALVES))
    monkeypatch.setattr("training.trainer.evaluate", jobs.cramped)
    assert evaluator(Candidate(0, SMALL, fidelity=LIGHT), {}).ok
    failed = evaluator(Candidate(1, HUGE, fidelity=LIGHT), {})
    assert (failed.status, failed.slot) == ("out_of_memory", "cpu alone"), failed.reason
    assert failed.cost["seconds"] > 0
    refused = evaluator(Candidate(2, HUGE, fidelity=LIGHT), {})
    assert (refused.status, refused.slot, refused.cost) == ("over_budget", None, {})
    assert "must be smaller than candidate 1, which ran out of memory alone" in refused.reason
    assert evaluator(Candidate(3, SMALL, fidelity=LIGHT), {}).ok


class Bounded(Pool):
    """Trains nothing: what is over a number of parameters does not fit, alone or not."""

    def __init__(self, parameters: int) -> None:
        super().__init__(HALVES)
        self.parameters = parameters
        self.tries = list[tuple[str, str]]()

    def run(self, slot: Slot, function: Callable[..., Mapping[str, Any]], *arguments: Any, **_: Any) -> Outcome:
        assert function is evaluate
        genome = Heritage.from_json(json.loads(json.dumps(arguments[0]))["heritage"]).genome
        self.tries.append((slot.name, genome.digest))
        if cost(genome).parameters > self.parameters:
            return Outcome("out_of_memory", 2.0, "CUDA out of memory")
        return Outcome("ok", 1.0, value={"objectives": {"error": 0.5}, "cost": {"examples": 64}})


def test_a_second_failure_alone_is_final_and_pays_for_both_tries(prepared: Prepared, tmp_path: Path) -> None:
    pool = Bounded(cost(MIDDLE).parameters)
    got = trainer(prepared, tmp_path, pool)(Candidate(0, LARGE, fidelity=LIGHT), {})
    assert [name for name, _ in pool.tries] == ["cpu:0", "cpu alone"]
    assert (got.status, got.reason, got.cost["seconds"]) == ("out_of_memory", "CUDA out of memory", 4.0)


def test_where_others_use_the_device_too_nobody_is_alone_and_nothing_is_learnt(
    prepared: Prepared, tmp_path: Path
) -> None:
    pool = Bounded(cost(MIDDLE).parameters)
    evaluator = replace(trainer(prepared, tmp_path, pool), sole=False)
    got = evaluator(Candidate(0, LARGE, fidelity=LIGHT), {})
    assert [name for name, _ in pool.tries] == ["cpu:0"]
    assert (got.status, got.slot, got.cost["seconds"]) == ("out_of_memory", "cpu:0", 2.0)
    assert evaluator.lessons.refusal("cpu", LARGE) is None


class Listed:
    """Proposes what it is given."""

    def __init__(self, genomes: Sequence[Genome]) -> None:
        self.candidates = [Candidate(number, genome, fidelity=LIGHT) for number, genome in enumerate(genomes)]
        self.asked = 0

    def ask(self, n: int) -> Sequence[Candidate]:
        found = self.candidates[self.asked : self.asked + n]
        self.asked += len(found)
        return found

    def tell(self, candidate: Candidate, evaluation: Evaluation) -> None:
        pass


GENOMES = [SPACE.member(width, [1]) for width in (4, 20, 8, 12, 16, 24, 6)]


def searched(prepared: Prepared, place: Path, stop_at: int | None = None) -> list[tuple[str, str]]:
    """Runs or resumes a search in one slot, and returns what was tried; it is killed as a candidate is started."""
    pool = Bounded(cost(MIDDLE).parameters)
    evaluator = trainer(prepared, place, pool)

    def dispatch(candidate: Candidate, parents: Mapping[int, Evaluation], done: Done) -> None:
        if candidate.number == stop_at:
            raise KeyboardInterrupt
        done(evaluator(candidate, parents))

    with Ledger.create(place / "ledger", {}) as ledger:
        evaluator.recall(ledger.candidates(), ledger.evaluations())
        drive(Listed(GENOMES), dispatch, ledger, Budget(candidates=len(GENOMES)))
    return pool.tries


def recorded(place: Path) -> list[Evaluation]:
    with Ledger.read(place / "ledger") as ledger:
        return [*ledger.evaluations().values()]


@pytest.mark.parametrize("stop_at", range(len(GENOMES)))
def test_a_resumed_search_refuses_what_the_uninterrupted_one_refuses(
    stop_at: int, prepared: Prepared, tmp_path: Path
) -> None:
    searched(prepared, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        searched(prepared, tmp_path / "torn", stop_at)
    tried = searched(prepared, tmp_path / "torn")
    assert recorded(tmp_path / "torn") == recorded(tmp_path / "whole")
    statuses = [evaluation.status for evaluation in recorded(tmp_path / "whole")]
    assert statuses == ["ok", "out_of_memory", "ok", "out_of_memory", "over_budget", "over_budget", "ok"]
    assert "candidate 1," in recorded(tmp_path / "whole")[5].reason
    assert "candidate 3," in recorded(tmp_path / "whole")[4].reason
    assert not {digest for _, digest in tried} & {genome.digest for genome in GENOMES[4:6]}
