"""The search flow: one flow run is one search, one task run is one child."""

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from flows import settings  # before prefect, which reads its settings when it is imported

# isort: split
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from flows import report
from flows.config import SearchConfig
from flows.home import Home
from flows.terminal import display
from search import Candidate, Evaluation, Ledger, WeightStore, drive

assert settings
MAX_SLOTS = 64


class ChildFailed(RuntimeError):
    """A child's evaluation failed; the search has taken note of it and goes on."""


@task(name="child", task_run_name="{label}", cache_policy=NO_CACHE, persist_result=False)
def child(label: str, work: Callable[[], Evaluation]) -> str:
    """Evaluates one child and returns its error in words; `label` names the task run.

    Raises:
        ChildFailed: the evaluation is a failure; so that the Prefect UI shows it.
    """
    evaluation = work()
    if not evaluation.ok:
        raise ChildFailed(f"{label}: {evaluation.status}: {evaluation.reason}")
    return f"error {evaluation.objectives['error']:.4f}"
