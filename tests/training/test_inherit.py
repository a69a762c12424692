"""First weights: what a child begins with is a function of its lineage alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from genomes import expand
from genomes.spaces.residual import ResidualSpace
from morphism import EXACT, Edit, Inapplicable
from morphism.interpreter import values
from morphism.realise import initial
from morphism.tensors import Measured, Source
from search import Candidate, CorruptWeights, Evaluation, WeightStore
from tests.training.samples import SHAPE, blobs
from tests.training.test_trainer import edited
from training import BuildError
from training.inherit import MEASURED, Heritage, Start, inherit
from training.loop import normalised
from training.statistics import reestimate

NORMAL = (0.4, 0.3)
IMAGES = blobs(400)[0]
STARTERS = ResidualSpace(SHAPE, 4).starters()
FOUNDER, OTHER = STARTERS[0], STARTERS[1]
NORM = next(name.removesuffix(".running_mean") for name in initial(FOUNDER, 0) if name.endswith("running_mean"))


@pytest.fixture
def store(tmp_path: Path) -> WeightStore:
    return WeightStore(tmp_path)


def told(store: WeightStore, number: int, seed: int = 0) -> Evaluation:
    return Evaluation(number, "ok", weights=store.put(FOUNDER, initial(FOUNDER, seed)))


def begun(store: WeightStore, candidate: Candidate, *parents: Evaluation, origin: str | None = None) -> Start:
    given = {parent.number: parent for parent in parents}
    return inherit(Heritage.of(candidate, given, 7, origin), store, IMAGES, NORMAL)


def same(start: Start, weights: dict[str, Tensor]) -> bool:
    return all(torch.equal(start.weights[name], weights[name]) for name in weights)


def test_a_heritage_comes_back_from_json(store: WeightStore) -> None:
    parents = {0: told(store, 0), 1: told(store, 1, 1)}
    donated = Edit("cross.donor", {}, FOUNDER, {f"{NORM}.weight": Source(f"{NORM}.weight", donor=1)})
    heritage = Heritage.of(Candidate(2, FOUNDER, (0, 1), (donated,)), parents, 7)
    assert Heritage.from_json(json.loads(json.dumps(heritage.to_json()))) == heritage
    assert (heritage.parent, heritage.donor) == (parents[0].weights, parents[1].weights)
    replayed = Heritage.of(Candidate(2, FOUNDER, (0, 1), tuple(edited(FOUNDER)[:1])), parents, 7)
    assert (replayed.parent, replayed.donor) == (parents[0].weights, None)


def test_a_founder_begins_with_weights_of_its_number(store: WeightStore) -> None:
    first, second = (begun(store, Candidate(number, FOUNDER)) for number in (0, 1))
    assert first.digest == begun(store, Candidate(0, FOUNDER)).digest != second.digest
    assert first.digest == WeightStore.digest(FOUNDER, first.weights)


def test_a_founder_of_the_origins_genome_begins_with_the_origin(store: WeightStore) -> None:
    weights = initial(FOUNDER, 99)
    origin = store.put(FOUNDER, weights)
    assert begun(store, Candidate(3, FOUNDER), origin=origin).digest == origin
    fresh = begun(store, Candidate(3, OTHER))
    assert begun(store, Candidate(3, OTHER), origin=origin).digest == fresh.digest
    parent = told(store, 0)
    assert begun(store, Candidate(3, FOUNDER, (0,)), parent, origin=origin).digest == parent.weights
    weightless = Evaluation(0, "ok", twin=1)  # its child starts afresh
    assert begun(store, Candidate(3, FOUNDER, (0,)), weightless, origin=origin).digest != origin


def test_an_edit_takes_tensors_of_the_second_parent(store: WeightStore) -> None:
    first, second = told(store, 0), told(store, 1, seed=1)
    tensors = {name: Source(name, donor=1) for name in initial(FOUNDER, 0)}
    start = begun(store, Candidate(2, FOUNDER, (0, 1), (Edit("cross.donor", {}, FOUNDER, tensors),)), first, second)
    assert same(start, reestimate(FOUNDER, initial(FOUNDER, 1), IMAGES, NORMAL))
    assert start.certificates[0].verdict


def test_what_only_a_donor_has_is_missing_without_one(store: WeightStore) -> None:
    edit = Edit("cross.donor", {}, FOUNDER, {f"{NORM}.weight": Source(f"{NORM}.weight", donor=1)})
    with pytest.raises(Inapplicable, match=NORM):
        begun(store, Candidate(2, FOUNDER, (0,), (edit,)), told(store, 0))


def test_statistics_are_measured_anew_only_after_a_disruption(store: WeightStore) -> None:
    parent = told(store, 0)
    weights = initial(FOUNDER, 0)
    kept = begun(store, Candidate(1, FOUNDER, (0,), (Edit("nothing", {}, FOUNDER, {}, EXACT),)), parent)
    assert same(kept, weights)
    assert kept.digest == parent.weights
    disrupted = begun(store, Candidate(1, FOUNDER, (0,), (Edit("nothing", {}, FOUNDER),)), parent)
    assert same(disrupted, reestimate(FOUNDER, weights, IMAGES, NORMAL))
    assert disrupted.digest != parent.weights


def test_statistics_of_a_new_norm_are_measured_on_the_first_training_images(store: WeightStore) -> None:
    name, weights = f"{NORM}.running_mean", initial(FOUNDER, 0)
    edit = Edit("measure", {}, FOUNDER, {name: Measured(NORM, "mean", len(weights[name]))}, frozenset({"train"}))
    start = begun(store, Candidate(1, FOUNDER, (0,), (edit,)), told(store, 0))
    (read,) = expand(FOUNDER).primitives[NORM].inputs
    precise = {name: tensor.double() for name, tensor in weights.items()}
    seen = values(FOUNDER, precise, normalised(IMAGES[:MEASURED], NORMAL).double())[read]
    assert torch.allclose(start.weights[name].double(), seen.mean((0, 2, 3)), atol=1e-6)


def test_damaged_weights_and_edits_that_lead_elsewhere_are_refused(store: WeightStore) -> None:
    parent = told(store, 0)
    with pytest.raises(BuildError, match="the edits must lead to genome"):
        begun(store, Candidate(1, OTHER, (0,)), parent)
    with pytest.raises(CorruptWeights, match="missing"):
        begun(store, Candidate(1, FOUNDER, (0,)), replace(parent, weights="0" * 64))
