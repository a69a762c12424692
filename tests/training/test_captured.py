"""A captured step does what the step does, on a CPU with a tape in the place of CUDA's graphs; and what prevents it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from genomes import Genome, expand
from genomes import operations as ops
from morphism.realise import initial
from search import Fidelity
from tests.drawing import CLASSES, SHAPE, seeded_genome
from tests.training.tape import Recorder, Tape, pretending, tensors
from tests.training.test_loop import PLAIN, trained
from training import Recipe, build, captured, loop, state
from training.captured import LEAST, WARM, repeated
from training.loop import augmented, train
from training.worker import failure

ALL = Recipe(batch_size=32, flip=True, crop=2, erasing=0.5, averaging=0.3, precision="bfloat16")
RECIPES = [PLAIN, ALL, replace(ALL, momentum=0.0, precision="float32")]
CPU = torch.device("cpu")
NORMAL = (0.3, 0.4)
Weights = dict[str, Tensor]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tape]]:
    with pretending(monkeypatch) as made:
        yield made


def uncaptured(monkeypatch: pytest.MonkeyPatch, recipe: Recipe, **given: Any) -> tuple[Weights, list[Any]]:
    """Trains as `trained` on a device where no schedule pays for a capture."""
    with monkeypatch.context() as patch:
        patch.setattr(captured, "LEAST", 10**9)
        return trained(recipe, **given)


def same(first: Weights, second: Weights) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("recipe", RECIPES, ids=["plain", "all", "without momentum"])
def test_steps_from_a_graph_give_the_weights_of_steps_that_are_launched(
    recipe: Recipe, tapes: list[Tape], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, curve = trained(recipe)
    assert [tape.replays for tape in tapes] == [100 - WARM]
    assert tapes[0].closed
    launched, points = uncaptured(monkeypatch, recipe)
    assert len(tapes) == 1
    assert curve == points
    assert same(weights, launched)


@pytest.mark.parametrize("recipe", RECIPES, ids=["plain", "all", "without momentum"])
def test_what_a_device_computes_is_what_the_cpu_computes_but_for_rounding(recipe: Recipe, tapes: list[Tape]) -> None:
    weights, curve = trained(recipe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captured, "capturable", lambda _: False)
        plain, points = trained(recipe)
    assert [point["loss"] for point in curve] == pytest.approx([point["loss"] for point in points], rel=1e-3)
    for name, tensor in plain.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-2, atol=1e-3)


def test_each_launch_of_a_graph_reads_the_rate_and_draws_anew(tapes: list[Tape]) -> None:
    weight, rate, shown = torch.zeros(1), torch.zeros(()), list[Tensor]()
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        drawn.copy_(torch.rand(1, generator=generator))
        weight.add_(rate * drawn)

    drawn = torch.zeros(1)
    with repeated(step, LEAST, CPU, [generator]) as advance:
        for number in range(LEAST):
            rate.fill_(number)
            advance()
            shown.append(drawn.clone())
    again = torch.Generator().manual_seed(0)
    wanted = [torch.rand(1, generator=again) for _ in range(LEAST)]
    assert shown == wanted
    assert weight.item() == pytest.approx(float(sum(number * one for number, one in enumerate(wanted))), rel=1e-5)
    assert tapes[0].replays == LEAST - WARM


def test_short_schedules_are_not_captured(tapes: list[Tape]) -> None:
    trained(PLAIN, examples=32 * (LEAST - 1))
    assert tapes == []
    trained(PLAIN, examples=32 * LEAST)
    assert [tape.replays for tape in tapes] == [LEAST - WARM]


def test_on_the_cpu_the_step_itself_is_run() -> None:
    def step() -> None:
        pass

    with repeated(step, 10**6, CPU, []) as advance:
        assert advance is step
    assert not captured.capturable(CPU)
    assert captured.capturable(torch.device("cuda", 1))


def broken(where: str) -> Any:
    """Returns a recording that fails before or after the step was called, and hides why, as leaving a capture does."""

    def record(graph: Tape, step: Any, generators: Sequence[torch.Generator]) -> None:
        if where == "at once":
            raise RuntimeError("CUDA error: no capture here")
        try:
            graph.record(step, generators)
            for generator in generators:
                generator.manual_seed(5)  # for the state in which torch may leave them
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    return record


@pytest.mark.parametrize("where", ["at once", "in the end"])
def test_what_cannot_be_captured_is_launched_to_the_same_result(
    where: str, tapes: list[Tape], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted, points = uncaptured(monkeypatch, ALL)
    monkeypatch.setattr(captured, "record", broken(where))
    with caplog.at_level(logging.WARNING):
        weights, curve = trained(ALL)
    assert curve == points
    assert same(weights, wanted)
    assert len(caplog.records) == 1
    assert {"at once": "no capture here", "in the end": "operation not permitted"}[where] in caplog.text
    trained(PLAIN)
    assert len(tapes) == 1, "a process with a broken graph captures no more"
    assert tapes == captured.BROKEN


@pytest.mark.parametrize("hidden", [False, True])
def test_memory_that_runs_out_in_a_capture_is_no_reason_to_go_on(
    hidden: bool, tapes: list[Tape], monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(graph: Tape, step: Any, generators: Sequence[torch.Generator]) -> None:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        finally:
            if hidden:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    monkeypatch.setattr(captured, "record", record)
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate") as caught:
        trained(PLAIN)
    assert failure(caught.value)[0] == "out_of_memory"


def test_a_training_gives_way_before_each_step_also_when_a_graph_runs_it(tapes: list[Tape]) -> None:
    calls, images = list[int](), torch.zeros(32, *SHAPE, dtype=torch.uint8)
    genome = seeded_genome(0)
    network = build(genome, initial(genome, 0))
    labels, generator = torch.zeros(32, dtype=torch.int64), torch.Generator().manual_seed(0)
    train(
        network, images, labels, PLAIN, Fidelity(32 * LEAST), generator, NORMAL, lambda: calls.append(tapes[:1] != [])
    )
    assert len(calls) == LEAST
    assert calls.count(True) == LEAST - WARM - 1, "the capture itself is after the call"


def covering() -> list[Genome]:
    """Returns few drawn genomes that have every operation."""
    missing, chosen, seed = {*ops.OPERATIONS.values()} - {ops.Input, ops.Output, ops.Call}, list[Genome](), 0
    while missing:
        genome = seeded_genome(seed)
        seed += 1
        has = {type(primitive.operation) for primitive in expand(genome).primitives.values()}
        if has & missing:
            chosen.append(genome)
            missing -= has
    return chosen


COVERING = covering()


@pytest.mark.parametrize("genome", COVERING, ids=range(len(COVERING)))
def test_every_operation_can_be_captured(genome: Genome, tapes: list[Tape], monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (40, *SHAPE), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (40,), generator=generator)
    found = []
    for least in (1, 10**9):
        monkeypatch.setattr(captured, "LEAST", least)
        network = build(genome, initial(genome, 0))
        recipe, drawn = replace(ALL, batch_size=16, learning_rate=0.01), torch.Generator().manual_seed(2)
        curve = train(network, images, labels, recipe, Fidelity(8 * 16), drawn, NORMAL)
        found.append((state(network), curve))
    assert [tape.replays for tape in tapes] == [8 - WARM]
    assert found[0][1] == found[1][1]
    assert same(found[0][0], found[1][0])


class OnDevice(TorchDispatchMode):
    """Refuses tensors on the CPU: to copy from there is no part of a graph, nor to copy to there."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        places = {tensor.device.type for tensor in tensors((args, kwargs, found))}
        assert places <= {"cuda"}, f"{function} has tensors on {places}"
        return found


def moved(network: nn.Module) -> nn.Module:
    """Gives a network fake tensors on a CUDA device instead of its own; call it within a `FakeTensorMode`."""
    for module in network.modules():
        for name, tensor in module._parameters.items():
            module._parameters[name] = (
                None if tensor is None else nn.Parameter(torch.empty(tensor.shape, device="cuda"))
            )
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else torch.empty(buffer.shape, device="cuda")
    return network


@pytest.mark.parametrize("genome", COVERING, ids=range(len(COVERING)))
def test_no_step_needs_the_processors_memory(genome: Genome, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backward pass is left out, since torch runs it on the device itself."""
    steps = list[str]()

    def watched(step: captured.Step, *_: object) -> Any:
        def inner() -> None:
            with OnDevice():
                step()
            steps.append("made")

        return nullcontext(inner)

    monkeypatch.setattr(Tensor, "backward", lambda _: None)
    monkeypatch.setattr(loop, "POINTS", 0)
    monkeypatch.setattr(loop, "default_generator", lambda _: torch.Generator())
    monkeypatch.setattr(loop, "repeated", watched)
    monkeypatch.setattr(loop, "fast_bfloat16", lambda _: True)
    monkeypatch.setattr(torch.random, "fork_rng", lambda **_: nullcontext())
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(nn.Module, "to", lambda module, **_: module)
    network = build(genome, initial(genome, 0))
    with FakeTensorMode():
        images = torch.empty(40, *SHAPE, dtype=torch.uint8, device="cuda")
        labels = torch.empty(40, dtype=torch.int64, device="cuda")
        recipe = replace(ALL, precision="auto", averaging=0.0)
        train(moved(network), images, labels, recipe, Fidelity(64), torch.Generator(), NORMAL)
    assert len(steps) == 2


@pytest.mark.parametrize(
    "asked",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: torch.where(x > 0),
        lambda x: x.nonzero(),
        lambda x: bool((x > 0).all()),
    ],
)
def test_the_tape_forbids_what_a_capture_forbids(asked: Any) -> None:
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"), Recorder():
        asked(torch.randn(5))


def test_a_number_that_is_no_tensor_is_frozen_on_a_tape() -> None:
    tape, sums, rate = Tape(), torch.zeros(()), 1.0

    def step() -> None:
        sums.add_(rate)

    tape.record(step, [])
    assert sums.item() == 0.0, "to record is not to run"
    rate = 2.0
    tape.replay()
    assert sums.item() == 1.0


def test_augmentation_asks_for_no_value() -> None:
    images = torch.zeros(8, *SHAPE, dtype=torch.uint8)
    with Recorder() as recorder:  # which refuses to
        augmented(images, ALL, torch.Generator())
    assert recorder.entries
