"""Real servers of Prefect and MLflow, which can be killed, frozen, and started again with the same data."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

START_SECONDS = 400
PROGRAMS = Path(sys.executable).parent
Fault = Literal["killed", "frozen"]


def free_port() -> int:
    """Returns a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A server on a port of its own, with its data in a directory of its own.

    Attributes:
        name: of its log.
        home: the directory of its data and log.
        command: that starts it.
        environment: on top of this process's, from which Prefect's settings are taken out.
        root: its address.
        health: the path that answers when it is ready.
    """

    name: str
    home: Path
    command: list[str]
    environment: Mapping[str, str]
    root: str
    health: str
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Starts it and waits until it answers."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
        with (self.home / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env={**clean, **self.environment}, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{self.root}{self.health}"):
            said = (self.home / f"{self.name}.log").read_text()[-2000:]
            assert self.process.poll() is None, said
            assert time.monotonic() < deadline, f"{self.name} must answer within {START_SECONDS} s: {said}"
            time.sleep(0.3)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to it and to all processes that it started."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """Ends it at once, and waits until it is gone."""
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait()

    @contextmanager
    def down(self, fault: Fault) -> Iterator[None]:
        """Keeps it dead, or deaf with its connections open, while the block runs; then it answers again."""
        if fault == "frozen":
            self.signal(signal.SIGSTOP)
        else:
            self.kill()
        try:
            yield
        finally:
            if fault == "frozen":
                self.signal(signal.SIGCONT)
            else:
                self.start()


@contextmanager
def prefect_server(home: Path) -> Iterator[Server]:
    """Runs a Prefect server; its API is at `root` + "/api"."""
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    environment = {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        **{key: value for key, value in os.environ.items() if key.startswith("PREFECT_SERVER_SERVICES_")},
    }
    command = [str(PROGRAMS / "prefect"), "server", "start"]
    with running(Server("prefect", home, command, environment, f"http://127.0.0.1:{port}", "/api/health")) as server:
        yield server


@contextmanager
def mlflow_server(home: Path) -> Iterator[Server]:
    """Runs an MLflow server with its store and its artifacts below `home`."""
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [str(PROGRAMS / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{home / 'mlflow.db'}",
        "--artifacts-destination",
        str(home / "files"),
    ]
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with running(Server("mlflow", home, command, environment, f"http://127.0.0.1:{port}", "/health")) as server:
        yield server


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """Starts a server and ends it with the block, also if it is frozen."""
    try:
        server.start()
        yield server
    finally:
        server.kill()


def answers(address: str) -> bool:
    """Says whether an address answers with success."""
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
