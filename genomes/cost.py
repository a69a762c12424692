"""What a network costs, counted from its graph without building it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from genomes.genome import Genome
from genomes.identity import canonical

BYTES_PER_NUMBER = 4


@dataclass(frozen=True)
class Cost:
    """Counts of one network.

    Attributes:
        parameters: trained numbers.
        macs: multiply-accumulates of one example's forward pass (FLOPs = 2 x MACs).
        activation_bytes: what one example's forward pass keeps for the backward pass, in float32.
    """

    parameters: int
    macs: int
    activation_bytes: int


@lru_cache(maxsize=1024)
def cost(genome: Genome) -> Cost:
    """Counts the canonical graph, which is what is built and trained.

    Raises:
        InvalidGenome: the genome does not expand.
    """
    counts = [primitive.counts for primitive in canonical(genome).primitives.values()]
    parameters, macs, numbers = map(sum, zip(*counts, strict=True))
    return Cost(parameters, macs, BYTES_PER_NUMBER * numbers)
