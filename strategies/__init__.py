"""Searches that do not evolve, and wrappers of any search that spend less on its candidates."""

from strategies.asha import ASHA
from strategies.halving import SuccessiveHalving
from strategies.ladder import LadderSettings
from strategies.random_search import RandomSearch, RandomSettings
from strategies.screened import Screened, ScreenSettings

__all__ = [
    "ASHA",
    "LadderSettings",
    "RandomSearch",
    "RandomSettings",
    "ScreenSettings",
    "Screened",
    "SuccessiveHalving",
]
