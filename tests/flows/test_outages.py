"""MLflow and Prefect are down for a while: the search goes on, and afterwards each of them has each child once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from flows.home import Home
from search import Ledger
from tests.flows.conftest import FAST, shown
from tests.servers import Server, mlflow_server, prefect_server

SECONDS_TO_HAPPEN = 300.0  # that anything may take on a busy machine
CHILDREN = 36  # of the search, which takes longer than its servers are down
CHILDREN_MEANWHILE = 4


def test_a_search_goes_on_while_both_servers_are_frozen_and_is_shown_once(tmp_path: Path) -> None:
    home = tmp_path / "searches"
    with prefect_server(tmp_path / "prefect") as prefect, mlflow_server(tmp_path / "mlflow") as mlflow:
        document = {**FAST, "budget": {"candidates": CHILDREN}, "slots": {"cpu": 2}, "tracking": mlflow.root}
        with (
            (tmp_path / "output.txt").open("wb") as output,
            searching(prefect, document, home, output) as search,
        ):
            until(lambda: told(home) >= 2)
            with ExitStack() as stack:
                stack.enter_context(prefect.down("frozen"))
                stack.enter_context(mlflow.down("frozen"))
                before = told(home)
                until(lambda: told(home) >= before + CHILDREN_MEANWHILE)
                time.sleep(3)
                assert search.poll() is None
            assert search.wait(SECONDS_TO_HAPPEN) == 0, (tmp_path / "output.txt").read_text()[-3000:]
        said = (tmp_path / "output.txt").read_text()
        assert "Prefect does not answer" not in said
        assert "EventsWorker" not in said  # no dumps between the lines of the progress
        with Ledger.read(home / "tiny") as ledger:
            evaluations = ledger.evaluations()
            tried = [ledger.attempts(number) for number, one in evaluations.items() if one.twin is None]
            assert ledger.pending() == ledger.unsent(10) == []
        assert all(attempts == ["ok"] for attempts in tried)
        once = Counter(evaluations.keys())
        assert Counter(run["number"] for run in shown(Home(home), "tiny", mlflow.root)) == once
        ran = Counter(number for number, one in evaluations.items() if one.twin is None)
        until(lambda: completed(prefect) == ran)


@contextmanager
def searching(prefect: Server, document: dict[str, Any], home: Path, output: Any) -> Iterator[subprocess.Popen[bytes]]:
    file = home.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(document))
    command = [sys.executable, "-c", "from flows.cli import main; main()", "search", "--config", str(file)]
    own = {"PREFECT_API_URL": f"{prefect.root}/api", "PREFECT_HOME": str(home.with_suffix(".prefect"))}
    search = subprocess.Popen([*command, "--home", str(home)], env={**os.environ, **own}, stdout=output, stderr=output)
    try:
        yield search
    finally:
        search.kill()
        search.wait()


def until(happened: Any) -> None:
    deadline = time.monotonic() + SECONDS_TO_HAPPEN
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def told(home: Path) -> int:
    if not (home / "tiny" / "ledger.sqlite").exists():
        return 0
    with Ledger.read(home / "tiny") as ledger:
        return ledger.spent().evaluations


def completed(prefect: Server) -> Counter[int]:
    """How often each child is there among the task runs that completed."""
    from prefect.client.orchestration import SyncPrefectClient

    found: list[Any] = []
    with SyncPrefectClient(f"{prefect.root}/api") as client:
        while page := client.read_task_runs(limit=200, offset=len(found)):
            found += page
    return Counter(int(run.name.split()[0]) for run in found if run.state_name == "Completed")
