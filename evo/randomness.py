"""Randomness: every decision draws from a generator made of the seed and the candidate's number, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager


def generator(seed: int, number: int, purpose: str) -> random.Random:
    """Returns the generator of one decision; the same arguments give the same draws, on every machine."""
    return random.Random(f"{seed}:{number}:{purpose}")


@contextmanager
def seeded(rng: random.Random) -> Iterator[None]:
    """Lends `rng` to DEAP, which draws from the module `random`, and gives the module its own state back afterwards."""
    before = random.getstate()
    random.setstate(rng.getstate())
    try:
        yield
    finally:
        rng.setstate(random.getstate())
        random.setstate(before)
