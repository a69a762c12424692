from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from tests.training import jobs
from tests.training.jobs import alive
from training import worker
from training.worker import (
    CONTEXT,
    ENVIRONMENT,
    Outcome,
    ended,
    failure,
    kill,
    landed,
    preload,
    run_isolated,
    start,
)

PATIENCE = 60.0  # seconds; only a broken program waits that long
PARENT = """
import sys, threading
from pathlib import Path
from tests.training import jobs
from training.worker import preload, run_isolated

preload()
for number in range(2):
    path = Path(sys.argv[1]) / f"{number}.json"
    threading.Thread(target=run_isolated, args=(jobs.hanging, 1), kwargs={"result": path, "timeout": 600}).start()
"""

SCRIPT = """
import sys
from pathlib import Path

with Path(sys.argv[1]).open("a") as log:
    log.write("imported\\n")
if __name__ == "__main__":
    from tests.training import jobs
    from training.worker import preload, run_isolated

    preload()
    outcome = run_isolated(jobs.value, 1, result=Path(sys.argv[2]), timeout=60)
    sys.exit(outcome.status != "ok" or __file__ != sys.modules["__main__"].__file__)
"""


@pytest.fixture(scope="module", autouse=True)
def _server() -> None:
    before = dict(os.environ)
    preload()
    assert dict(os.environ) == before, "the server's settings must not stay in this process"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "result.json"


def until(condition: Callable[[], bool], patience: float = PATIENCE) -> bool:
    end = time.monotonic() + patience
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return met


def marked(marker: str) -> list[int]:
    """Returns the processes that have a marker in their environment, however they were started."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and marker.encode() in (entry / "environ").read_bytes() and alive(int(entry.name)):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_a_value_comes_back_by_file(file: Path) -> None:
    outcome = run_isolated(jobs.value, 21, result=file, timeout=PATIENCE)
    assert (outcome.status, outcome.reason, outcome.value) == ("ok", "", {"doubled": 42})
    assert outcome.seconds > 0
    assert landed(file) == outcome


def test_a_child_leads_its_own_group_on_one_thread_and_does_not_import_the_main_module(file: Path) -> None:
    found = run_isolated(jobs.surroundings, result=file, timeout=PATIENCE).value
    assert found == {"threads": 1, "openmp": ENVIRONMENT["OMP_NUM_THREADS"], "leader": True, "main": None}


def test_a_script_is_not_imported_by_its_children(tmp_path: Path) -> None:
    script, log = tmp_path / "script.py", tmp_path / "log"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(log), str(tmp_path / "result.json")]
    root = Path(__file__).parents[2]
    subprocess.run(command, check=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
    assert log.read_text() == "imported\n"


@pytest.mark.parametrize("name", ["__spec__", "__file__"])
def test_the_main_module_is_afterwards_as_it_was(name: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main = sys.modules["__main__"]
    monkeypatch.delattr(main, "__file__", raising=False)  # as of `python -c`
    before = dict(vars(main))
    assert run_isolated(jobs.value, 1, result=file, timeout=PATIENCE).status == "ok"
    assert (name in vars(main), vars(main).get(name)) == (name in before, before.get(name))


def test_the_server_has_imported_what_the_first_step_needs(file: Path) -> None:
    assert run_isolated(jobs.first_step, result=file, timeout=PATIENCE).value == {"imported": []}


def test_a_server_that_dies_comes_back_with_its_environment(file: Path) -> None:
    before = run_isolated(jobs.settings, list(ENVIRONMENT), result=file, timeout=PATIENCE).value
    os.kill(before["server"], signal.SIGKILL)
    assert until(lambda: not alive(before["server"]))
    after = run_isolated(jobs.settings, list(ENVIRONMENT), result=file, timeout=PATIENCE).value
    assert before["environment"] == after["environment"] == ENVIRONMENT
    assert after["server"] != before["server"]


def test_a_killed_child_is_one_failed_job(file: Path) -> None:
    outcome = run_isolated(jobs.killed, result=file, timeout=PATIENCE)
    assert (outcome.status, outcome.reason) == ("killed", "died of SIGKILL")
    assert run_isolated(jobs.value, 1, result=file, timeout=PATIENCE).status == "ok"


def test_what_a_dead_child_wrote_is_not_believed(file: Path) -> None:
    assert run_isolated(jobs.killed_after_landing, str(file), result=file, timeout=PATIENCE).status == "killed"


def test_what_an_earlier_child_wrote_is_not_taken_for_a_new_result(file: Path) -> None:
    run_isolated(jobs.value, 1, result=file, timeout=PATIENCE)
    assert run_isolated(jobs.crashed, result=file, timeout=PATIENCE).status == "lost"
    assert landed(file) is None


def test_a_child_that_is_killed_from_outside_is_one_failed_job(file: Path) -> None:
    marker, outcomes = uuid4().hex, list[Outcome]()
    found: list[int] = []

    def work() -> None:
        outcomes.append(run_isolated(jobs.named, marker, str(file.parent), result=file, timeout=PATIENCE))

    thread = threading.Thread(target=work)
    thread.start()
    told = file.with_name(marker)
    assert until(told.exists)
    found.append(int(told.read_text()))
    os.kill(found[0], signal.SIGKILL)
    thread.join()
    assert (outcomes[0].status, outcomes[0].reason) == ("killed", "died of SIGKILL")


def test_a_crashed_child_is_lost(file: Path) -> None:
    outcome = run_isolated(jobs.crashed, result=file, timeout=PATIENCE)
    assert (outcome.status, outcome.reason) == ("lost", "ended with exit code 3")


def test_a_hanging_child_is_killed_after_its_time(file: Path) -> None:
    begun = time.monotonic()
    outcome = run_isolated(jobs.hanging, result=file, timeout=0.5)
    assert (outcome.status, outcome.reason) == ("timeout", "killed after 0.5 s")
    assert 0.5 <= outcome.seconds <= time.monotonic() - begun < PATIENCE
    assert landed(file) is None


def test_one_that_cannot_be_killed_holds_up_nobody_else(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = CONTEXT.Process(target=time.sleep, args=(600,), daemon=True)
    start(process)
    with monkeypatch.context() as patched:
        patched.setattr(os, "killpg", lambda *_: None)  # as in a driver that does not come back
        patched.setattr(worker, "SECONDS_TO_DIE", 0.1)
        kill(process)
        assert run_isolated(jobs.value, 1, result=file, timeout=PATIENCE).status == "ok"
    assert process.is_alive()
    kill(process)


def test_what_a_child_started_dies_with_it(file: Path) -> None:
    outcome = run_isolated(jobs.leaving_a_thread_and_a_process, result=file, timeout=PATIENCE)
    assert outcome.status == "ok"
    assert until(lambda: not alive(outcome.value["left"]))


@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [
        ("memory", "out_of_memory", "MemoryError"),
        ("device", "out_of_memory", "CUDA out of memory"),
        ("tensor", "out_of_memory", "can't allocate memory"),
        ("context", "out_of_memory", "CUDA error: out of memory"),
        ("library", "out_of_memory", "ALLOC_FAILED"),
        ("handle", "out_of_memory", "NOT_INITIALIZED"),
        ("workspace", "out_of_memory", "ALLOCATION_FAILED"),
        ("kernels", "out_of_memory", "INTERNAL_ERROR"),
        ("plans", "lost", "No valid execution plans"),
        ("product", "lost", "EXECUTION_FAILED"),
        ("old", "lost", "too old"),
        ("none", "lost", "No CUDA GPUs"),
        ("engine", "lost", "unable to find an engine"),
        ("primitive", "lost", "could not create a primitive"),
        ("fault", "lost", "ECC error"),
        ("driver", "lost", "failed lazily"),
        ("count", "lost", "cudaGetDeviceCount"),
        ("non_finite", "non_finite", "the loss must be finite"),
        ("build", "build_error", "weights must fit"),
        ("bug", "build_error", "ZeroDivisionError: division by zero"),
        ("disk", "io_error", "disk full: [Errno 28]"),
        ("file", "io_error", "No such file"),
        ("data", "io_error", "removed"),
    ],
)
def test_what_is_raised_becomes_a_status(kind: str, status: str, reason: str, file: Path) -> None:
    got = failure(jobs.FAILURES[kind])
    assert got[0] == status
    assert reason in got[1]
    assert "\n" not in got[1]
    if kind in ("memory", "bug"):
        outcome = run_isolated(jobs.failing, kind, result=file, timeout=PATIENCE)
        assert (outcome.status, outcome.reason) == got


def test_a_signal_without_a_name_has_its_number(file: Path) -> None:
    assert ended(-40, file, 1.0) == Outcome("killed", 1.0, "died of signal 40")


def test_a_tensor_that_does_not_fit_is_out_of_memory(file: Path) -> None:
    assert run_isolated(jobs.allocating, result=file, timeout=PATIENCE).status == "out_of_memory"


def test_a_result_that_is_not_whole_is_none(file: Path) -> None:
    assert landed(file) is None
    for content in ('{"status": "ok"', "[]", '{"status": "ok"}', ""):
        file.write_text(content)
        assert landed(file) is None


def test_several_children_run_at_once(tmp_path: Path) -> None:
    outcomes: dict[int, Outcome] = {}

    def work(number: int) -> None:
        outcomes[number] = run_isolated(jobs.value, number, result=tmp_path / f"{number}.json", timeout=PATIENCE)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: outcome.value["doubled"] for number, outcome in outcomes.items()} == {n: 2 * n for n in range(8)}


def test_no_exit_code_is_lost_to_the_start_of_another_child(tmp_path: Path) -> None:
    def outcomes(thread: int) -> list[Outcome]:
        return [run_isolated(jobs.value, n, result=tmp_path / f"{thread}-{n}", timeout=PATIENCE) for n in range(25)]

    with ThreadPoolExecutor(8) as pool:
        ended = [outcome for some in pool.map(outcomes, range(8)) for outcome in some]
    assert Counter((outcome.status, outcome.reason) for outcome in ended) == {("ok", ""): 200}


def test_nothing_is_left_of_a_search_that_is_killed(tmp_path: Path) -> None:
    marker = f"MARKER_{uuid4().hex}"
    environment = {**os.environ, marker: "1", "PYTHONPATH": "."}
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[2]) as parent:
        try:
            # the parent, its resource tracker and its server, two children, and one process of each child
            assert until(lambda: len(marked(marker)) >= 7), marked(marker)
            parent.kill()
            parent.wait()
            assert until(lambda: not marked(marker), 10), marked(marker)
        finally:
            for pid in marked(marker):
                os.kill(pid, signal.SIGKILL)


def test_a_result_for_which_there_is_no_room_is_a_full_disk(file: Path) -> None:
    outcome = run_isolated(jobs.without_room, result=file, timeout=PATIENCE)
    assert (outcome.status, outcome.reason) == ("io_error", "disk full: there was no room for the result")
    assert landed(file) is None
