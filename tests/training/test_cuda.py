"""Training on a real CUDA device; skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genomes.spaces.residual import ResidualSpace
from search import Candidate, Evaluation, Fidelity, WeightStore
from tests.training.samples import SHAPE
from training import DataSpec, Recipe, Trainer, prepare
from training.pool import Pool
from training.slots import cuda_slots

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]
SPACE = ResidualSpace(SHAPE, 4)
FOUNDER = SPACE.starters()[0]


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[Trainer]:
    prepared = prepare(DataSpec("tests.training.samples:blobs"), tmp_path)
    recipe, pool = Recipe(batch_size=32, crop=1, flip=True), Pool(cuda_slots([0], 2))
    yield Trainer(WeightStore(tmp_path / "weights"), prepared, recipe, 7, 300.0, tmp_path / "scratch", pool=pool)
    pool.close()


def test_a_child_is_trained_on_the_device_and_its_seed_reproduces(trainer: Trainer, tmp_path: Path) -> None:
    again = replace(trainer, scratch=tmp_path / "again")
    candidate = Candidate(0, FOUNDER, fidelity=Fidelity(6400))
    first, second = trainer(candidate, {}), again(candidate, {})
    assert first.ok, first.reason
    assert first.slot == "cuda:0/0"
    assert first.objectives["error"] < 0.5, "chance is 0.75"
    assert (second.weights, second.curve) == (first.weights, first.curve)


def test_first_weights_do_not_depend_on_the_device(trainer: Trainer, tmp_path: Path) -> None:
    parents: dict[int, Evaluation] = {}
    candidate = Candidate(0, FOUNDER, fidelity=Fidelity(64))
    elsewhere = Trainer(trainer.store, trainer.prepared, trainer.recipe, 7, 300.0, tmp_path / "cpu")
    assert trainer(candidate, parents).initial == elsewhere(candidate, parents).initial
