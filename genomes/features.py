"""Features: a genome as a row of numbers, for regressions that say what a network is worth before it is trained."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

from genomes.cost import cost
from genomes.expansion import Primitive
from genomes.genome import Genome
from genomes.identity import canonical
from genomes.operations import Conv, Trait


@lru_cache(maxsize=1024)
def features(genome: Genome) -> Mapping[str, float]:
    """Returns the features of what a genome computes, by name; one that is missing is 0.

    Logarithms of 1 + its costs, its depth in layers that mix channels, the pixels of its smallest image, and how often
    it has each kind of operation; convolutions that are pointwise or grouped are kinds of their own. Errors are close
    to powers of such numbers, so that a regression of their logarithms can be linear.

    Raises:
        InvalidGenome: the genome does not expand.
    """
    primitives = canonical(genome).primitives
    sizes = [math.prod(p.shape[1:]) for p in primitives.values() if len(p.shape) == 3 and p.shape[1] > 1]
    counts = {**vars(cost(genome)), "depth": _depth(primitives), "pixels": min(sizes, default=0)}
    kinds = Counter(_kind(primitive) for primitive in primitives.values())
    return {name: math.log1p(count) for name, count in (*counts.items(), *kinds.items())}


def _depth(primitives: Mapping[str, Primitive]) -> int:
    """Returns the most layers that mix channels on one way through the network."""
    depths: dict[str, int] = {}
    for path, primitive in primitives.items():
        above = max((depths[source] for source in primitive.inputs), default=0)
        depths[path] = above + (primitive.operation.trait is Trait.MIXES)
    return max(depths.values())


def _kind(primitive: Primitive) -> str:
    operation = primitive.operation
    if isinstance(operation, Conv) and operation.groups > 1:
        return "grouped conv"
    if isinstance(operation, Conv) and operation.kernel == 1:
        return "pointwise conv"
    return operation.kind
