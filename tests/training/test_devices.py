"""What can be known of a device without having it: torch's fake tensors refuse to mix devices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from search import Fidelity
from training import Recipe, evaluate, loop
from training.devices import claim, default_generator
from training.loop import augmented, normalised, train

RECIPE = Recipe(batch_size=8, crop=1, flip=True, precision="float32")


class Scaled(nn.Module):
    """Two classes from one weight on a given device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, device=device))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2, 3)).unsqueeze(1) * self.weight

    def to(self, *_: object, **__: object) -> Scaled:  # type: ignore[override]
        return self  # fake parameters cannot be swapped for others


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes tensors that know their device and have no values; points of the curve would ask for some.

    The backward pass is left out, since torch runs it on the device itself.
    """
    monkeypatch.setattr(Tensor, "backward", lambda _: None)
    monkeypatch.setattr(loop, "POINTS", 0)
    monkeypatch.setattr(loop, "default_generator", lambda _: torch.Generator())
    monkeypatch.setattr(loop, "repeated", lambda step, *_: nullcontext(step))
    monkeypatch.setattr(torch.random, "fork_rng", lambda **_: nullcontext())
    with FakeTensorMode():
        yield


def images(device: str) -> Tensor:
    return torch.empty(20, 1, 8, 8, dtype=torch.uint8, device=device)


def test_training_keeps_all_its_tensors_on_the_device_of_the_images(fake_cuda: None) -> None:
    labels, network = torch.empty(20, dtype=torch.int64, device="cuda"), Scaled("cuda")
    train(network, images("cuda"), labels, RECIPE, Fidelity(64), torch.Generator(), (0.3, 0.4))
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"cuda"}


def test_all_random_numbers_are_drawn_on_the_device_of_the_images(fake_cuda: None) -> None:
    drawn = list[tuple[str, Any]]()

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if "generator" in (kwargs or {}):
                drawn.append((function.__name__, str(kwargs.get("device"))))
            return function(*args, **(kwargs or {}))

    labels = torch.empty(20, dtype=torch.int64, device="cuda")
    with Watch():
        train(Scaled("cuda"), images("cuda"), labels, RECIPE, Fidelity(8), torch.Generator(), (0.3, 0.4))
    assert set(drawn) == {("randperm", "cuda:0"), ("randint", "cuda:0"), ("rand", "cuda:0")}


def test_a_tensor_left_on_the_cpu_would_be_noticed(fake_cuda: None) -> None:
    labels = torch.empty(20, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="same device"):
        train(Scaled("cuda"), images("cuda"), labels, RECIPE, Fidelity(64), torch.Generator(), (0.3, 0.4))


def test_augmented_and_normalised_images_stay_where_they_are(fake_cuda: None) -> None:
    batch = normalised(augmented(images("cuda"), RECIPE, torch.Generator()), (0.3, 0.4))
    assert (batch.device.type, batch.dtype, batch.shape) == ("cuda", torch.float32, (20, 1, 8, 8))


def test_evaluation_keeps_all_its_tensors_on_the_device_of_the_images(
    fake_cuda: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[str]()
    monkeypatch.setattr(evaluate, "float", lambda value: seen.append(value.device.type) or 0.0, raising=False)
    evaluate.error(Scaled("cuda"), images("cuda"), torch.empty(20, dtype=torch.int64, device="cuda"), (0.3, 0.4))
    assert seen == ["cuda"]


def test_a_cuda_device_is_made_repeatable_and_fills_no_memory_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = list[float]()
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 2**30))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, _: shares.append(share))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    try:
        assert claim.__wrapped__("cuda:0", 0.25) == torch.device("cuda:0")
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
        assert not torch.backends.cudnn.benchmark
        assert 0.24 < shares[0] < 0.25
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_cpu_needs_no_preparation_and_has_the_default_generator() -> None:
    threads = torch.get_num_threads()
    assert claim("cpu", 0.5) == torch.device("cpu")
    assert default_generator(claim("cpu", 0.5)) is torch.default_generator
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
