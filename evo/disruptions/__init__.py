"""Disruptions: edits that do not keep the function, and say so; what still fits is inherited, the rest starts fresh.

They have the form of a morphism (`morphism.Morphism`), with no mode in which the function is preserved.
"""

from evo.disruptions.change import Change, other_activations, other_pools, other_strides
from evo.disruptions.layers import AddNoise, Separate, ShrinkKernel
from evo.disruptions.pruning import Prune, PruneGamma
from evo.disruptions.wiring import DropBranch, Remove, Rewire
from morphism import Morphism

DISRUPTIONS: tuple[Morphism, ...] = (
    Remove(),
    Change("change.activation", other_activations, 1.0),
    Change("change.pool", other_pools, 0.5),
    Change("change.stride", other_strides, 0.5),
    ShrinkKernel(),
    Separate(),
    AddNoise(),
    Prune(),
    PruneGamma(),
    DropBranch(),
    Rewire(),
)

__all__ = ["DISRUPTIONS"]
