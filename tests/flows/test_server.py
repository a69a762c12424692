"""What breaks when Prefect's dependencies are newer than it can stand: that a server starts, and that it schedules."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.servers import prefect_server

SCHEDULE_SECONDS = 60


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with prefect_server(tmp_path_factory.mktemp("prefect")) as server:
        yield f"{server.root}/api"


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
