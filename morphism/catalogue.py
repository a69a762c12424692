"""The catalogue of exact morphisms, and what each of them can do."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

from genomes import Genome
from morphism.activation import BlendActivation
from morphism.attention import GrowHeads, InsertAttention, InsertExcitation
from morphism.branch import Replicate, SplitLayer
from morphism.deepen import BlendedLayer, IdentityLayer, ParametricLayer, Residual
from morphism.edit import Edit, Modes, Site
from morphism.factorise import Factorise
from morphism.inline import Inline
from morphism.kernel import Grow, Undilate
from morphism.normalise import IdentityNorm
from morphism.pyramid import Pyramid
from morphism.skip import SkipAdd, SkipConcat, SkipGate
from morphism.spatial import Densify, PoolToDepthwise, Subsample
from morphism.widen import EqualReplicas, Pair, Split, ZeroFanout


class Morphism(Protocol):
    """A kind of edit; planning one touches no tensors."""

    @property
    def name(self) -> str:
        """What people read, such as `widen.split`."""
        ...

    @property
    def modes(self) -> Modes:
        """The modes in which its edits preserve the function; a disruption has none."""
        ...

    @property
    def weight(self) -> float:
        """How often it is drawn, relative to the others."""
        ...

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the places where it may be planned."""
        ...

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit at a site.

        Raises:
            Inapplicable: it cannot be made there, or would not keep what it promises.
        """
        ...


CATALOGUE: tuple[Morphism, ...] = (
    Split(),
    Pair(),
    ZeroFanout(),
    EqualReplicas(),
    Residual(),
    IdentityLayer(),
    ParametricLayer(),
    BlendedLayer(),
    IdentityNorm(),
    Factorise(),
    Grow(),
    Undilate(),
    Densify(),
    PoolToDepthwise(),
    Subsample(),
    SkipAdd(),
    SkipConcat(),
    SkipGate(),
    Pyramid(),
    Replicate(),
    SplitLayer(),
    BlendActivation(),
    InsertExcitation(),
    InsertAttention(),
    GrowHeads(),
    Inline(),
)

# What these add begins at zero, so that any number of them share one backward pass (`training.sensitivity`).
ZERO_INITIALISED = frozenset(
    {
        "widen.zero_fanout",
        "deepen.residual",
        "kernel.grow",
        "skip.add",
        "skip.concat",
        "skip.gate",
        "se.insert",
        "attention.insert",
    }
)
