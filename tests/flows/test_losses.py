"""The task run of a lost child ends as crashed on a real Prefect server, also one that was not known at once."""

from __future__ import annotations

import threading
import time
from uuid import UUID, uuid4

import pytest
from prefect import task
from prefect.client.orchestration import get_client
from prefect.states import Running

from flows.cluster import losses
from flows.cluster.losses import lost

WHY = "NodeDiedError: the node is gone"


@task
def child() -> None:
    pass


def known(run: UUID) -> None:
    """Has the server know a task run that runs, as its node would have."""
    with get_client(sync_client=True) as client:
        client.create_task_run(child, None, f"{run}", id=run, state=Running())


def state(run: UUID) -> tuple[str, str | None]:
    with get_client(sync_client=True) as client:
        found = client.read_task_run(run).state
    assert found is not None
    return found.type.value, found.message


def test_a_task_run_that_runs_is_crashed_and_says_why(prefect_server: None, caplog: pytest.LogCaptureFixture) -> None:
    known(run := uuid4())
    lost(run, WHY)
    assert state(run) == ("CRASHED", WHY)
    assert caplog.text == ""


def test_one_that_prefect_hears_of_only_now_is_waited_for(
    prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, naps = uuid4(), []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        known(run)

    monkeypatch.setattr(losses.time, "sleep", nap)
    lost(run, WHY, 60)
    assert state(run) == ("CRASHED", WHY)
    assert len(naps) == 1


def test_one_that_prefect_never_heard_of_is_a_warning(prefect_server: None, caplog: pytest.LogCaptureFixture) -> None:
    lost(run := uuid4(), WHY, 0)
    assert caplog.messages == [
        f"Prefect was not told that task run {run} was lost: its node died before it told Prefect of it"
    ]


def test_a_dead_prefect_is_a_warning_and_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    began = time.monotonic()
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        lost(uuid4(), WHY, 600)
    assert time.monotonic() - began < 60
    assert "was lost: Failed to reach API at http://127.0.0.1:9" in caplog.text


def test_it_can_be_told_from_any_thread(prefect_server: None) -> None:
    known(run := uuid4())
    thread = threading.Thread(target=lost, args=(run, WHY))
    thread.start()
    thread.join(60)
    assert state(run) == ("CRASHED", WHY)
