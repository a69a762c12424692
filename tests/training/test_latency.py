"""Latency, really measured: it grows with the work, alternates with the reference, and comes with its machine."""

from __future__ import annotations

import fcntl
import math
import statistics
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from genomes.spaces.residual import ResidualSpace
from morphism.realise import initial
from search import Candidate, Fidelity, WeightStore, records
from tests.training.samples import SHAPE
from training import DataSpec, Prepared, Recipe, Trainer, build, prepare
from training.child import evaluate, evaluate_timed
from training.evaluate import BATCH
from training.latency import Latency, latency, machine, processor, reference
from training.measurement import LatencySettings
from training.stillness import ROOM, Stillness

LIGHT, QUICK = Fidelity(64), LatencySettings(repeats=10)
FOUNDER = ResidualSpace(SHAPE, 4).starters()[0]
TIMED = {"latency_seconds", "latency_ratio"}


class Sleeper(nn.Module):
    """Takes as long as it is told to, call by call, and remembers how it was called."""

    def __init__(self, *seconds: float) -> None:
        super().__init__()
        self.naps, self.seen = list(seconds), list[tuple[object, ...]]()

    def forward(self, images: Tensor) -> Tensor:
        grads = torch.is_grad_enabled()
        self.seen.append((tuple(images.shape), self.training, grads, torch.is_inference_mode_enabled()))
        time.sleep(self.naps.pop(0) if len(self.naps) > 1 else self.naps[0])
        return images


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(DataSpec("tests.training.samples:blobs"), tmp_path_factory.mktemp("data"))


@pytest.fixture
def trainer(prepared: Prepared, tmp_path: Path) -> Trainer:
    store = WeightStore(tmp_path / "weights")
    return Trainer(store, prepared, Recipe(batch_size=32), 7, 60.0, tmp_path / "scratch", latency=QUICK)


def test_a_network_that_takes_twenty_milliseconds_is_measured_to_take_them() -> None:
    got = latency(Sleeper(0.02), SHAPE, QUICK)
    assert 0.02 <= got.seconds < 0.03
    assert got.objectives == {"latency_seconds": got.seconds, "latency_ratio": got.seconds / got.reference_seconds}


def test_the_shortest_run_counts_and_the_warm_up_does_not() -> None:
    first_is_fast = Sleeper(0.0, 0.03, 0.03, 0.01, 0.03)
    assert 0.01 <= latency(first_is_fast, SHAPE, LatencySettings(repeats=8, warmup=1)).seconds < 0.025


def test_it_is_run_in_eval_and_inference_mode_on_the_batch_that_is_asked_for() -> None:
    sleeper = Sleeper(0.0)
    latency(sleeper, SHAPE, LatencySettings(batch_size=3, repeats=7, warmup=2))
    assert sleeper.seen == [((3, *SHAPE), False, False, True)] * 9


def test_more_work_takes_longer() -> None:
    space = ResidualSpace((1, 28, 28), 10)
    small, large = (space.member(width, [1, 1]) for width in (4, 48))
    networks = [build(genome, initial(genome, 0)) for genome in (small, large)]
    taken = [latency(network, space.shape, QUICK).seconds for network in networks]
    assert taken[1] > 1.5 * taken[0]


def test_the_reference_network_is_always_the_same_and_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    one, two = reference().state_dict(), reference().state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert torch.equal(before, torch.random.get_rng_state())


def test_candidate_and_reference_alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Noted(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            calls.append("reference")
            return images

    sleeper = Sleeper(0.0)
    sleeper.register_forward_hook(lambda *_: calls.append("candidate"))
    monkeypatch.setattr("training.latency.reference", Noted)
    latency(sleeper, SHAPE, LatencySettings(repeats=5, warmup=1))
    assert calls == ["candidate", "reference"] * 6


def test_the_machine_is_named(tmp_path: Path) -> None:
    told = machine(QUICK)
    assert told["threads"] == str(torch.get_num_threads())
    assert (told["torch"], told["precision"], told["batch_size"]) == (torch.__version__, "float32", "1")
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Abacus 9\nmodel name\t: Abacus 9\n")
    assert processor(tmp_path / "cpuinfo").startswith("Abacus 9, ")
    assert processor(tmp_path / "none").endswith(" cores")


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"repeats": 4}, {"warmup": 0}])
def test_settings_that_measure_nothing_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"latency.{next(iter(wrong))} must be in"):
        LatencySettings(**wrong)


def test_a_trained_child_has_a_latency_and_its_machine_and_the_record_keeps_both(trainer: Trainer) -> None:
    got = trainer(Candidate(0, FOUNDER, fidelity=LIGHT), {})
    assert got.ok, got.reason
    assert set(got.objectives) > TIMED
    assert 0 < got.objectives["latency_seconds"] < 1
    assert got.machine["threads"] == "1", "a child has one, whatever this process has"
    assert records.evaluation(records.evaluation_json(got)) == got


def test_a_child_gives_way_before_each_step_and_each_judgement(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halts = list[str]()
    with Stillness(tmp_path) as stillness:
        monkeypatch.setattr(stillness, "give_way", lambda: halts.append("halt"))
        candidate = Candidate(0, FOUNDER, fidelity=Fidelity(64))
        places = [str(path) for path in (trainer.prepared.file, trainer.store.directory)]
        evaluate(trainer.request(candidate, {}), *places, stillness=stillness)
    batches = trainer.prepared.sizes["validation"] / BATCH
    assert len(halts) == math.ceil(64 / trainer.recipe.batch_size) + math.ceil(batches)


def test_without_the_setting_nothing_is_measured_and_the_weights_are_the_same(trainer: Trainer, tmp_path: Path) -> None:
    candidate = Candidate(0, FOUNDER, fidelity=LIGHT)
    timed = trainer(candidate, {})
    plain = replace(trainer, latency=None, scratch=tmp_path / "other")(candidate, {})
    assert TIMED.isdisjoint(plain.objectives)
    assert plain.machine == {}
    assert plain.weights == timed.weights
    assert not list((tmp_path / "other").glob("still.*"))


@pytest.mark.parametrize("promotes", [None, 0])
def test_a_child_without_edits_takes_over_what_was_measured_of_its_parent(
    trainer: Trainer, promotes: int | None
) -> None:
    parent = trainer(Candidate(0, FOUNDER, fidelity=LIGHT), {})
    measured = replace(parent, objectives={**parent.objectives, "latency_seconds": 0.5, "latency_ratio": 9.0})
    control = trainer(Candidate(1, FOUNDER, (0,), (), LIGHT, promotes), {0: measured})
    assert (control.objectives["latency_seconds"], control.objectives["latency_ratio"]) == (0.5, 9.0)
    assert control.machine == parent.machine
    elsewhere = replace(measured, machine={**measured.machine, "processor": "another"})
    assert trainer(Candidate(3, FOUNDER, (0,), (), LIGHT), {0: elsewhere}).objectives["latency_seconds"] < 0.5
    unmeasured = replace(parent, objectives={"error": 0.5}, machine={})
    assert trainer(Candidate(2, FOUNDER, (0,), (), LIGHT), {0: unmeasured}).objectives["latency_seconds"] < 0.5


def test_repeated_measurements_agree() -> None:
    network = build(FOUNDER, initial(FOUNDER, 0))
    found = [latency(network, SHAPE, LatencySettings()).seconds for _ in range(5)]
    assert statistics.median(found) < 1.5 * min(found)


def test_while_a_child_is_measured_nobody_else_is_in_the_room(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doors = list[str]()

    def watched(*_: object) -> Latency:
        with (tmp_path / ROOM).open("ab") as room:
            try:
                fcntl.flock(room, fcntl.LOCK_SH | fcntl.LOCK_NB)
                doors.append("open")
            except BlockingIOError:
                doors.append("closed")
        return Latency(1.0, 2.0)

    monkeypatch.setattr("training.child.latency", watched)
    request = trainer.request(Candidate(0, FOUNDER, fidelity=LIGHT), {})
    places = [str(path) for path in (trainer.prepared.file, trainer.store.directory)]
    got = evaluate_timed(request, *places, "cpu", 1.0, str(tmp_path))
    assert (doors, got["objectives"]["latency_ratio"]) == (["closed"], 0.5)
