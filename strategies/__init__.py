"""Searches that do not evolve."""

from strategies.random_search import RandomSearch, RandomSettings
from strategies.screened import Screened, ScreenSettings

__all__ = ["RandomSearch", "RandomSettings", "ScreenSettings", "Screened"]
