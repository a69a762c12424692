"""Searches that do not evolve."""

from strategies.random_search import RandomSearch, RandomSettings

__all__ = ["RandomSearch", "RandomSettings"]
