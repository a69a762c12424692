from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from genomes import expand
from genomes.operations import (
    GELU,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dropout,
    Flatten,
    GlobalPool,
    Identity,
    Linear,
    MaxPool,
    Mean,
    Mul,
    Operation,
    ReLU,
    Scale,
    Sigmoid,
    SiLU,
)
from morphism.interpreter import MANY, ONE, run
from tests.morphism.samples import drawn, messy, probes
from tests.morphism.test_channels import chain, net

IMAGES = torch.randn((5, 3, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
SINGLE: tuple[tuple[Operation, nn.Module], ...] = (
    (Conv(6, 3, 2, 2, 2, 3, True), nn.Conv2d(3, 6, 3, 2, 2, 2, 3, True)),
    (Conv(2, 1), nn.Conv2d(3, 2, 1, bias=False)),
    (BatchNorm(0.1), nn.BatchNorm2d(3, 0.1)),
    (ReLU(), nn.ReLU()),
    (GELU(), nn.GELU()),
    (SiLU(), nn.SiLU()),
    (Sigmoid(), nn.Sigmoid()),
    (MaxPool(3, 2, 1), nn.MaxPool2d(3, 2, 1)),
    (AvgPool(3, 2, 1), nn.AvgPool2d(3, 2, 1)),
    (GlobalPool(), nn.AdaptiveAvgPool2d(1)),
    (Dropout(), nn.Identity()),
    (Identity(), nn.Identity()),
    (Flatten(), nn.Flatten()),
)


@pytest.mark.parametrize(("operation", "module"), SINGLE, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("train", [False, True])
def test_an_operation_computes_what_torchs_module_does(operation: Operation, module: nn.Module, train: bool) -> None:
    genome = chain(node=operation)
    weights = messy(genome, 0)
    module = module.double().train(train)
    state = {name.partition(".")[2]: tensor.clone() for name, tensor in weights.items()}
    module.load_state_dict(state, strict=False)
    torch.testing.assert_close(run(genome, weights, IMAGES, train), module(IMAGES), rtol=1e-12, atol=1e-12)


def test_linear_maps_scales_and_vectors_work_too() -> None:
    genome = chain(s=Scale(), f=Flatten(), b=BatchNorm(), t=Scale(), h=Linear(2, bias=False))
    w = messy(genome, 0)
    flat = (IMAGES * w["s.weight"].reshape(1, 3, 1, 1)).flatten(1)
    standard = (flat - w["b.running_mean"]) / (w["b.running_var"] + 1e-5).sqrt()
    wanted = ((standard * w["b.weight"] + w["b.bias"]) * w["t.weight"]) @ w["h.weight"].T
    torch.testing.assert_close(run(genome, w, IMAGES), wanted)


@pytest.mark.parametrize("operation", [Add(), Mean(), Mul(), Concat()], ids=lambda operation: operation.kind)
def test_several_inputs_are_joined_in_the_order_of_their_ports(operation: Operation) -> None:
    genome = net({"r": ReLU(), "s": SiLU(), "j": operation}, [("x", "r"), ("x", "s"), *_into("j", "s", "x", "r")])
    s, r = torch.nn.functional.silu(IMAGES), IMAGES.clamp(min=0)
    wanted: dict[type[Operation], Tensor] = {
        Add: s + IMAGES + r,
        Mean: (s + IMAGES + r) / 3,
        Mul: s * IMAGES * r,
        Concat: torch.cat([s, IMAGES, r], 1),
    }
    torch.testing.assert_close(run(genome, {}, IMAGES), wanted[type(operation)])


def test_a_gate_of_one_position_is_spread() -> None:
    genome = net({"p": GlobalPool(), "j": Mul()}, [("x", "p"), *_into("j", "p", "x")])
    torch.testing.assert_close(run(genome, {}, IMAGES), IMAGES * IMAGES.mean((2, 3), keepdim=True))


def test_every_operation_can_be_run() -> None:
    from genomes.operations import OPERATIONS

    marks, weighted = {"input", "output", "call"}, {"conv", "linear", "batch_norm", "scale"}
    assert {op.kind for op in (*MANY, *ONE)} == set(OPERATIONS) - marks - weighted


def test_running_statistics_are_never_touched() -> None:
    for seed in range(10):
        genome = drawn(seed)
        weights = messy(genome, seed)
        before = {name: tensor.clone() for name, tensor in weights.items()}
        output = run(genome, weights, probes(seed), train=True)
        assert output.shape == (8, *expand(genome).primitives[expand(genome).output].shape)
        assert all(torch.equal(before[name], weights[name]) for name in weights)


def _into(target: str, *sources: str) -> list[tuple[str, str] | tuple[str, str, int]]:
    return [*((source, target, port) for port, source in enumerate(sources)), (target, "y")]
