"""What the tests of the disruptions share."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise

from evo import DISRUPTIONS
from genomes import Genome, Module, check
from genomes.operations import Add, BatchNorm, Call, Conv, Flatten, GlobalPool, Input, Linear, MaxPool, Output, ReLU
from morphism import Edit, Inapplicable, Morphism
from tests.morphism.samples import drawn

GENOMES = 50


def planned(disruption: Morphism) -> Iterator[tuple[int, Genome, Edit]]:
    """Yields random genomes with edits at random sites."""
    for seed in range(GENOMES):
        genome, rng = drawn(seed), random.Random(seed)
        sites = list(disruption.sites(genome))
        for site in rng.sample(sites, min(3, len(sites))):
            try:
                yield seed, genome, disruption.plan(genome, site, rng)
            except Inapplicable:
                continue


def named(name: str) -> Morphism:
    return next(disruption for disruption in DISRUPTIONS if disruption.name == name)


def example() -> Genome:
    """Returns a network whose residual block is called twice; its second calls' values are 6 x 6."""
    block = Module.of(
        {
            "x": Input(),
            "conv": Conv.same(4, 5),
            "norm": BatchNorm(),
            "act": ReLU(),
            "mix": Conv.same(4, 3),
            "sum": Add(),
            "out": Output(),
        },
        [
            ("x", "conv"),
            ("conv", "norm"),
            ("norm", "act"),
            ("act", "mix"),
            ("mix", "sum"),
            ("x", "sum", 1),
            ("sum", "out"),
        ],
    )
    layers = {
        "image": Input(0, (2, 12, 12)),
        "stem": Conv.same(4, 3),
        "one": Call("block"),
        "pool": MaxPool(),
        "two": Call("block"),
        "mean": GlobalPool(),
        "flat": Flatten(),
        "head": Linear(3),
        "logits": Output(),
    }
    chain = list(layers)
    net = Module.of(layers, list(pairwise(chain)))
    genome = Genome.of({"net": net, "block": block})
    check(genome)
    return genome
