"""Statistics: those of batch norms, measured anew after an edit that did not keep what they are of."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from genomes import Genome
from training.loop import normalised
from training.network import build, state
from training.norms import batches, remeasure


def reestimate(
    genome: Genome, weights: Mapping[str, Tensor], images: Tensor, normal: tuple[float, float]
) -> dict[str, Tensor]:
    """Returns the weights with the batch norms' running means and variances measured anew; nothing else changes.

    Each is the mean over the first batches of training images, in their order and without augmentation; dropout is
    off. The same arguments give the same numbers, bit for bit on one thread.

    Args:
        genome: the architecture.
        weights: by `path.parameter`; never changed.
        images: to train on, uint8 `[M, C, H, W]`.
        normal: as in `training.loop.train`.

    Raises:
        BuildError: the weights do not fit the genome.
    """
    network = build(genome, weights)
    remeasure(network, (normalised(batch, normal) for batch in batches(images)))
    return state(network)
