"""What a candidate is worth: data, recipes, networks and isolated training.

`DataSpec` and `Recipe` are plain values; what needs torch is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from training.errors import BuildError, DataError, ExportError, NonFinite, TrainingError
from training.recipe import Recipe
from training.spec import DataSpec

if TYPE_CHECKING:
    from training.data import Prepared, load, prepare
    from training.network import build, state
    from training.trainer import Trainer

__all__ = [
    "BuildError",
    "DataError",
    "DataSpec",
    "ExportError",
    "NonFinite",
    "Prepared",
    "Recipe",
    "Trainer",
    "TrainingError",
    "build",
    "load",
    "prepare",
    "state",
]

LAZY = {
    "Prepared": "data",
    "load": "data",
    "prepare": "data",
    "build": "network",
    "state": "network",
    "Trainer": "trainer",
}


def __getattr__(name: str) -> Any:
    """Imports what needs torch, once."""
    if name not in LAZY:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"training.{LAZY[name]}"), name)
