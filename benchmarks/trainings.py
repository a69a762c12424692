"""Three ways to train one network: the project's, a conventional one, and the best loop that we can write by hand.

Work for the processes of training_speed.py and scaling.py. All begin with the same weights, follow the same schedule of
the same optimiser, show as many images in batches of the same size, shifted and mirrored by the same rule.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from genomes import Genome
from morphism.realise import initial
from search import Fidelity
from training import Prepared, Recipe, build, load
from training.child import evaluate
from training.data import Split
from training.evaluate import error
from training.loop import train
from training.source import source

RECIPE = Recipe(crop=2, flip=True)
JUDGED = 2_000  # validation images
Normal = tuple[float, float]


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        genome: canonical JSON.
        examples: how many images are shown.
        seed: of the first weights, the order and the augmentation.
        file: of the prepared data.
    """

    genome: bytes
    examples: int
    seed: int
    file: str


@dataclass(frozen=True)
class Trained:
    """What came of a training.

    Attributes:
        seconds: of processor time, of the training alone.
        shown: images.
        error: on the first validation images, in float32.
        judging: seconds of processor time that this judgement took, for an image.
    """

    seconds: float
    shown: int
    error: float
    judging: float

    @property
    def rate(self) -> float:
        """Images a second of processor time."""
        return self.shown / self.seconds


def trained(arm: str, job: Job) -> Trained:
    """Trains a network in one of the ways of `ARMS`, on one thread, and judges it."""
    torch.set_num_threads(1)
    prepared = Prepared.at(Path(job.file))
    split, genome = split_of(job.file), Genome.from_json(job.genome)
    weights = initial(genome, job.seed)
    network: nn.Module = build(genome, weights) if arm == "project" else plain(genome, weights, prepared.normal)
    begun = time.process_time()
    ARMS[arm](network, split, Fidelity(job.examples), job.seed, prepared.normal)
    seconds = time.process_time() - begun
    begun = time.process_time()
    wrong = error(network, split.validation.images[:JUDGED], split.validation.labels[:JUDGED], prepared.normal)
    size = RECIPE.batch_size
    return Trained(seconds, math.ceil(job.examples / size) * size, wrong, (time.process_time() - begun) / JUDGED)


def isolated(request: Mapping[str, Any], file: str, directory: str, threads: int) -> dict[str, Any]:
    """Trains and judges as a search's child does, on so many threads, and tells its process number: for scaling.py."""
    torch.set_num_threads(threads)
    return {**evaluate(request, file, directory), "pid": os.getpid()}


def multiplied(size: int = 1024, times: int = 20) -> float:
    """Returns the bfloat16 GFLOP a second of processor time that matrix products reach, on one thread."""
    torch.set_num_threads(1)
    left, right = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0)).bfloat16()
    left @ right
    begun = time.process_time()
    for _ in range(times):
        left @ right
    return 2e-9 * times * size**3 / (time.process_time() - begun)


@lru_cache
def split_of(file: str) -> Split:
    """Returns the data, in memory."""
    return load(Prepared.at(Path(file)))


def plain(genome: Genome, weights: Mapping[str, Tensor], normal: Normal) -> nn.Module:
    """Returns the network as plain PyTorch, such as one writes by hand: what `morphogen export` gives away."""
    written = source(genome, *normal, "none")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plain.py"
        file.write_text(written.text)
        specification = spec_from_file_location("plain", file)
        assert specification
        assert specification.loader
        specification.loader.exec_module(module := module_from_spec(specification))
    network: nn.Module = module.Network()
    network.load_state_dict({written.keys[name]: tensor for name, tensor in weights.items()}, strict=False)
    return network


def project(network: nn.Module, split: Split, fidelity: Fidelity, seed: int, normal: Normal) -> None:
    """Trains as a search does."""
    generator = torch.Generator().manual_seed(seed)
    train(network, split.train.images, split.train.labels, RECIPE, fidelity, generator, normal)


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images one by one, through torchvision's transforms."""

    def __init__(self, split: Split, normal: Normal) -> None:
        mean, deviation = normal
        self.images, self.labels = split.train.images[:, 0].numpy(), split.train.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(self.images.shape[1:], padding=RECIPE.crop),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((mean,), (deviation,)),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = Image.fromarray(np.asarray(self.images[index]))
        return self.transform(picture), self.labels[index]


def conventional(network: nn.Module, split: Split, fidelity: Fidelity, seed: int, normal: Normal) -> None:
    """Trains as tutorials do: a DataLoader, transforms for each sample, float32, the loss read at each step."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        loader = DataLoader(Pictures(split, normal), RECIPE.batch_size, shuffle=True, drop_last=True)
        by_the_book(network, loader, math.ceil(fidelity.examples / RECIPE.batch_size), torch.device("cpu"))


def by_the_book(network: nn.Module, loader: DataLoader[Any], steps: int, device: torch.device) -> None:
    """Trains for so many steps as tutorials do: in float32, one kernel after another, the loss read at each step."""
    optimizer = torch.optim.SGD(decayed(network), RECIPE.learning_rate, RECIPE.momentum, nesterov=True)
    criterion = nn.CrossEntropyLoss(label_smoothing=RECIPE.label_smoothing)
    network.train()
    step, losses = 0, list[float]()
    while step < steps:
        for images, labels in loader:
            if (step := step + 1) > steps:
                break
            set_rate(optimizer, step, steps)
            optimizer.zero_grad()
            loss = criterion(network(images.to(device, non_blocking=True)), labels.to(device, non_blocking=True))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())


def by_hand(network: nn.Module, split: Split, fidelity: Fidelity, seed: int, normal: Normal) -> None:
    """Trains as fast as plain PyTorch allows: one resident padded tensor, bfloat16, channels last, fused optimiser."""
    generator = torch.Generator().manual_seed(seed)
    images, labels, size, crop = split.train.images, split.train.labels, RECIPE.batch_size, RECIPE.crop
    padded = functional.pad(images, (crop,) * 4)
    windows = padded.unfold(2, images.shape[2], 1).unfold(3, images.shape[3], 1)
    steps, per_epoch = math.ceil(fidelity.examples / size), len(images) // size
    optimizer = torch.optim.SGD(decayed(network), RECIPE.learning_rate, RECIPE.momentum, nesterov=True, fused=True)
    network.train().to(memory_format=torch.channels_last)
    mean, deviation = normal
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(len(images), generator=generator)
        chosen = order[step % per_epoch * size :][:size]
        down, right = torch.randint(0, 2 * crop + 1, (2, size), generator=generator)
        batch = windows[chosen, :, down, right]
        mirrored = (torch.rand(size, generator=generator) < 0.5).nonzero().flatten()
        batch[mirrored] = batch[mirrored].flip(3)
        batch = batch.float().sub_(255 * mean).mul_(1 / (255 * deviation)).to(memory_format=torch.channels_last)
        set_rate(optimizer, step + 1, steps)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(batch)
        functional.cross_entropy(logits.float(), labels[chosen], label_smoothing=RECIPE.label_smoothing).backward()
        optimizer.step()
        optimizer.zero_grad()


def decayed(network: nn.Module) -> list[dict[str, Any]]:
    """Returns the parameters in two groups: weights, which decay, and all others."""
    parameters = list(network.parameters())
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": RECIPE.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def set_rate(optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
    """Sets the learning rate of a step, counted from 1."""
    for group in optimizer.param_groups:
        group["lr"] = RECIPE.rate(step / (steps + 1))


ARMS: Mapping[str, Callable[[nn.Module, Split, Fidelity, int, Normal], None]] = {
    "project": project,
    "conventional": conventional,
    "by hand": by_hand,
}
