"""Attempt: one edit, planned within the limits of a search or not at all."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import reduce

from genomes import Bounded, Genome, InvalidGenome, Limits, allowed
from morphism import Edit, Inapplicable, Morphism, compose
from morphism.edit import Site
from morphism.lint import lint


def attempt(kind: Morphism, genome: Genome, site: Site, rng: random.Random, limits: Limits) -> Edit | None:
    """Returns the edit at a site; None if it cannot be made there or leads to a genome that is not allowed."""
    try:
        edit = kind.plan(Bounded(genome, limits), site, rng)
        return edit if allowed(edit.genome, limits) else None
    except (Inapplicable, InvalidGenome):
        return None


def sound(edits: Sequence[Edit]) -> bool:
    """Says whether all that a chain of edits adds can learn; each alone was asked when it was planned."""
    return len(edits) < 2 or not lint(reduce(compose, edits))
