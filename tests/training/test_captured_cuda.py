"""CUDA graphs on a real device; skipped where there is none. Nothing here depends on a tape."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from genomes import Genome
from morphism.realise import initial
from search import Fidelity
from tests.drawing import CLASSES, SHAPE
from tests.training.test_captured import ALL, COVERING, NORMAL, PLAIN
from tests.training.test_loop import GENOME, stripes
from training import Recipe, build, captured, state
from training.captured import LEAST, WARM, Graph, Step, repeated
from training.loop import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("default"),  # max pooling says that its gradient may vary
]
DEVICE = torch.device("cuda:0")
Weights = dict[str, Tensor]


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Graph | None]]:
    """Yields what came of each capture, in a process that has no broken graph."""
    made, capture = list[Graph | None](), captured.captured

    def noted(step: Step, generators: Sequence[torch.Generator]) -> Graph | None:
        made.append(capture(step, generators))
        return made[-1]

    monkeypatch.setattr(captured, "captured", noted)
    monkeypatch.setattr(captured, "BROKEN", [])
    yield made
    KEPT.extend(captured.BROKEN)


KEPT = list[Graph]()  # broken graphs, which have to live as long as the process


@pytest.fixture
def repeatable() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def trained(recipe: Recipe, genome: Genome = GENOME, steps: int = 100) -> tuple[Weights, list[Any]]:
    network = build(genome, initial(genome, 0)).to(DEVICE)
    images, labels = stripes(200) if genome is GENOME else drawn()
    generator = torch.Generator(DEVICE).manual_seed(1)
    fidelity = Fidelity(recipe.batch_size * steps)
    curve = train(network, images.to(DEVICE), labels.to(DEVICE), recipe, fidelity, generator, NORMAL)
    return state(network.cpu()), curve


def launched(monkeypatch: pytest.MonkeyPatch, recipe: Recipe, *given: Any) -> tuple[Weights, list[Any]]:
    """Trains without a graph."""
    with monkeypatch.context() as patch:
        patch.setattr(captured, "LEAST", 10**9)
        return trained(recipe, *given)


def drawn() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (200, *SHAPE), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, CLASSES, (200,), generator=generator)


def alike(first: tuple[Weights, list[Any]], second: tuple[Weights, list[Any]]) -> None:
    for name, tensor in second[0].items():
        torch.testing.assert_close(first[0][name], tensor, rtol=1e-2, atol=1e-3)
    losses = [[point["loss"] for point in curve] for _, curve in (first, second)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


@pytest.mark.parametrize("recipe", [PLAIN, ALL])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(
    recipe: Recipe, graphs: list[Graph | None], repeatable: None
) -> None:
    first, second = trained(recipe), trained(recipe)
    assert len(graphs) == 2
    assert None not in graphs
    assert first[1] == second[1]
    assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])


@pytest.mark.parametrize("recipe", [PLAIN, ALL, replace(ALL, momentum=0.0)])
def test_a_graph_trains_as_launched_steps_do(
    recipe: Recipe, graphs: list[Graph | None], monkeypatch: pytest.MonkeyPatch, repeatable: None
) -> None:
    by_graph = trained(recipe)
    assert len(graphs) == 1
    assert None not in graphs
    alike(by_graph, launched(monkeypatch, recipe))


@pytest.mark.parametrize("genome", COVERING, ids=range(len(COVERING)))
def test_every_operation_is_captured(
    genome: Genome,
    graphs: list[Graph | None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    repeatable: None,
) -> None:
    monkeypatch.setattr(captured, "LEAST", 1)
    gentle = replace(ALL, batch_size=16, learning_rate=0.001)
    by_graph = trained(gentle, genome, 8)
    assert len(graphs) == 1
    assert None not in graphs, caplog.text
    alike(by_graph, launched(monkeypatch, gentle, genome, 8))


def test_a_graphs_memory_is_given_back(graphs: list[Graph | None]) -> None:
    reserved = list[int]()
    for _ in range(4):
        trained(ALL)
        torch.cuda.empty_cache()
        reserved.append(torch.cuda.memory_reserved(DEVICE))
    assert None not in graphs
    assert reserved[-1] <= reserved[1]


def test_what_cannot_be_captured_is_launched_and_the_process_lives(
    graphs: list[Graph | None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted, record = launched(monkeypatch, ALL), captured.record

    def waiting(graph: Graph, step: Step, generators: Sequence[torch.Generator]) -> None:
        def inner() -> None:
            step()
            torch.cuda.current_stream().synchronize()

        record(graph, inner, generators)

    monkeypatch.setattr(captured, "record", waiting)
    with caplog.at_level(logging.WARNING):
        alike(trained(ALL), wanted)
    assert graphs == [None]
    assert "could not be captured" in caplog.text
    alike(trained(ALL), wanted)
    assert graphs == [None]


def test_memory_that_runs_out_in_a_capture_is_told_as_that(graphs: list[Graph | None]) -> None:
    def step() -> None:
        if torch.cuda.is_current_stream_capturing():
            torch.empty(2**46, device=DEVICE)

    with repeated(step, LEAST, DEVICE, []) as advance:
        for _ in range(WARM):
            advance()
        with pytest.raises(torch.OutOfMemoryError):
            advance()


def test_each_launch_draws_other_numbers_and_those_of_launched_steps(graphs: list[Graph | None]) -> None:
    ones, mask, noise = torch.ones(1000, device=DEVICE), torch.empty(1000, device=DEVICE), torch.empty(9, device=DEVICE)

    def seen(steps: int) -> list[Tensor]:
        own, default, found = torch.Generator(DEVICE), torch.cuda.default_generators[0], list[Tensor]()

        def step() -> None:
            mask.copy_(functional.dropout(ones, 0.5))
            noise.copy_(torch.rand(9, generator=own, device=DEVICE))

        for generator in (own, default):
            generator.manual_seed(3)
        with repeated(step, steps, DEVICE, [own, default]) as advance:
            for _ in range(LEAST - 1):
                advance()
                found.append(torch.cat([mask, noise]).cpu())
        return found

    by_graph, by_launches = seen(LEAST), seen(0)
    assert len(graphs) == 1
    assert None not in graphs
    assert len({tuple(one.tolist()) for one in by_graph}) == LEAST - 1 > WARM
    assert all(torch.equal(one, other) for one, other in zip(by_graph, by_launches, strict=True))


def test_the_rate_is_read_at_each_launch(graphs: list[Graph | None]) -> None:
    weight = torch.nn.Parameter(torch.zeros(4, device=DEVICE))
    optimizer = torch.optim.SGD([weight], momentum=0.5, nesterov=True, fused=True)
    optimizer.param_groups[0]["lr"] = rate = torch.zeros((), device=DEVICE)

    def step() -> None:
        optimizer.zero_grad()
        (weight * 1.0).sum().backward()
        optimizer.step()

    with repeated(step, LEAST, DEVICE, []) as advance:
        for number in range(LEAST):
            before = weight.detach().clone()
            rate.fill_(float(number % 2))
            advance()
            assert torch.equal(weight, before) == (number % 2 == 0)
    assert len(graphs) == 1
    assert None not in graphs
