"""The family's page and the morning's report where most people see them: in the viewer of a real MLflow server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from flows.home import Home
from flows.nightly import report
from flows.tracking import Tracker
from search import Ledger
from tests.flows.browser import Browser
from tests.flows.families import kin, recorded
from tests.flows.test_morning import night, success
from tests.servers import mlflow_server

START_SECONDS = 120
COUNT = 30


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as running:
        yield running.root


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


@pytest.mark.slow  # for the same server
def test_the_morning_s_report_is_read_as_a_page_that_says_where_its_picture_is(
    server: str, tab: Browser, tmp_path: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    home = Home(tmp_path)
    home.make()
    night(home, [success(0, 0.5, 100), success(1, 0.4, 200)])
    tracker = Tracker(home, "tiny", server, {})
    sent(tracker)
    assert report("tiny", tmp_path)["tracked"]
    tab.look(1600, 1000)
    tab.open(f"{server}/#/experiments/{tracker.experiment}/runs/{tracker.run}/artifacts/reports/night-001.md")
    seen = tab.wait("document.body?.innerText.includes('What changed') && document.body.innerText")
    assert "Front: error against parameters, drawn in night-001.png beside this file." in seen
    assert not [mark for mark in ("](", "| ---", "## ") if mark in seen], "it is shown, and not its source"
