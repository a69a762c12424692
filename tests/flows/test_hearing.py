"""A flow that ends while Prefect is dead keeps its result, says so, and does not hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from flows import hearing
from flows.home import BadInput
from search import Ledger
from tests.flows.conftest import FAST
from tests.servers import Fault, Server, answers, prefect_server
from tests.training.jobs import alive

Start = Callable[..., subprocess.Popen[str]]
DEAD = "http://127.0.0.1:9/api"  # where nobody listens
FLOW = """
import sys, time
from prefect import flow
from flows.hearing import Unheard, heard, leave

@flow
@heard
def body() -> str:
    print("begun", flush=True)
    sys.stdin.readline()
    return "the result"

try:
    print("told", body(), flush=True)
except Unheard as ended:
    print("unheard", ended.result, flush=True)
leave(5)
print("left in order", flush=True)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with prefect_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def server(place: Server) -> Server:
    """A server that listens; one that an earlier test killed or froze starts again, with its tables."""
    if not answers(f"{place.root}{place.health}"):
        place.kill()
        place.start()
    return place


@pytest.fixture
def settings(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that are started use this server."""
    monkeypatch.setenv("PREFECT_API_URL", f"{server.root}/api")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))


@pytest.fixture
def started() -> Iterator[Start]:
    """Starts programs that are talked to, and ends those that a failed test leaves."""
    programs: list[subprocess.Popen[str]] = []

    def start(*command: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        words = [sys.executable, *command]
        programs.append(subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True))
        return programs[-1]

    yield start
    for program in programs:
        program.kill()
        program.communicate()


def heard_until(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if word in line:
            return
    raise AssertionError("".join(said))


@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_a_flow_whose_server_died_has_its_result_within_seconds(
    fault: Fault, started: Start, server: Server, settings: None
) -> None:
    process = started("-c", FLOW)
    heard_until(process, "begun")
    server.signal(signal.SIGKILL if fault == "killed" else signal.SIGSTOP)
    begun = time.monotonic()
    said, _ = process.communicate("end\n", timeout=120)
    assert "waiting for at most 10 s" in said
    assert "unheard the result" in said, said
    assert process.returncode in (0, 5)
    assert time.monotonic() - begun < 60


def test_a_worker_s_flow_waits_until_its_server_is_back(
    started: Start, server: Server, settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "any")  # as a worker sets it
    process = started("-c", f"from flows import hearing\nhearing.PATIENCE = 0\n{FLOW}")
    heard_until(process, "begun")
    with server.down("killed"):
        assert process.stdin is not None
        process.stdin.write("end\n")
        process.stdin.flush()
        heard_until(process, "waiting until it does")
        time.sleep(3)
        assert process.poll() is None
    said, _ = process.communicate(timeout=120)
    assert "told the result" in said, said
    assert "left in order" in said


def test_what_listens_is_not_silent_and_what_is_dead_says_why(
    server: Server, settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    assert hearing.silence(f"{server.root}/api") == ""
    with temporary_settings({PREFECT_API_URL: f"{server.root}/api"}):
        hearing.check()
    with (
        temporary_settings({PREFECT_API_URL: DEAD}),
        pytest.raises(BadInput, match="Prefect must answer at http") as refused,
    ):
        hearing.check()
    assert "\n" not in str(refused.value)


def test_a_page_for_a_dead_server_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    began = time.monotonic()
    with temporary_settings({PREFECT_API_URL: DEAD}):
        hearing.show("# Night 2", "morning-my_search", "one child")
    assert time.monotonic() - began < 30
    (said,) = caplog.messages
    assert said.startswith("Prefect was not given the page morning-my_search: ")


def test_a_search_whose_server_dies_ends_well_and_says_so(
    started: Start, server: Server, settings: None, tmp_path: Path
) -> None:
    document = {**FAST, "budget": {"candidates": 10}, "slots": {"cpu": 2}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
    words = ("search", "--config", str(tmp_path / "config.yaml"), "--home", str(tmp_path))
    process = started("-c", "from flows.cli import main; main()", *words)
    heard_until(process, " children done")
    server.kill()
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "Prefect does not answer and does not know that this has ended" in said
    assert "Resume:" in said
    with Ledger.read(tmp_path / "tiny") as ledger:
        assert ledger.spent().evaluations == 10


def test_a_search_is_not_begun_without_the_server_that_is_configured(
    started: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", DEAD)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    process = started("-c", "from flows.cli import main; main()", "search", "--home", str(tmp_path))
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert said.splitlines()[-1].startswith("morphogen: Prefect must answer at")
    assert not (tmp_path / "digits").exists()


def test_the_server_of_a_process_that_is_killed_ends_too(
    started: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    asked = "from prefect.server.api.server import SubprocessASGIServer as S"
    says = "print('server', *[one.server_process.pid for one in S._instances.values()], flush=True)"
    process = started("-c", FLOW.replace('print("begun", flush=True)', f"{asked}; {says}"))
    assert process.stdout is not None
    server = next(int(line.split()[1]) for line in process.stdout if line.startswith("server "))
    assert alive(server)
    process.kill()
    deadline = time.monotonic() + 20
    while alive(server) and time.monotonic() < deadline:
        time.sleep(0.1)
    stayed = alive(server)
    with suppress(ProcessLookupError):
        os.kill(server, signal.SIGKILL)  # it holds the pipe that the fixture reads
    assert not stayed


@pytest.mark.parametrize("dead", [False, True])
def test_a_search_that_is_terminated_says_how_to_go_on(
    dead: bool, started: Start, server: Server, settings: None, tmp_path: Path
) -> None:
    document = {**FAST, "fidelity": {"examples": 50_000_000}, "slots": {"cpu": 2}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
    words = ("search", "--config", str(tmp_path / "config.yaml"), "--home", str(tmp_path))
    process = started("-c", "from flows.cli import main; main()", *words)
    heard_until(process, " children done")
    time.sleep(2)  # Python loses what a signal raises while an object is being finalised
    if dead:
        server.kill()
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 143, said
    assert "Stopped; nothing is lost. Go on with:" in said
    assert time.monotonic() - begun < 60
