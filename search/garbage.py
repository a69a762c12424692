"""Garbage: what the collector need not look through while a search runs.

One look through all that Prefect, MLflow and torch leave in memory takes as long as the loop of twenty children. What
a search makes stays, or is freed without the collector, so that it may come seldom.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

SELDOM = 7_000  # new objects between two looks, at least: ten times as many as usual


@contextmanager
def settled() -> Iterator[None]:
    """Takes what was there before the block for what stays, until its end; garbage among it is found afterwards."""
    usual = gc.get_threshold()
    gc.set_threshold(usual[0] and max(SELDOM, usual[0]), *usual[1:])  # 0 is never
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*usual)
