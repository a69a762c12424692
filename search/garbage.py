"""Garbage: what the collector need not look through while a search runs.

One look through all that Prefect, MLflow and torch leave in memory takes as long as the loop of twenty children.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def settled() -> Iterator[None]:
    """Takes what was there before the block for what stays, until its end; garbage among it is found afterwards."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
