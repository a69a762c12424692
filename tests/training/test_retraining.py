"""Retraining: from scratch, judged on the parts that it says, and not done again after it landed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from genomes.spaces.residual import ResidualSpace
from search import Candidate, Evaluation, Fidelity, WeightStore
from tests.training.samples import SHAPE
from training import DataSpec, Prepared, Recipe, Trainer, build, load, prepare
from training.evaluate import error
from training.retraining import judge, key, read_before, reading, retrain

SPACE = ResidualSpace(SHAPE, 4)
JOB = Candidate(5, SPACE.starters()[0], fidelity=Fidelity(960))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    spec = DataSpec("tests.training.samples:blobs", second_validation=0.25)
    return prepare(spec, tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trainer(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    place = tmp_path_factory.mktemp("retrain")
    recipe = Recipe(batch_size=32, erasing=0.25, averaging=0.1)
    return Trainer(WeightStore(place / "weights"), prepared, recipe, 7, 60.0, place / "results")


@pytest.fixture(scope="module")
def trained(trainer: Trainer) -> Evaluation:
    return retrain(trainer, JOB)


pytestmark = pytest.mark.usefixtures("one_thread")


def by_hand(trainer: Trainer, evaluation: Evaluation, part: str) -> float:
    network = build(*trainer.store.get(evaluation.weights or ""))
    images, labels = getattr(load(trainer.prepared), part)
    return error(network, images, labels, trainer.prepared.normal)


def test_a_retrained_network_is_judged_on_both_validation_parts(trainer: Trainer, trained: Evaluation) -> None:
    assert trained.ok, trained.reason
    assert trained.objectives["error"] == by_hand(trainer, trained, "validation")
    assert trained.objectives["second_validation_error"] == by_hand(trainer, trained, "second_validation")
    assert trained.cost["lineage_examples"] == 960  # nothing is inherited
    assert trained.certificates == ()


def test_the_test_part_is_read_only_when_it_is_asked_for(trainer: Trainer, trained: Evaluation) -> None:
    weights = trained.weights or ""
    assert read_before(trainer, weights, "test") is None
    outcome = judge(trainer, weights, "test")
    assert outcome.value == {"error": by_hand(trainer, trained, "test")}
    assert read_before(trainer, weights, "test") == outcome


def test_what_landed_is_taken_and_not_trained_again(trainer: Trainer, trained: Evaluation) -> None:
    (file,) = trainer.scratch.glob("5-*.json")
    document = json.loads(file.read_bytes())
    document["seconds"] = 1234.5
    file.write_text(json.dumps(document))
    again = retrain(trainer, JOB)
    assert again.cost["seconds"] == 1234.5
    assert (again.weights, again.objectives) == (trained.weights, trained.objectives)
    assert trainer.needed_weights() == {trained.weights}  # readings lie elsewhere


def test_the_key_names_all_that_determines_a_training_and_nothing_else(trainer: Trainer, tmp_path: Path) -> None:
    others = [
        key(replace(trainer, seed=8), JOB),
        key(replace(trainer, recipe=Recipe(batch_size=32)), JOB),
        key(trainer, replace(JOB, fidelity=Fidelity(961))),
        key(trainer, replace(JOB, genome=SPACE.starters()[1])),
    ]
    assert len({key(trainer, JOB), *others}) == 5
    elsewhere = replace(trainer, store=WeightStore(tmp_path / "weights"), scratch=tmp_path / "results", timeout=9.0)
    assert key(elsewhere, JOB) == key(trainer, JOB)


def test_a_training_that_fails_is_its_failure(trainer: Trainer) -> None:
    wild = Recipe(batch_size=32, learning_rate=100.0, weight_decay=1.0, precision="float32")
    got = retrain(replace(trainer, recipe=wild), replace(JOB, fidelity=Fidelity(32_000)))
    assert (got.status, got.objectives, got.weights) == ("non_finite", {}, None)


def test_weights_that_cannot_be_judged_are_a_failure_that_can_be_mended(trainer: Trainer, trained: Evaluation) -> None:
    missing = "0" * 64
    outcome = judge(trainer, missing, "second_validation")
    assert (outcome.status, read_before(trainer, missing, "second_validation")) == ("io_error", None)
    assert "they are missing" in outcome.reason
    assert reading(trainer, missing, "second_validation").exists()  # as a failure, which is no reading
