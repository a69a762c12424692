"""One Prefect server for all tests of the flows; each test has its own home."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import settings  # noqa: F401  before prefect is imported
from flows.home import Home
from tests.flows.browser import Browser, browser

FEW = {"nsga2": {"founders": 4}, "aging": {"founders": 4}}  # so that some of seven candidates are children
FAST = {
    "name": "tiny",
    "fidelity": {"examples": 256},
    "budget": {"candidates": 7},
    "strategy": FEW,
    "space": {"parameters": 30_000, "macs": 2_000_000},
}


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    quick = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_LOGGING_TO_API_ENABLED: False}
    with prefect_test_harness(server_startup_timeout=300), temporary_settings(quick):
        yield


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mlflow import MlflowClient

    home = Home(tmp_path_factory.mktemp("empty"))
    MlflowClient(home.tracking_uri).get_experiment_by_name("none")
    return home.root / "mlflow.db"


@pytest.fixture(scope="module", autouse=True)
def _stocked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Copies an empty MLflow store into each new home, since making one takes seconds."""
    make = Home.make

    def stocked(home: Home) -> None:
        make(home)
        if not (home.root / "mlflow.db").exists():
            shutil.copy(request.getfixturevalue("empty_store"), home.root)

    with pytest.MonkeyPatch.context() as patch:
        if request.path.name != "test_home.py":  # which looks at what is made
            patch.setattr(Home, "make", stocked)
        yield


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "searches"


@pytest.fixture(scope="session")
def trained_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home to copy: two finalists of a search were trained, and none is champion yet."""
    from tests.flows.champions import trained

    return trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture
def written_once(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes the files of each champion once for all tests, since that takes seconds."""
    from tests.flows.champions import shelved

    monkeypatch.setattr("flows.champions.registry.write", shelved(shelf))


def config(**changes: Any) -> Any:
    from flows.config import SearchConfig

    return SearchConfig.model_validate({**FAST, **changes})


def shown(home: Home, name: str, uri: str | None) -> list[dict[str, Any]]:
    """Returns what MLflow holds of a search's children: number, status, objectives; to compare with the ledger."""
    from mlflow import MlflowClient

    client = MlflowClient(uri or home.tracking_uri)
    if (experiment := client.get_experiment_by_name(name)) is None:
        return []
    runs = client.search_runs([experiment.experiment_id], "tags.`morphogen.kind` = 'child'", max_results=50_000)
    return [
        {
            "number": int(run.data.tags["morphogen.number"]),
            "status": run.data.tags["morphogen.status"],
            "metrics": run.data.metrics,
            "parents": json.loads(run.data.tags["morphogen.parents"]),
        }
        for run in runs
    ]
