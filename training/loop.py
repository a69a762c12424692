"""The training loop: flat, on tensors that are already where they are needed."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search import Fidelity
from training.errors import NonFinite
from training.recipe import Recipe

POINTS = 8  # of the learning curve; each costs one synchronisation


def train(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    fidelity: Fidelity,
    generator: torch.Generator,
    normal: tuple[float, float],
) -> list[Mapping[str, float]]:
    """Trains a network in place over one complete schedule and returns its learning curve.

    Args:
        network: takes float images `[N, C, H, W]`, returns logits `[N, K]`.
        images: all of them, uint8 `[M, C, H, W]`; normalised batch by batch.
        labels: int64 `[M]`.
        recipe: how.
        fidelity: how much.
        generator: of the order and the augmentation; the only source of randomness besides dropout.
        normal: mean and standard deviation that inputs are normalised by, on the scale 0 to 1.

    Returns:
        points with `examples` shown so far, mean `loss` since the last point, and `learning_rate`.

    Raises:
        NonFinite: the loss is NaN or infinite.
    """
    steps = max(1, math.ceil(fidelity.examples / recipe.batch_size))
    optimizer = _optimizer(network, recipe)
    half = recipe.precision == "bfloat16" or (recipe.precision == "auto" and fast_bfloat16())
    padded = F.pad(images, (recipe.crop,) * 4)
    order = torch.empty(0, dtype=torch.int64)
    curve: list[Mapping[str, float]] = []
    total, since = torch.zeros(()), 0
    network.train().to(memory_format=torch.channels_last)
    for step in range(steps):
        if len(order) < recipe.batch_size:
            order = torch.cat([order, torch.randperm(len(images), generator=generator)])
        chosen, order = order[: recipe.batch_size], order[recipe.batch_size :]
        batch = augmented(padded, chosen, images.shape[-2:], recipe, generator)
        batch = normalised(batch, normal)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate((step + 1) / (steps + 1))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = F.cross_entropy(network(batch), labels[chosen], label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total, since = total + loss.detach(), since + 1
        if (step + 1) * POINTS // steps > step * POINTS // steps:
            mean = float(total) / since
            if not math.isfinite(mean):
                raise NonFinite(f"the loss is {mean} after {(step + 1) * recipe.batch_size} examples")
            shown = (step + 1) * recipe.batch_size
            curve.append({"examples": shown, "loss": mean, "learning_rate": recipe.rate((step + 1) / (steps + 1))})
            total, since = torch.zeros(()), 0
    return curve


def augmented(padded: Tensor, chosen: Tensor, extent: torch.Size, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Returns a batch of randomly shifted and mirrored images.

    Args:
        padded: uint8 `[M, C, H + 2 crop, W + 2 crop]`.
        chosen: which, int64 `[N]`.
        extent: H and W of what is returned.
        recipe: its `crop` and `flip`.
        generator: of the shifts.
    """
    height, width = extent
    if recipe.crop:
        shifts = torch.randint(0, 2 * recipe.crop + 1, (2, len(chosen)), generator=generator)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view [M, C, shifts, shifts, H, W]
        batch = windows[chosen, :, shifts[0], shifts[1]]
    else:
        batch = padded[chosen]
    if recipe.flip:
        mirrored = torch.rand(len(chosen), generator=generator) < 0.5
        batch = torch.where(mirrored.view(-1, 1, 1, 1), batch.flip(3), batch)
    return batch


def normalised(batch: Tensor, normal: tuple[float, float]) -> Tensor:
    """Returns uint8 images as float32 with the given mean and deviation removed, channels last."""
    mean, deviation = normal
    scaled = batch.to(torch.float32).sub_(255 * mean).mul_(1 / (255 * deviation))
    return scaled.contiguous(memory_format=torch.channels_last)


def fast_bfloat16() -> bool:
    """Says whether the processor multiplies bfloat16 natively."""
    cpu = torch.backends.cpu.get_cpu_capability()
    flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return cpu.startswith("AVX512") and bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    parameters = list(network.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
