"""A search that a worker runs is stopped: its children end in seconds, nothing is left, and the next run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from search import Ledger
from tests.flows.conftest import FAST
from tests.servers import PROGRAMS, Server, prefect_server

ROOT = Path(__file__).resolve().parents[2]
SECONDS_TO_END = 10.0  # that a stopped search may take until nothing of it is left
SECONDS_TO_HAPPEN = 400.0  # that anything may take on a busy machine
SLOTS = 2
ENDLESS = {"fidelity": {"examples": 500_000_000}, "timeout": 36_000}
Stop = Callable[["Worker", UUID], None]


class Worker:
    """A worker of a process pool on a server, and the runs that it is given."""

    def __init__(self, server: Server, home: Path) -> None:
        self.home, self.mark = home, f"MORPHOGEN_TEST={home}"
        own = {"PREFECT_API_URL": f"{server.root}/api", "PREFECT_HOME": str(home / "prefect"), "PYTHONPATH": str(ROOT)}
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
        command = [str(PROGRAMS / "prefect"), "worker", "start", "--pool", "here", "--type", "process"]
        with (home / "worker.log").open("wb") as log:
            self.process = subprocess.Popen(
                command, env={**clean, **own}, cwd=home, stdout=log, stderr=log, start_new_session=True
            )

    def begin(self, client: Any, **changes: Any) -> UUID:
        """Starts a deployment run of a search and returns its id."""
        from prefect.client.schemas.actions import WorkPoolCreate
        from prefect.exceptions import ObjectAlreadyExists

        from flows.search import search

        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name="here", type="process"))
        job = {"env": {"MORPHOGEN_TEST": str(self.home), "PYTHONPATH": str(ROOT)}}
        there = {"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}  # a path would be copied
        given: dict[str, Any] = {"work_pool_name": "here", "pull_steps": [there], "job_variables": job}
        deployment = client.create_deployment(
            client.create_flow(search), "any", entrypoint="flows.search:search", **given
        )
        document = {**FAST, "slots": {"cpu": SLOTS}, **changes}
        parameters = {"config": document, "home": str(self.home)}
        return UUID(str(client.create_flow_run_from_deployment(deployment, parameters=parameters).id))

    def processes(self) -> list[int]:
        """Returns the numbers of all processes of this worker's searches."""
        found = []
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and int(process.name) != os.getpid():
                try:
                    if self.mark.encode() in (process / "environ").read_bytes():
                        found.append(int(process.name))
                except OSError:
                    continue
        return found

    def log(self) -> str:
        return (self.home / "worker.log").read_text()[-3000:]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with prefect_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: f"{server.root}/api"}), get_client(sync_client=True) as client:
        yield client


@contextmanager
def working(server: Server, home: Path) -> Iterator[Worker]:
    worker = Worker(server, home)
    try:
        yield worker
    finally:
        worker.process.terminate()
        try:
            worker.process.wait(30)
        finally:
            worker.process.kill()
            for number in worker.processes():
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)  # what a failed test leaves


def until(happened: Callable[[], bool], worker: Worker, seconds: float = SECONDS_TO_HAPPEN) -> float:
    """Waits until something has happened and returns how many seconds that took."""
    begun = time.monotonic()
    while not happened():
        assert time.monotonic() - begun < seconds, (worker.processes(), worker.log())
        time.sleep(0.1)
    return time.monotonic() - begun


def told(home: Path) -> int:
    if not (home / "tiny" / "ledger.sqlite").exists():
        return 0
    with Ledger.read(home / "tiny") as ledger:
        return ledger.spent().evaluations


def flying(home: Path) -> int:
    if not (home / "tiny" / "ledger.sqlite").exists():
        return 0
    with Ledger.read(home / "tiny") as ledger:
        return len(ledger.pending())


def cancel(worker: Worker, run: UUID) -> None:
    command = [str(PROGRAMS / "prefect"), "flow-run", "cancel", str(run)]
    from prefect.settings import PREFECT_API_URL

    environment = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())}
    subprocess.run(command, env=environment, check=True, capture_output=True)


def terminate(worker: Worker, run: UUID) -> None:
    worker.process.terminate()


def interrupt(worker: Worker, run: UUID) -> None:
    os.killpg(worker.process.pid, signal.SIGINT)  # as Ctrl-C does


def test_a_child_that_starts_while_children_are_stopped_is_stopped_too(tmp_path: Path) -> None:
    from flows.search import stop_children
    from training.pool import Pool
    from training.slots import cpu_slots

    pool, held, ended = Pool(cpu_slots(1)), threading.Event(), threading.Event()

    def train() -> None:
        with pool.one(0) as slot:
            held.set()
            time.sleep(1)  # longer than a single look takes
            pool.run(slot, time.sleep, 100, result=tmp_path / "result.json", timeout=200)
        ended.set()

    threading.Thread(target=train).start()
    held.wait()
    begun = time.monotonic()
    stop_children(pool)
    assert ended.wait(60)
    assert time.monotonic() - begun < 60
    assert pool.occupied() == ()


@pytest.mark.parametrize("stop", [cancel, terminate, interrupt])
def test_a_search_that_is_stopped_leaves_no_process_behind(
    stop: Stop, server: Server, client: Any, tmp_path: Path
) -> None:
    with working(server, tmp_path) as worker:
        run = worker.begin(client, **ENDLESS)
        until(lambda: flying(tmp_path) == SLOTS and len(worker.processes()) >= SLOTS + 2, worker)
        time.sleep(2)
        stop(worker, run)
        took = until(lambda: worker.processes() == [], worker)
        assert took < SECONDS_TO_END, worker.log()
        if stop is cancel:
            until(lambda: client.read_flow_run(run).state_name == "Cancelled", worker)
    with Ledger.open(tmp_path / "tiny") as ledger:  # nobody holds its lock
        assert ledger.pending() == [0, 1]
        assert [ledger.attempts(number) for number in (0, 1)] == [["interrupted"], ["interrupted"]]


def test_a_cancelled_search_goes_on_with_the_next_run_and_trains_nothing_twice(
    server: Server, client: Any, tmp_path: Path
) -> None:
    changes = {"fidelity": {"examples": 100_000}, "budget": {"candidates": 8}}
    with working(server, tmp_path) as worker:
        first = worker.begin(client, **changes)
        until(lambda: told(tmp_path) >= 2, worker)
        cancel(worker, first)
        until(lambda: client.read_flow_run(first).state_name == "Cancelled", worker)
        assert 2 <= told(tmp_path) < 8
        second = worker.begin(client, **changes)
        until(lambda: client.read_flow_run(second).state.is_final(), worker)
        assert client.read_flow_run(second).state_name == "Completed", worker.log()
    check_whole(tmp_path, 8)


def check_whole(home: Path, total: int) -> None:
    """Each candidate was told, and each that was trained ended well once."""
    with Ledger.read(home / "tiny") as ledger:
        evaluations = ledger.evaluations()
        tried = {number: ledger.attempts(number) for number, one in evaluations.items() if one.twin is None}
    assert sorted(evaluations) == list(range(total))
    outcomes = Counter(outcome for attempts in tried.values() for outcome in attempts)
    assert outcomes["ok"] == len(tried)
    assert outcomes["interrupted"] <= SLOTS, tried
    assert set(outcomes) <= {"ok", "interrupted"}, tried
