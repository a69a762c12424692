"""A warm worker gives the promises of `run_isolated`, and one process for all successes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.training import jobs
from tests.training.jobs import alive
from tests.training.test_worker import marked, until
from training.warm import WarmWorker
from training.worker import ENVIRONMENT, Outcome, landed, preload, run_isolated

PATIENCE = 60.0  # seconds; only a broken program waits that long
PARENT = """
import sys, threading
from pathlib import Path
from tests.training import jobs
from training.warm import WarmWorker
from training.worker import preload

preload()
idle = WarmWorker()
idle.run(jobs.value, 1, result=Path(sys.argv[1]) / "idle.json", timeout=600)
busy, path = WarmWorker(), Path(sys.argv[1]) / "busy.json"
threading.Thread(target=busy.run, args=(jobs.hanging, 1), kwargs={"result": path, "timeout": 600}).start()
"""
ENDING = """
import sys
from pathlib import Path
from tests.training import jobs
from training.warm import WarmWorker
from training.worker import preload

if __name__ == "__main__":
    preload()
    outcome = WarmWorker().run(jobs.process, result=Path(sys.argv[1]), timeout=600)
    print(outcome.value["process"])
"""


@pytest.fixture(scope="module", autouse=True)
def _server() -> None:
    preload()


@pytest.fixture
def worker() -> Iterator[WarmWorker]:
    worker = WarmWorker()
    yield worker
    worker.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "result.json"


def process_of(worker: WarmWorker, file: Path) -> int:
    return int(worker.run(jobs.process, result=file, timeout=PATIENCE).value["process"])


def test_successes_share_one_process_and_come_back_by_file(worker: WarmWorker, file: Path) -> None:
    first = process_of(worker, file)
    outcome = worker.run(jobs.value, 21, result=file, timeout=PATIENCE)
    assert (outcome.status, outcome.value) == ("ok", {"doubled": 42})
    assert landed(file) == outcome
    assert process_of(worker, file) == first


def test_each_function_is_charged_its_own_time(worker: WarmWorker, file: Path) -> None:
    busy = worker.run(jobs.busy, 0.5, result=file, timeout=PATIENCE)
    quick = worker.run(jobs.value, 1, result=file, timeout=PATIENCE)
    assert busy.seconds >= 0.5
    assert 0 < quick.seconds < 0.25


def test_it_leads_its_own_group_on_one_thread_and_does_not_import_the_main_module(
    worker: WarmWorker, file: Path
) -> None:
    found = worker.run(jobs.surroundings, result=file, timeout=PATIENCE).value
    assert found == {"threads": 1, "openmp": ENVIRONMENT["OMP_NUM_THREADS"], "leader": True, "main": None}


@pytest.mark.parametrize(
    ("job", "arguments", "status", "reason"),
    [
        (jobs.killed, (), "killed", "died of SIGKILL"),
        (jobs.crashed, (), "lost", "ended with exit code 3"),
        (jobs.failing, ("memory",), "out_of_memory", "MemoryError"),
        (jobs.failing, ("device",), "out_of_memory", "CUDA out of memory"),
        (jobs.failing, ("bug",), "build_error", "ZeroDivisionError: division by zero"),
        (jobs.hanging, (), "timeout", "killed after 0.5 s"),
    ],
)
def test_a_failure_is_what_run_isolated_says_and_costs_the_process(
    job: object, arguments: tuple[str, ...], status: str, reason: str, worker: WarmWorker, file: Path
) -> None:
    before = process_of(worker, file)
    timeout = 0.5 if status == "timeout" else PATIENCE
    outcome = worker.run(job, *arguments, result=file, timeout=timeout)  # type: ignore[arg-type]
    cold = run_isolated(job, *arguments, result=file, timeout=timeout)  # type: ignore[arg-type]
    assert (outcome.status, outcome.reason) == (cold.status, cold.reason)
    assert outcome.status == status
    assert reason in outcome.reason
    assert until(lambda: not alive(before))
    assert process_of(worker, file) != before


def test_what_a_dead_worker_wrote_is_not_believed(worker: WarmWorker, file: Path) -> None:
    assert worker.run(jobs.killed_after_landing, str(file), result=file, timeout=PATIENCE).status == "killed"
    assert landed(file) is None


def test_what_an_earlier_function_wrote_is_not_taken_for_a_new_result(worker: WarmWorker, file: Path) -> None:
    worker.run(jobs.value, 1, result=file, timeout=PATIENCE)
    assert worker.run(jobs.crashed, result=file, timeout=PATIENCE).status == "lost"
    assert landed(file) is None


def test_one_that_died_between_two_functions_is_replaced_without_a_failure(worker: WarmWorker, file: Path) -> None:
    first = process_of(worker, file)
    os.kill(first, signal.SIGKILL)
    assert until(lambda: not (worker._process and worker._process.is_alive()))  # the news takes a moment
    assert process_of(worker, file) != first


def test_one_with_a_graph_that_broke_is_replaced_after_its_result(worker: WarmWorker, file: Path) -> None:
    outcome = worker.run(jobs.breaking, result=file, timeout=PATIENCE)
    assert outcome.status == "ok"
    assert process_of(worker, file) != outcome.value["process"]


def test_what_a_function_started_dies_with_the_process(worker: WarmWorker, file: Path) -> None:
    left = worker.run(jobs.leaving_a_thread_and_a_process, result=file, timeout=PATIENCE).value["left"]
    assert worker.run(jobs.crashed, result=file, timeout=PATIENCE).status == "lost"
    assert until(lambda: not alive(left))


def test_closing_kills_what_runs_and_the_next_function_gets_a_new_process(worker: WarmWorker, file: Path) -> None:
    outcomes, marker = list[Outcome](), uuid4().hex

    def work() -> None:
        outcomes.append(worker.run(jobs.named, marker, str(file.parent), result=file, timeout=PATIENCE))

    thread = threading.Thread(target=work)
    thread.start()
    assert until(file.with_name(marker).exists)
    begun = time.monotonic()
    worker.close()
    thread.join()
    assert time.monotonic() - begun < PATIENCE / 2
    assert outcomes[0].status == "killed"
    assert not alive(int(file.with_name(marker).read_text()))
    assert worker.run(jobs.value, 1, result=file, timeout=PATIENCE).status == "ok"


def test_closing_does_not_wait_for_a_function_whose_process_is_only_starting(worker: WarmWorker, file: Path) -> None:
    thread = threading.Thread(target=lambda: worker.run(jobs.hanging, result=file, timeout=PATIENCE))
    thread.start()
    assert until(worker._busy.locked)
    begun = time.monotonic()
    worker.close()
    thread.join()
    assert time.monotonic() - begun < PATIENCE / 2


def test_a_program_that_ends_does_not_wait_for_its_idle_worker(file: Path) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", ENDING, str(file)],
        env={**os.environ, "PYTHONPATH": "."},
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert until(lambda: not alive(int(done.stdout)))


def test_nothing_is_left_of_a_search_that_is_killed(tmp_path: Path) -> None:
    marker = f"MARKER_{uuid4().hex}"
    environment = {**os.environ, marker: "1", "PYTHONPATH": "."}
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[2]) as parent:
        try:
            # the parent, its resource tracker and its server, an idle worker, a busy one, and what that one started
            assert until(lambda: len(marked(marker)) >= 6), marked(marker)
            parent.kill()
            parent.wait()
            assert until(lambda: not marked(marker), 10), marked(marker)
        finally:
            for pid in marked(marker):
                os.kill(pid, signal.SIGKILL)
