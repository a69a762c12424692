"""Models of torch as genomes: what converts computes the same, what does not is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
import torchvision
from torch import Tensor, nn

from genomes import Genome, check, expand
from genomes import operations as ops
from morphism.interpreter import run
from training.convert import convert
from training.convert.conversion import followed, messy, proven, runnable
from training.convert.tracing import trace
from training.errors import ConversionError

SHAPE = (4, 12, 12)


class Does(nn.Module):
    """A model that does what a function says with its modules, then pools and classifies."""

    def __init__(self, body: Callable[[Any, Tensor], Tensor], features: int, **parts: nn.Module) -> None:
        super().__init__()
        self.body = body
        for name, part in parts.items():
            self.add_module(name, part)
        self.head = nn.Linear(features, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self, x)
        return self.head(x.flatten(2).mean(2) if x.dim() > 2 else x)


def kinds(genome: Genome) -> list[str]:
    return [p.operation.kind for p in expand(genome).primitives.values()]


def error(model: nn.Module, genome: Genome, weights: dict[str, Tensor], shape: tuple[int, ...] = SHAPE) -> float:
    images = torch.randn(4, *shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    with torch.no_grad():
        wanted = model.double().eval()(images)
    found = run(genome, {name: tensor.double() for name, tensor in weights.items()}, images)
    return float((found - wanted).abs().max() / wanted.abs().max())


class Excite(nn.Module):
    """Squeeze-excite as many write it: linear maps of a vector that becomes an image again."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(channels, 2), nn.ReLU(inplace=True), nn.Linear(2, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        y = self.fc(self.pool(x).view(b, c)).view(b, c, 1, 1)
        return x * y.expand_as(x)


class Heads(nn.Module):
    """Self-attention as many write it: one linear map for q, k and v, heads as an axis of their own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width))


class Pair(nn.Module):
    """Returns two tensors."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def shuffled(_: Any, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def channels_last(model: Any, x: Tensor) -> Tensor:
    y = model.norm(x.permute(0, 2, 3, 1))
    return x + (model.down(functional.gelu(model.up(y))) * 0.5).permute(0, 3, 1, 2)


BODIES: dict[str, tuple[nn.Module, list[str]]] = {
    "conv": (Does(lambda m, x: m.conv(x), 6, conv=nn.Conv2d(4, 6, 3, 2, 2, 2, 2, bias=False)), ["conv"]),
    "same padding": (Does(lambda m, x: m.conv(x), 6, conv=nn.Conv2d(4, 6, 3, padding="same")), ["conv"]),
    "norms": (
        Does(lambda m, x: m.three(m.two(m.one(x))), 4, one=nn.BatchNorm2d(4, eps=1e-3), two=nn.GroupNorm(2, 4),
             three=nn.BatchNorm2d(4, affine=False)),
        ["batch_norm", "group_norm", "batch_norm"],
    ),
    "activations": (
        Does(lambda m, x: m.line(functional.silu(functional.hardswish(x))), 4, line=nn.Sequential(
            nn.ReLU6(), nn.Hardsigmoid(), nn.GELU(), nn.PReLU(), nn.LeakyReLU(0.2), nn.PReLU(4), nn.Dropout(0.3),
            nn.Identity(), nn.Sigmoid())),
        ["hardswish", "silu", "relu6", "hardsigmoid", "gelu", "prelu", "prelu", "prelu", "dropout", "sigmoid"],
    ),
    "pools": (
        Does(lambda m, x: functional.avg_pool2d(m.one(x), 3, stride=1, padding=1), 4,
             one=nn.MaxPool2d(3, 2, ceil_mode=True)),
        ["max_pool", "avg_pool"],
    ),
    "adaptive pools": (
        Does(lambda m, x: m.last(m.halved(m.every(x))), 4, every=nn.AdaptiveAvgPool2d(12),
             halved=nn.AdaptiveAvgPool2d((6, 6)), last=nn.AdaptiveAvgPool2d((1, 1))),
        ["avg_pool", "global_pool"],
    ),
    "sums and products": (
        Does(lambda _, x: torch.cat([x + x.relu(), x * x.sigmoid()], 1), 8),
        ["relu", "add", "sigmoid", "mul", "concat"],
    ),
    "shuffle": (
        Does(lambda m, x: m.conv(shuffled(m, x)), 4, conv=nn.Conv2d(4, 4, 1)),
        ["channel_shuffle", "conv"],
    ),
    "slices": (
        Does(lambda _, x: torch.cat([*x.chunk(2, dim=1), x[:, 1:3], x.split([1, 3], 1)[1]], 1), 9),
        ["slice", "slice", "slice", "slice", "concat"],
    ),
    "channels last": (
        Does(channels_last, 4, norm=nn.LayerNorm(4), up=nn.Linear(4, 8), down=nn.Linear(8, 4)),
        ["layer_norm", "conv", "gelu", "conv", "scale", "add"],
    ),
    "squeeze-excite of vectors": (
        Does(lambda m, x: m.excite(x), 4, excite=Excite(4)),
        ["global_pool", "conv", "relu", "conv", "sigmoid", "mul"],
    ),
    "attention": (
        Does(lambda m, x: m.heads(x.flatten(2).transpose(1, 2)).transpose(1, 2), 4, heads=Heads(4, 2)),
        ["conv", "slice", "slice", "slice", "attention", "conv"],
    ),
    "multi-head attention": (
        Does(lambda m, x: m.mha(*(3 * [x.flatten(2).permute(2, 0, 1)]))[0].permute(1, 2, 0), 4,
             mha=nn.MultiheadAttention(4, 2)),
        ["conv", "conv", "conv", "attention", "conv"],
    ),
    "flattened": (
        Does(lambda m, x: m.two(functional.relu(m.norm(m.one(torch.flatten(x, 1))))), 5, one=nn.Linear(4 * 144, 6),
             norm=nn.BatchNorm1d(6), two=nn.Linear(6, 5)),
        ["flatten", "linear", "batch_norm", "relu", "linear"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_what_converts_computes_the_same(name: str) -> None:
    model, wanted = BODIES[name]
    messed = messy(model.double())
    genome, weights = convert(messed, SHAPE)
    check(genome)
    assert error(messed, genome, weights) < 1e-12
    body = kinds(genome)[1:]
    assert body[: len(wanted)] == wanted
    assert set(body[len(wanted) :]) <= {"global_pool", "flatten", "linear"}


def test_a_model_is_left_as_it_was() -> None:
    model = torchvision.models.resnet18(num_classes=5).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _, weights = convert(model, (3, 32, 32))
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert torch.equal(weights["layer1_0_conv1.weight"], before["layer1.0.conv1.weight"])


@pytest.mark.parametrize(
    "name",
    ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "densenet121", "convnext_tiny", "regnet_y_400mf"],
)
def test_models_of_torchvision_convert(name: str) -> None:
    model = torchvision.models.get_model(name, weights=None, num_classes=5)
    genome, weights = convert(model, (3, 64, 64))
    assert sum(p.numel() for p in model.parameters()) <= sum(tensor.numel() for tensor in weights.values())
    assert max(len(module.nodes) for _, module in genome.modules) <= 256


def test_a_vision_transformer_converts() -> None:
    model = messy(torchvision.models.VisionTransformer(32, 8, 2, 4, 16, 24, num_classes=5).double())
    genome, weights = convert(model, (3, 32, 32))
    assert {"class_token", "position", "attention", "select", "layer_norm"} <= set(kinds(genome))
    assert error(model, genome, weights, (3, 32, 32)) < 1e-12


def test_a_large_model_is_cut_into_parts_that_are_called_once() -> None:
    genome, weights = convert(torchvision.models.densenet121(num_classes=4), (3, 32, 32))
    calls = [op.module for _, op in genome["net"].nodes if isinstance(op, ops.Call)]
    assert sorted(calls) == sorted({name for name, _ in genome.modules} - {"net"})
    assert len(calls) > 1
    assert "part_1/features_conv0.weight" in weights


def stirred_by_hand(model: nn.Module, x: Tensor) -> Tensor:
    return torch.cumsum(x, 1)


def twice(model: Any, x: Tensor) -> Tensor:
    return model.conv(model.conv(x))


def test_a_wrapper_of_data_parallel_training_is_left_out() -> None:
    model = Does(lambda m, x: m.conv(x), 4, conv=nn.Conv2d(4, 4, 3))
    assert convert(nn.DataParallel(model), SHAPE)[0] == convert(model, SHAPE)[0]


def tied(model: Any, x: Tensor) -> Tensor:
    kernel = model.conv.weight.transpose(0, 1)
    return functional.conv2d(functional.conv2d(x, kernel), kernel)


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "an unknown module": (
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.Flatten(2), nn.LSTM(144, 3)),
        r"^2 \(torch.nn.LSTM\) is no operation that a genome has: ",
    ),
    "an unknown function": (Does(stirred_by_hand, 4), r"^torch.cumsum is no operation"),
    "an unknown method": (Does(lambda _, x: x.cumsum(1), 4), r"^Tensor.cumsum is no operation"),
    "a kernel that is not square": (
        Does(lambda m, x: m.conv(x), 4, conv=nn.Conv2d(4, 4, (1, 3))),
        r"^conv \(torch.nn.Conv2d\) .*kernel_size must be one number for both extents, got \(1, 3\)",
    ),
    "another padding": (
        Does(lambda m, x: m.conv(x), 4, conv=nn.Conv2d(4, 4, 3, padding_mode="reflect")),
        "padding_mode must be 'zeros', got 'reflect'",
    ),
    "a norm without statistics": (
        Does(lambda m, x: m.norm(x), 4, norm=nn.BatchNorm2d(4, track_running_stats=False)),
        "track_running_stats",
    ),
    "another GELU": (Does(lambda _, x: functional.gelu(x, approximate="tanh"), 4), "approximate must be 'none'"),
    "a constant sum": (Does(lambda _, x: functional.relu6(x + 3) / 6, 4), "adds no constant number, got 3"),
    "weights used twice": (
        Does(twice, 4, conv=nn.Conv2d(4, 4, 1)),
        "conv must be used once, it is used 2 times: every place in a genome has weights of its own",
    ),
    "weights used twice as what is derived of them": (
        Does(tied, 4, conv=nn.Conv2d(4, 4, 1, bias=False)),
        r"conv\.weight must be used once, it is used 2 times",
    ),
    "a choice by what is computed": (
        Does(lambda _, x: x if x.sum() > 0 else -x, 4),
        "Tensor.sum is no operation that a genome has",
    ),
    "a slice of positions": (Does(lambda _, x: x[:, :, 1:], 4), "only channels can be sliced"),
    "two results": (Pair(), "must return one tensor"),
    "unequal windows": (
        Does(lambda m, x: m.pool(x), 4, pool=nn.AdaptiveAvgPool2d(5)),
        "into equal square windows, got",
    ),
    "positions before channels": (
        nn.Sequential(Does(lambda _, x: x.permute(0, 2, 3, 1).flatten(1), 576)),
        "flattened with channels first",
    ),
    "other images": (nn.Sequential(nn.Conv2d(3, 4, 1)), r"must take images \[N, 4, 12, 12\], it says: "),
    "images as a result": (nn.Sequential(nn.Conv2d(4, 4, 1)), r"must return logits \[N, classes\]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_convert_is_told_with_its_place(name: str) -> None:
    model, words = REFUSED[name]
    with pytest.raises(ConversionError, match=words) as refused:
        convert(model, SHAPE)
    assert "\n" not in str(refused.value)


def test_tied_weights_are_refused() -> None:
    model = Does(lambda m, x: m.two(m.one(x)), 4, one=nn.Conv2d(4, 4, 1), two=nn.Conv2d(4, 4, 1))
    model.get_submodule("two").weight = model.get_submodule("one").weight
    with pytest.raises(ConversionError, match=r"two.weight must be a parameter of its own, it is also one.weight"):
        convert(model, SHAPE)


def test_a_trace_that_hides_a_choice_by_the_batch_is_refused() -> None:
    model = Does(lambda _, x: x * (2.0 if x.shape[0] == 1 else 1.0), 4)  # a proxy is never equal to 1
    with pytest.raises(ConversionError, match=r"cannot be traced|must compute what the model computes"):
        convert(model, SHAPE)


@pytest.mark.parametrize("parameter", ["conv.weight", "norm.running_var", "head.bias"])
def test_a_wrong_weight_is_noticed(parameter: str) -> None:
    own = runnable(Does(lambda m, x: m.norm(m.conv(x)), 4, conv=nn.Conv2d(4, 4, 1), norm=nn.BatchNorm2d(4)), SHAPE)
    genome, weights = followed(trace(own, SHAPE), SHAPE)
    assert proven(own, genome, weights, SHAPE) <= 1e-10
    with pytest.raises(ConversionError, match="must compute what the model computes to 1e-10"):
        proven(own, genome, {**weights, parameter: weights[parameter] + 1e-6}, SHAPE)
