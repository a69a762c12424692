"""Randomness: every decision draws from a generator made of the seed and the candidate's number, and nothing else."""

from __future__ import annotations

import random


def generator(seed: int, number: int, purpose: str) -> random.Random:
    """Returns the generator of one decision; the same arguments give the same draws, on every machine."""
    return random.Random(f"{seed}:{number}:{purpose}")
