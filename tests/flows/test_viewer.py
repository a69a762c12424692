"""The family's page where most people see it: in the artifact viewer of a real MLflow server."""

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
from mlflow.exceptions import MlflowException

from flows.home import Home
from flows.tracking import Tracker
from search import Ledger
from tests.flows.browser import Browser
from tests.flows.families import kin, recorded

START_SECONDS = 120
COUNT = 30


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tmp_path_factory.mktemp("mlflow")
    command = [str(Path(sys.executable).parent / "mlflow"), "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(home / "files")]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (home / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **settings}, stdout=log, stderr=log, cwd=home)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not healthy(f"http://127.0.0.1:{port}"):
                assert process.poll() is None, (home / "log.txt").read_text()[-2000:]
                assert time.monotonic() < deadline, "the server must be healthy in time"
                time.sleep(0.3)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def sent(tracker: Tracker) -> None:
    """Sends everything; a server that has just begun, on a machine that others use too, may need several tries."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            tracker.drain()
            tracker.publish("FINISHED")
            return
        except MlflowException:
            assert time.monotonic() < deadline, "the server must answer in time"


@pytest.mark.slow  # a minute where others work too: a server starts, and its user interface
def test_the_page_opens_beside_the_search_run_and_names_the_run_of_each_member(
    server: str, tab: Browser, tmp_path: Path
) -> None:
    home = Home(tmp_path)
    recorded(home.search("digits"), *kin(COUNT))
    tracker = Tracker(home, "digits", server, {})
    sent(tracker)
    tab.look(1600, 1000)
    tab.open(f"{server}/#/experiments/{tracker.experiment}/runs/{tracker.run}/artifacts/lineage.html")
    with tab.frame():
        tab.wait("document.body?.dataset.panel")
        seen = tab.value("[origin, document.body.dataset.ready, document.body.dataset.error ?? '']")
        assert seen == ["null", str(COUNT), ""]
        number = int(tab.value("document.body.dataset.panel"))
        with Ledger.read(home.search("digits")) as ledger:
            run = ledger.external_ids([number])[number]
        assert tab.value("document.querySelector('input.run').value") == run
        tab.value("addEventListener('copy', () => (window.copied = String(getSelection())))")
        found = "[...document.querySelectorAll('#panel button')].find((b) => b.textContent === 'Copy address')"
        tab.value(f"{found}.click()", gesture=True)
        address = tab.wait("window.copied")
    assert address.startswith(f"{server}/#/experiments/{tracker.experiment}/runs/{run}")
    tab.open(address)
    tab.wait(f"document.body?.innerText.includes('{run}')")
