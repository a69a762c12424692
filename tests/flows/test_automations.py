"""What a real Prefect server does by itself: it schedules, marks a silent run as crashed, and delivers bad news."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from flows.automations import set_up
from flows.home import BadInput
from tests.servers import Server, prefect_server

PATIENCE = 240.0  # seconds that anything may take on a busy machine
NIGHT = """
import time
from prefect import flow

@flow(name="nightly")
def night() -> None:
    time.sleep(3600)

night()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    with (
        prefect_server(tmp_path_factory.mktemp("prefect")) as running,
        temporary_settings({PREFECT_API_URL: f"{running.root}/api", PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield running


@pytest.fixture
def told(server: None) -> Iterator[list[dict[str, Any]]]:
    """What a webhook was told; its block is `custom-webhook/desk`."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    heard = list[dict[str, Any]]()

    class Desk(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Desk) as desk:
        threading.Thread(target=desk.serve_forever, daemon=True).start()
        CustomWebhookNotificationBlock(
            name="desk",
            url=f"http://127.0.0.1:{desk.server_port}/",
            method="POST",
            json_data={"text": "{{body}}"},
            allow_private_urls=True,
        ).save("desk", overwrite=True)
        yield heard
        desk.shutdown()


def automations() -> dict[str, Any]:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        response = client.request("POST", "/automations/filter", json={})
        found = [one for one in response.json() if one["name"].startswith("morphogen: ")]
    by_name = {one["name"]: one for one in found}
    assert len(by_name) == len(found)
    return by_name


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_without_a_block_only_silent_runs_are_seen_to(server: None) -> None:
    assert set_up(None, 14) == ["morphogen: a silent run is marked as crashed"]
    (silent,) = automations().values()
    assert (silent["trigger"]["posture"], silent["trigger"]["within"]) == ("Proactive", 120.0)
    assert silent["actions"][0]["state"] == "CRASHED"


def test_setting_up_again_changes_and_makes_nothing_twice(told: list[dict[str, Any]]) -> None:
    set_up("custom-webhook/desk", 14)
    names = set_up("custom-webhook/desk", 2)
    found = automations()
    assert set(found) == set(names)
    assert found["morphogen: a stuck run is told"]["trigger"]["within"] == 7200.0


def test_a_failed_run_is_told_and_one_that_went_well_is_not(told: list[dict[str, Any]]) -> None:
    from prefect import flow

    set_up("custom-webhook/desk", 14)

    @flow(name="nightly")
    def night(fails: bool) -> None:
        if fails:
            raise ValueError("the data is gone")

    night(False)
    with pytest.raises(ValueError, match="the data is gone"):
        night(True)
    until(lambda: bool(told))
    (news,) = told
    assert "nightly/" in news["text"]
    assert "Failed. " in news["text"]
    assert "the data is gone" in news["text"]


def test_a_run_that_died_with_all_that_could_tell_is_marked_as_crashed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It beats when it begins and would again after 180 s, which no test waits for: seconds of silence must do."""
    from prefect.client.orchestration import get_client

    monkeypatch.setattr("flows.automations.SILENT", timedelta(seconds=10))  # the least that Prefect takes
    set_up(None, 14)
    own = {"PREFECT_API_URL": f"{server.root}/api", "PREFECT_HOME": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", NIGHT], env={**os.environ, **own})
    try:
        until(lambda: bool(beats()) or process.poll() is not None)
    finally:
        process.kill()
        process.wait()
    with get_client(sync_client=True) as client:
        (run,) = (UUID(beat.rpartition(".")[2]) for beat in beats())
        until(lambda: client.read_flow_run(run).state_name != "Running")
        state = client.read_flow_run(run).state
    assert state is not None
    assert (state.type.value, state.message) == ("CRASHED", "No sign of life: its process or its machine is gone.")


def beats() -> list[str]:
    """The resources of all beats that the server has heard."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        asked = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}}}
        found = client.request("POST", "/events/filter", json=asked).json()["events"]
    return [event["resource"]["prefect.resource.id"] for event in found]


def test_a_cron_deployment_gets_scheduled_runs(server: Server) -> None:
    """With an SQLAlchemy that Prefect cannot stand all looks well, but no run is ever scheduled."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
    from prefect.client.schemas.schedules import CronSchedule

    from flows.search import search

    with get_client(sync_client=True) as client:
        nightly = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 2 * * *", timezone="Europe/Berlin"))
        flow_id = client.create_flow(search)
        deployment = client.create_deployment(flow_id, "nightly", schedules=[nightly], entrypoint="flows.search:search")
        chosen = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment]))
        until(lambda: bool(client.read_flow_runs(flow_run_filter=chosen)))
        assert {run.state_name for run in client.read_flow_runs(flow_run_filter=chosen)} == {"Scheduled"}


@pytest.mark.parametrize("name", ["slack-webhook/nobody", "nonsense", "json/x"])
def test_a_block_that_is_not_there_is_named(server: None, name: str) -> None:
    with pytest.raises(BadInput, match=f"--notify must name .*{name}"):
        set_up(name, 14)


def test_a_server_that_does_not_answer_is_one_line() -> None:
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}),
        pytest.raises(BadInput, match="PREFECT_API_URL must answer"),
    ):
        set_up(None, 14)
