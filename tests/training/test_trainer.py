from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genomes import Genome, Limits, Module, cost, expand, features
from genomes import operations as ops
from genomes.spaces.residual import ResidualSpace
from morphism import CATALOGUE, Edit, Inapplicable
from morphism.tensors import Constant, Source
from search import INFRASTRUCTURAL, Candidate, Evaluation, Fidelity, Status, WeightStore
from tests.training.samples import SHAPE
from training import DataSpec, Prepared, Recipe, Trainer, build, load, prepare, worker
from training.child import evaluate
from training.evaluate import error
from training.worker import Outcome

LIGHT = Fidelity(640)
FOUNDER = ResidualSpace(SHAPE, 4).starters()[0]
REPEATING = ResidualSpace(SHAPE, 4).starters()[3]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(DataSpec("tests.training.samples:blobs"), tmp_path_factory.mktemp("data"))


@pytest.fixture
def trainer(prepared: Prepared, tmp_path: Path) -> Trainer:
    return Trainer(WeightStore(tmp_path / "weights"), prepared, Recipe(batch_size=32), 7, 60.0, tmp_path / "scratch")


def edited(genome: Genome, seed: int = 0) -> list[Edit]:
    """Returns one edit of each morphism that fits."""
    rng, edits = random.Random(seed), []
    for morphism in CATALOGUE:
        for site in morphism.sites(genome)[:1]:
            try:
                edits.append(morphism.plan(genome, site, rng))
            except Inapplicable:
                continue
    return edits


def test_a_founder_is_trained_judged_and_stored(trainer: Trainer) -> None:
    got = trainer(Candidate(0, FOUNDER, fidelity=LIGHT), {})
    counted = cost(FOUNDER)
    assert (got.number, got.status, got.reason, got.certificates) == (0, "ok", "", ())
    assert set(got.objectives) == {"error", "parameters", "macs", "activation_bytes"}
    assert got.objectives["parameters"] == counted.parameters
    assert got.features == features(FOUNDER)
    assert got.cost["examples"] == got.cost["lineage_examples"] == 640
    assert got.cost["train_macs"] == got.cost["lineage_train_macs"] == 3 * counted.macs * 640
    assert got.cost["seconds"] == got.cost["lineage_seconds"] > 0
    assert 5 <= len(got.curve) <= 10
    assert got.curve[-1]["validation_error"] == got.objectives["error"] < 0.7
    assert got.weights
    genome, weights = trainer.store.get(got.weights)
    assert genome == FOUNDER
    assert sum(weights[name].numel() for name in weights if "running" not in name) == counted.parameters


def test_the_same_job_gives_the_same_weights_bit_for_bit(trainer: Trainer, tmp_path: Path) -> None:
    candidate = Candidate(3, FOUNDER, fidelity=LIGHT)
    first = trainer(candidate, {})
    elsewhere = replace(trainer, store=WeightStore(tmp_path / "others"), scratch=tmp_path / "other")
    again = elsewhere(candidate, {})
    assert (again.weights, again.objectives, again.curve) == (first.weights, first.objectives, first.curve)
    assert again.cost["examples"] == first.cost["examples"]
    other = trainer(replace(candidate, number=4), {})
    assert other.weights != first.weights


def test_a_child_pays_for_the_ancestors_of_a_donor_only_if_it_takes_its_tensors(trainer: Trainer) -> None:
    parents = {number: trainer(Candidate(number, REPEATING, fidelity=LIGHT), {}) for number in (0, 1)}
    name = next(iter(expand(REPEATING).tensor_shapes()))
    donated = Edit("cross.donor", {}, REPEATING, {name: Source(name, donor=1)})
    replayed = edited(REPEATING)[0]
    for edit, paid in ((donated, 3 * 640), (replayed, 2 * 640)):
        got = trainer(Candidate(2, edit.genome, (0, 1), (edit,), LIGHT), parents)
        assert got.ok, got.reason
        assert got.cost["lineage_examples"] == paid


def test_a_child_inherits_is_certified_and_pays_for_its_ancestors(trainer: Trainer) -> None:
    parent = trainer(Candidate(0, REPEATING, fidelity=LIGHT), {})
    first = edited(REPEATING)[0]
    second = edited(first.genome, 1)[2]
    candidate = Candidate(1, second.genome, (0,), (first, second), LIGHT)
    got = trainer(candidate, {0: parent})
    assert got.ok, got.reason
    assert [certificate.rule for certificate in got.certificates] == [first.rule, second.rule]
    assert all(certificate.verdict for certificate in got.certificates)
    assert got.certificates[0].child == got.certificates[1].parent == first.genome.digest
    assert got.cost["lineage_examples"] == 1280
    assert got.cost["lineage_seconds"] == pytest.approx(got.cost["seconds"] + parent.cost["seconds"])


def test_every_morphism_is_realised_and_trained(trainer: Trainer) -> None:
    parent = trainer(Candidate(0, REPEATING, fidelity=LIGHT), {})
    edits = edited(REPEATING)
    assert len(edits) >= 7
    for number, edit in enumerate(edits, 1):
        got = trainer(Candidate(number, edit.genome, (0,), (edit,), Fidelity(32)), {0: parent})
        assert got.ok, f"{edit.rule}: {got.reason}"


def test_the_control_goes_on_from_its_parents_weights(trainer: Trainer) -> None:
    parent = trainer(Candidate(0, FOUNDER, fidelity=Fidelity(6400)), {})
    tender = replace(trainer, recipe=Recipe(batch_size=32, learning_rate=0.001))
    control = tender(Candidate(1, FOUNDER, (0,), (), Fidelity(32)), {0: parent})
    scratch = tender(Candidate(2, FOUNDER, (), (), Fidelity(32)), {})
    assert control.curve[0]["loss"] < scratch.curve[0]["loss"] - 0.3
    assert control.certificates == ()


def test_a_parents_weights_are_never_changed(trainer: Trainer) -> None:
    parent = trainer(Candidate(0, FOUNDER, fidelity=LIGHT), {})
    assert parent.weights
    before = trainer.store.path(parent.weights).read_bytes()
    assert trainer(Candidate(1, FOUNDER, (0,), (), LIGHT), {0: parent}).weights != parent.weights
    assert trainer.store.path(parent.weights).read_bytes() == before


def test_an_edit_that_breaks_its_promise_never_trains(trainer: Trainer) -> None:
    parent = trainer(Candidate(0, FOUNDER, fidelity=LIGHT), {})
    edit = next(edit for edit in edited(FOUNDER) if edit.rule == "deepen.residual")
    zeros = [name for name, made in edit.tensors.items() if isinstance(made, Constant) and name.endswith(".weight")]
    assert zeros
    wrong = {name: Constant(edit.tensors[name].shape, 1.0) for name in zeros}
    liar = replace(edit, tensors={**edit.tensors, **wrong})
    got = trainer(Candidate(1, edit.genome, (0,), (liar,), LIGHT), {0: parent})
    assert got.status == "build_error"
    assert "failed its certificate" in got.reason
    assert (got.curve, got.weights, got.objectives) == ((), None, {})
    assert got.cost["examples"] == 0
    assert got.cost["lineage_examples"] == 640


def test_edits_that_lead_elsewhere_are_refused(trainer: Trainer) -> None:
    parent = trainer(Candidate(0, FOUNDER, fidelity=LIGHT), {})
    got = trainer(Candidate(1, REPEATING, (0,), (), LIGHT), {0: parent})
    assert got.status == "build_error"
    assert "the edits must lead to genome" in got.reason


def test_damaged_weights_are_told_and_can_be_tried_again(trainer: Trainer) -> None:
    parent = trainer(Candidate(0, FOUNDER, fidelity=LIGHT), {})
    assert parent.weights
    path, candidate = trainer.store.path(parent.weights), Candidate(1, FOUNDER, (0,), (), LIGHT)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    got = trainer(candidate, {0: parent})
    assert got.status == "io_error"
    assert "damaged" in got.reason
    path.write_bytes(whole)
    assert trainer(candidate, {0: parent}).ok


def test_a_removed_data_file_fails_no_candidate_for_good(trainer: Trainer, prepared: Prepared, tmp_path: Path) -> None:
    gone = replace(trainer, prepared=replace(prepared, file=tmp_path / "gone.safetensors"))
    got = gone(Candidate(0, FOUNDER, fidelity=LIGHT), {})
    assert got.status in INFRASTRUCTURAL
    assert "gone.safetensors" in got.reason


def test_a_genome_that_cannot_be_built_is_a_build_error(trainer: Trainer) -> None:
    broken = Genome.of({"net": Module.of({"image": ops.Input(0, SHAPE), "out": ops.Output()}, [])})
    assert trainer(Candidate(0, broken, fidelity=LIGHT), {}).status == "build_error"


def test_an_explosion_is_non_finite(trainer: Trainer) -> None:
    wild = replace(trainer, recipe=Recipe(batch_size=32, learning_rate=100.0, weight_decay=1.0, precision="float32"))
    got = wild(Candidate(0, FOUNDER, fidelity=Fidelity(32000)), {})
    assert got.status == "non_finite"
    assert got.objectives == {}


def test_a_child_that_takes_too_long_is_killed(trainer: Trainer) -> None:
    got = replace(trainer, timeout=0.3)(Candidate(0, FOUNDER, fidelity=Fidelity(10**7)), {})
    assert got.status == "timeout"
    assert got.cost["seconds"] >= 0.3
    assert list(trainer.store.directory.iterdir()) == []


def test_a_result_that_landed_is_taken_instead_of_training_again(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = Candidate(0, FOUNDER, fidelity=LIGHT)
    first = trainer(candidate, {})
    assert trainer.needed_weights() == {first.weights}

    def never(*_: object, **__: object) -> Outcome:
        raise AssertionError("trained again")

    monkeypatch.setattr("training.pool.run_isolated", never)
    assert trainer(candidate, {}) == replace(first, slot=None)
    for other in (replace(trainer, seed=8), replace(trainer, recipe=Recipe(batch_size=64))):
        with pytest.raises(AssertionError, match="trained again"):
            other(candidate, {})
    trainer.clear({0})
    assert list(trainer.scratch.iterdir()) == []
    with pytest.raises(AssertionError, match="trained again"):
        trainer(candidate, {})


def test_a_landed_result_without_its_weights_is_trained_again(trainer: Trainer) -> None:
    candidate = Candidate(0, FOUNDER, fidelity=LIGHT)
    first = trainer(candidate, {})
    trainer.store.collect(set())
    again = trainer(candidate, {})
    assert again.weights == first.weights
    assert again.weights
    assert trainer.store.path(again.weights).exists()


@pytest.mark.parametrize("status", ["lost", "out_of_memory"])
def test_a_failure_that_may_pass_is_not_harvested(
    status: Status, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate, ends = Candidate(0, FOUNDER, fidelity=LIGHT), [Outcome(status, 1.0, "gone"), Outcome("ok", 1.0)]

    def landing(*_: object, result: Path, timeout: float) -> Outcome:
        assert timeout == 60.0
        worker._write(ends[0], result)
        return ends.pop(0)

    monkeypatch.setattr("training.pool.run_isolated", landing)
    shared = replace(trainer, sole=False)  # else what ran out of memory is tried alone at once
    assert [shared(candidate, {}).status for _ in range(2)] == [status, "ok"]


def test_a_parent_without_weights_is_a_fresh_start(trainer: Trainer) -> None:
    twin = Evaluation(0, "ok", {"error": 0.5}, {"lineage_examples": 100.0}, twin=5)
    edit = edited(FOUNDER)[0]
    got = trainer(Candidate(1, edit.genome, (0,), (edit,), LIGHT), {0: twin})
    assert got.ok
    assert got.certificates == ()
    assert got.cost["lineage_examples"] == 740


def test_training_in_the_child_does_not_depend_on_the_parents_threads(trainer: Trainer, tmp_path: Path) -> None:
    before, found = torch.get_num_threads(), set[str | None]()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            own = replace(trainer, scratch=tmp_path / str(threads))
            found.add(own(Candidate(9, FOUNDER, fidelity=LIGHT), {}).weights)
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1
    assert None not in found


def test_digits_are_learned_in_seconds(tmp_path: Path) -> None:
    prepared = prepare(DataSpec("digits"), tmp_path)
    trainer = Trainer(WeightStore(tmp_path / "weights"), prepared, Recipe(batch_size=64), 0, 60.0, tmp_path / "scratch")
    got = trainer(Candidate(0, ResidualSpace((1, 8, 8), 10).starters()[0], fidelity=Fidelity(12_000)), {})
    assert got.objectives["error"] < 0.2, "chance is 0.9"


def test_a_network_over_the_limits_is_not_built(trainer: Trainer) -> None:
    narrow = replace(trainer, limits=Limits(parameters=10))
    evaluation = narrow(Candidate(0, FOUNDER, fidelity=LIGHT), {})
    assert evaluation.status == "over_budget"
    assert "parameters must be at most 10" in evaluation.reason
    assert not list(narrow.scratch.iterdir())


def test_a_short_schedule_is_judged_on_the_first_images_only(
    trainer: Trainer, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    got = trainer(Candidate(0, FOUNDER, fidelity=LIGHT), {})
    assert got.curve[-1]["validation_images"] == prepared.sizes["validation"], "there are fewer than the least"
    validation = load(prepared).validation
    monkeypatch.setattr("training.evaluate.LEAST", 11)
    request = trainer.request(Candidate(0, FOUNDER, fidelity=Fidelity(64)), {})
    few = evaluate(request, str(prepared.file), str(trainer.store.directory))
    assert few["curve"][-1]["validation_images"] == 16
    alone = error(
        build(*trainer.store.get(few["weights"])), validation.images[:16], validation.labels[:16], prepared.normal
    )
    assert few["objectives"]["error"] == alone


def test_the_precision_that_was_measured_is_a_part_of_the_request(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate, found = Candidate(0, FOUNDER, fidelity=LIGHT), []
    for fast in (True, False):
        monkeypatch.setattr("training.loop.fast_bfloat16", lambda _, fast=fast: fast)
        found.append(trainer.request(candidate, {})["recipe"]["precision"])
    assert found == ["bfloat16", "float32"]
    given = replace(trainer, recipe=Recipe(precision="bfloat16"))
    assert given.request(candidate, {})["recipe"]["precision"] == "bfloat16"
