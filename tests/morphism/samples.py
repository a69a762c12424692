"""The random genomes of `tests.drawing` with two channels and three classes, their weights, and probes."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from genomes import Genome, Module
from genomes.operations import (
    Attention,
    AvgPool,
    Call,
    Conv,
    Flatten,
    GlobalPool,
    Input,
    Linear,
    MaxPool,
    Output,
    ReLU,
)
from tests.drawing import messy_weights, seeded_genome

SHAPE = (2, 12, 12)
CLASSES = 3


def probes(seed: int) -> Tensor:
    """Returns eight images in float64."""
    return torch.randn((8, *SHAPE), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def messy(genome: Genome, seed: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Returns weights with which no norm is near its default."""
    return {name: tensor.to(dtype) for name, tensor in messy_weights(genome, seed).items()}


def drawn(seed: int) -> Genome:
    """Returns a valid genome that maps `[2, 12, 12]` to 3 classes, mostly with a module called several times."""
    return seeded_genome(seed, SHAPE, CLASSES)


def uneven_calls() -> Genome:
    """Returns a genome that calls a module with 4 channels of extent 12 and with 6 channels of extent 6."""
    cell = {
        "i": Input(0),
        "r": ReLU(),
        "p": MaxPool(3, 1, 1),
        "c": Conv.same(4, 3),
        "s": ReLU(),
        "d": Conv.same(4, 3, dilation=2, groups=2),
        "a": AvgPool(3, 1, 1),
        "t": Conv(4, 3, 2, 1),
        "m": Attention(2),
        "u": ReLU(),
        "o": Output(),
    }
    net = {
        "x": Input(0, SHAPE),
        "a": Conv.same(4, 3),
        "one": Call("cell"),
        "b": Conv.same(6, 3),
        "e": ReLU(),
        "two": Call("cell"),
        "g": GlobalPool(),
        "f": Flatten(),
        "h": Linear(CLASSES),
        "y": Output(),
    }
    edges = [*pairwise(cell), ("t", "m", 1), ("t", "m", 2)]
    return Genome.of({"cell": Module.of(cell, edges), "net": Module.of(net, pairwise(net))})
