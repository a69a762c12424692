from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from genomes import expand
from genomes.operations import (
    GELU,
    Add,
    Attention,
    AvgPool,
    BatchNorm,
    Blend,
    ChannelShuffle,
    ClassToken,
    Concat,
    Conv,
    Dropout,
    Flatten,
    Gate,
    GlobalPool,
    GroupNorm,
    Hardsigmoid,
    Hardswish,
    Identity,
    LayerNorm,
    Linear,
    MaxPool,
    Mean,
    Mul,
    Operation,
    Position,
    PReLU,
    ReLU,
    ReLU6,
    Scale,
    Select,
    Sigmoid,
    SiLU,
    Slice,
)
from morphism.interpreter import APPLIED, attention, run
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
    (MaxPool(3, 2, 0, True), nn.MaxPool2d(3, 2, ceil_mode=True)),
    (AvgPool(3, 2, 1, True), nn.AvgPool2d(3, 2, 1, ceil_mode=True)),
    (GroupNorm(3, 0.1), nn.GroupNorm(3, 3, 0.1)),
    (ReLU6(), nn.ReLU6()),
    (Hardswish(), nn.Hardswish()),
    (Hardsigmoid(), nn.Hardsigmoid()),
    (PReLU(), nn.PReLU(3)),
    (ChannelShuffle(3), nn.ChannelShuffle(3)),
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


def test_a_layer_norm_standardises_the_channels_of_each_position() -> None:
    genome = chain(n=LayerNorm(0.1))
    w = messy(genome, 0)
    norm = nn.LayerNorm(3, 0.1).double()
    norm.load_state_dict({"weight": w["n.weight"], "bias": w["n.bias"]})
    torch.testing.assert_close(run(genome, w, IMAGES), norm(IMAGES.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def test_gates_and_blends_mix_two_values() -> None:
    genome = net(
        {"s": SiLU(), "j": Gate(), "b": Blend("identity", "gelu")},
        [("x", "s"), *_into("j", "x", "s")[:2], ("j", "b"), ("b", "y")],
    )
    w = messy(genome, 0)
    a, b, s = w["j.weight"], w["b.weight"], torch.nn.functional.silu(IMAGES)
    gated = a * IMAGES + (1 - a) * s
    torch.testing.assert_close(run(genome, w, IMAGES), b * gated + (1 - b) * torch.nn.functional.gelu(gated))


def test_positions_are_tokens_behind_the_class_token() -> None:
    genome = chain(t=ClassToken(), p=Position(), s=Select(5), f=Flatten())
    w = messy(genome, 0)
    wanted = IMAGES.flatten(2)[:, :, 4] + w["p.weight"][:, 5, 0]
    torch.testing.assert_close(run(genome, w, IMAGES), wanted)
    first = chain(t=ClassToken(), s=Select(), f=Flatten())
    torch.testing.assert_close(run(first, w, IMAGES), w["t.weight"].expand(len(IMAGES), 3))


def test_a_slice_takes_its_channels() -> None:
    torch.testing.assert_close(run(chain(s=Slice(1, 3)), {}, IMAGES), IMAGES[:, 1:3])


def test_attention_is_torchs_for_each_head() -> None:
    q, k, v = (torch.randn((2, 6, *extent), dtype=torch.float64) for extent in ((3, 2), (4, 1), (4, 1)))
    heads = [x.flatten(2).reshape(2, 2, 3, -1).transpose(2, 3) for x in (q, k, v)]
    wanted = torch.nn.functional.scaled_dot_product_attention(*heads).transpose(2, 3).reshape(2, 6, 3, 2)
    torch.testing.assert_close(attention(2, 3**-0.5, q, k, v), wanted)
    genome = net({"a": Attention(3)}, _into("a", "x", "x", "x"))
    torch.testing.assert_close(
        run(genome, {}, IMAGES), attention(3, (IMAGES.shape[1] / 3) ** -0.5, IMAGES, IMAGES, IMAGES)
    )


def test_a_gate_of_one_position_is_spread() -> None:
    genome = net({"p": GlobalPool(), "j": Mul()}, [("x", "p"), *_into("j", "p", "x")])
    torch.testing.assert_close(run(genome, {}, IMAGES), IMAGES * IMAGES.mean((2, 3), keepdim=True))


def test_every_operation_can_be_run() -> None:
    from genomes.operations import OPERATIONS

    assert {op.kind for op in APPLIED} == set(OPERATIONS) - {"input", "output", "call"}


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
