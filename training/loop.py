"""The training loop: flat, on tensors that are already where they are needed: the images' device is used for all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from search import Fidelity
from training.average import Average
from training.captured import repeated
from training.devices import default_generator, fast_bfloat16
from training.erasing import erased
from training.errors import NonFinite
from training.norms import batches
from training.recipe import Recipe
from training.vectorised import vectorised

POINTS = 8  # of the learning curve; each costs one synchronisation


def train(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    fidelity: Fidelity,
    generator: torch.Generator,
    normal: tuple[float, float],
    give_way: Callable[[], None] = lambda: None,
) -> list[Mapping[str, float]]:
    """Trains a network in place over one complete schedule and returns its learning curve.

    On one thread of one machine's CPU, the same arguments give the same weights bit for bit. On a CUDA device a step is
    captured (see `training.captured`), and hooks of the network do not run from then on.

    Args:
        network: takes float images `[N, C, H, W]`, returns logits `[N, K]`; on the device of the images.
        images: all of them, uint8 `[M, C, H, W]`; normalised batch by batch.
        labels: int64 `[M]`.
        recipe: how.
        fidelity: how much.
        generator: of the order, the augmentation and dropout; on the device of the images, and so are its numbers.
        normal: mean and standard deviation that inputs are normalised by, on the scale 0 to 1.
        give_way: called before each step, and before each batch that is looked at again.

    Returns:
        points with `examples` shown so far, mean `loss` since the last point, and `learning_rate`.

    Raises:
        NonFinite: the loss is NaN or infinite.
        torch.OutOfMemoryError: there is not enough memory on the device.
    """
    size = min(recipe.batch_size, len(images))
    steps = max(1, math.ceil(fidelity.examples / size))
    optimizer, average = _optimizer(network, recipe), Average(network, recipe.averaging * steps)
    device = images.device
    half = settled(recipe, device).precision == "bfloat16"
    order = torch.empty(0, dtype=torch.int64, device=device)
    chosen = torch.empty(size, dtype=torch.int64, device=device)
    curve: list[Mapping[str, float]] = []
    total, since = torch.zeros((), device=device), 0

    def step() -> None:
        """Trains on the chosen images; what differs from step to step it reads from tensors."""
        batch = normalised(augmented(images[chosen], recipe, generator), normal)
        with torch.autocast(device.type, torch.bfloat16, enabled=half, cache_enabled=False):  # no weight is used twice
            logits = network(batch)
        loss = functional.cross_entropy(logits.float(), labels[chosen], label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        average.update()
        total.add_(loss.detach())

    network.train().to(memory_format=torch.channels_last)
    drawn_from = [generator, default_generator(device)]  # dropout takes no generator of its own
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        vectorised(network, half and device.type == "cpu"),
        repeated(step, steps, device, drawn_from) as advance,
    ):
        default_generator(device).manual_seed(generator.initial_seed())
        for number in range(1, steps + 1):
            give_way()
            if len(order) < size:
                order = torch.cat([order, torch.randperm(len(images), generator=generator, device=device)])
            chosen.copy_(order[:size])
            order, rate = order[size:], recipe.rate(number / (steps + 1))
            for group in optimizer.param_groups:
                group["lr"].fill_(rate)
            average.begin()
            advance()
            since += 1
            if number * POINTS // steps > (number - 1) * POINTS // steps:
                mean = float(total) / since
                if not math.isfinite(mean):
                    raise NonFinite(f"the loss must be finite, it is {mean} after {number * size:,} examples")
                curve.append({"examples": number * size, "loss": mean, "learning_rate": rate})
                total.zero_()
                since = 0
        optimizer.zero_grad()  # else they stay in the graph's memory
    average.install(_unhurried(images, normal, give_way))
    return curve


def _unhurried(images: Tensor, normal: tuple[float, float], give_way: Callable[[], None]) -> Iterator[Tensor]:
    for some in batches(images):
        give_way()
        yield normalised(some, normal)


def augmented(batch: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Returns images shifted, mirrored and partly erased at random, each in its own way; what comes in is black.

    Args:
        batch: uint8 `[N, C, H, W]`.
        recipe: its `crop`, `flip` and `erasing`.
        generator: of all that is random, on the device of the batch.
    """
    count, _, height, width = batch.shape
    if recipe.crop:
        down, right = torch.randint(0, 2 * recipe.crop + 1, (2, count), generator=generator, device=batch.device)
        padded = functional.pad(batch, (recipe.crop,) * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view [N, C, shifts, shifts, H, W]
        batch = windows[torch.arange(count, device=batch.device), :, down, right]
    if recipe.flip:
        mirrored = torch.rand(count, generator=generator, device=batch.device) < 0.5
        batch = torch.where(mirrored.view(-1, 1, 1, 1), batch.flip(3), batch)
    return erased(batch, recipe.erasing, generator) if recipe.erasing else batch


def normalised(batch: Tensor, normal: tuple[float, float]) -> Tensor:
    """Returns uint8 images as float32 with the given mean and deviation removed, channels last."""
    mean, deviation = normal
    scaled = batch.to(torch.float32).sub_(255 * mean).mul_(1 / (255 * deviation))
    return scaled.contiguous(memory_format=torch.channels_last)


def settled(recipe: Recipe, device: torch.device) -> Recipe:
    """Returns the recipe with the precision that `auto` means on a device of this machine."""
    if recipe.precision != "auto":
        return recipe
    return replace(recipe, precision="bfloat16" if fast_bfloat16(device) else "float32")


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    parameters = list(network.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(  # fused: one launch a step; on the CPU 0.05 ms instead of 0.18 for 17 tensors (Zen 4)
        groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True
    )
    for group in optimizer.param_groups:  # a tensor, which a captured step reads anew; the fused one takes it as it is
        group["lr"] = torch.zeros((), device=parameters[0].device)
    return optimizer
