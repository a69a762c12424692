"""What breaks when Prefect's dependencies are newer than it can stand: that a server starts, and that it schedules."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

START_SECONDS = 120
SCHEDULE_SECONDS = 60


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tmp_path_factory.mktemp("prefect")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    settings = {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    with (home / "log.txt").open("wb") as log:
        command = [str(Path(sys.executable).parent / "prefect"), "server", "start"]
        server = subprocess.Popen(command, env={**environment, **settings}, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}/api"
            deadline = time.monotonic() + START_SECONDS
            while not healthy(address):
                assert server.poll() is None, (home / "log.txt").read_text()[-2000:]
                assert time.monotonic() < deadline, "the server must be healthy in time"
                time.sleep(0.3)
            yield address
        finally:
            server.terminate()
            server.wait(30)


def healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def test_a_cron_deployment_gets_scheduled_runs(api: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.search import search

    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        nightly = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 2 * * *", timezone="Europe/Berlin"))
        flow_id = client.create_flow(search)
        deployment = client.create_deployment(flow_id, "nightly", schedules=[nightly], entrypoint="flows.search:search")
        chosen = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment]))
        deadline = time.monotonic() + SCHEDULE_SECONDS
        runs = client.read_flow_runs(flow_run_filter=chosen)
        while not runs and time.monotonic() < deadline:
            time.sleep(1)
            runs = client.read_flow_runs(flow_run_filter=chosen)
        assert runs
        assert {run.state_name for run in runs} == {"Scheduled"}
