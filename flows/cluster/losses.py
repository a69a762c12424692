"""Losses: the task run of a child whose worker or node died is ended, since nobody is left there who would."""

import time
from uuid import UUID

from flows import settings  # before prefect, which reads its settings when it is imported

# isort: split
import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.states import Crashed

from flows.hearing import tell

assert settings.DEFAULTS
SECONDS_TO_BE_KNOWN = 15.0  # until Prefect has written down what a node told it just before: it does so in batches


def lost(run: UUID, reason: str, seconds: float = SECONDS_TO_BE_KNOWN) -> None:
    """Has Prefect mark a task run as crashed; that it cannot be told is a warning, since the ledger has it all.

    Args:
        run: the task run, which Prefect knows if its node lived long enough to tell.
        reason: why it was lost.
        seconds: after which Prefect will not hear of the task run any more.
    """
    tell(lambda client: _marked(client, run, reason, seconds), f"told that task run {run} was lost")


def _marked(client: SyncPrefectClient, run: UUID, reason: str, seconds: float) -> str:
    """Marks a task run as crashed, whatever it is by now, and returns why that was not possible; empty if it was."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            client.set_task_run_state(run, Crashed(message=reason), force=True)
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.NOT_FOUND:
                raise
        else:
            return ""
        if time.monotonic() >= deadline:
            return "its node died before it told Prefect of it"
        time.sleep(0.5)
