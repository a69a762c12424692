"""The search flow on real Prefect, real MLflow, real SQLite and real data."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from flows.home import Home
from flows.report import proofs
from search import Ledger
from tests.flows.conftest import config, shown
from tests.flows.test_cli import run


@pytest.fixture(scope="module")
def finished(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from flows.search import search

    home = tmp_path_factory.mktemp("finished")
    search(config(), home)
    return home


def test_a_search_trains_as_many_children_as_its_budget_says(finished: Path) -> None:
    with Ledger.read(finished / "tiny") as ledger:
        spent = ledger.spent()
    assert (spent.candidates, spent.evaluations, spent.failures) == (7, 7, 0)


def test_children_inherit_weights_with_certificates(finished: Path) -> None:
    with Ledger.read(finished / "tiny") as ledger:
        evaluations = ledger.evaluations()
        edited = [c for c in ledger.candidates().values() if c.edits]
    assert edited
    for candidate in edited:
        certificates = evaluations[candidate.number].certificates
        assert [c.rule for c in certificates] == [edit.rule for edit in candidate.edits]
        assert all(c.verdict for c in certificates)


def test_ancestors_cost_is_counted(finished: Path) -> None:
    with Ledger.read(finished / "tiny") as ledger:
        candidates, evaluations = ledger.candidates(), ledger.evaluations()
    for candidate in candidates.values():
        cost = evaluations[candidate.number].cost
        before = evaluations[candidate.parents[0]].cost["lineage_examples"] if candidate.parents else 0
        assert cost["lineage_examples"] == cost["examples"] + before


def test_mlflow_holds_what_the_ledger_holds(finished: Path) -> None:

    with Ledger.read(finished / "tiny") as ledger:
        candidates, evaluations = ledger.candidates(), ledger.evaluations()
        assert ledger.unsent(10) == []
    runs = {run["number"]: run for run in shown(Home(finished), "tiny", None)}
    assert len(runs) == len(shown(Home(finished), "tiny", None))
    assert set(runs) == set(evaluations)
    for number, shown_run in runs.items():
        assert shown_run["status"] == evaluations[number].status
        assert tuple(shown_run["parents"]) == candidates[number].parents
        for name, value in evaluations[number].objectives.items():
            assert shown_run["metrics"][name] == pytest.approx(value)
        told = {name: value for name, value in shown_run["metrics"].items() if name.startswith("certificate/")}
        assert told == proofs(evaluations[number].certificates)


def test_the_search_run_has_front_and_lineage_and_children_are_nested_one_level(finished: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(Home(finished).tracking_uri)
    experiment = client.get_experiment_by_name("tiny")
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if run.data.tags["morphogen.kind"] == "search"]
    assert len(parents) == 1
    assert parents[0].info.status == "FINISHED"
    assert {file.path for file in client.list_artifacts(parents[0].info.run_id)} == {
        "front.json",
        "front.png",
        "lineage.html",
    }
    children = [run for run in runs if run.data.tags["morphogen.kind"] == "child"]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    files = {file.path for file in client.list_artifacts(children[0].info.run_id)}
    assert files == {"architecture.svg", "certificates.json", "edits.json", "genome.json"}
    assert len(client.get_metric_history(children[0].info.run_id, "curve/loss")) > 1


def test_prefect_has_the_flow_run_and_a_named_task_run_for_each_child(finished: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.client.schemas.sorting import FlowRunSort

    with Ledger.read(finished / "tiny") as ledger:
        trained = sorted(number for number, one in ledger.evaluations().items() if one.twin is None)
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=200)
        *_, mine = [run for run in runs if run.parameters.get("home") == str(finished)]
        chosen, names = FlowRunFilter(id=FlowRunFilterId(any_=[mine.id])), list[str]()
        deadline = time.monotonic() + 60
        while len(names) < len(trained) and time.monotonic() < deadline:  # it writes them down a little later
            time.sleep(0.2)
            names = [run.name for run in client.read_task_runs(flow_run_filter=chosen)]
    assert mine.state_name == "Completed"
    assert sorted(int(name.split()[0]) for name in names) == trained


def test_a_finished_search_resumed_does_nothing(finished: Path) -> None:
    from flows.search import search

    with Ledger.read(finished / "tiny") as ledger:
        before = ledger.evaluations()
    result = search(config(), finished)
    with Ledger.read(finished / "tiny") as ledger:
        assert ledger.evaluations() == before
    assert result["evaluations"] == 7
    assert result["untracked"] == 0


def test_a_copied_directory_is_a_search_of_its_own_under_its_new_name(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = shown(Home(finished), "tiny", None)
    shutil.copytree(finished / "tiny", finished / "copy")
    words = ("--home", str(finished))
    assert run(monkeypatch, "resume", "copy", "--candidates", "8", *words) == 0
    with Ledger.read(finished / "copy") as ledger:
        assert (ledger.config["name"], ledger.spent().evaluations) == ("copy", 8)
    assert len(shown(Home(finished), "copy", None)) == 8
    shutil.move(finished / "copy", finished / "moved")
    assert run(monkeypatch, "verify", "moved", *words) == 0
    assert run(monkeypatch, "export", "moved", "0", "--to", str(tmp_path / "files"), *words) == 0
    assert run(monkeypatch, "sync", "moved", *words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "MLflow holds what the ledger holds"
    assert len(shown(Home(finished), "moved", None)) == 8
    assert shown(Home(finished), "tiny", None) == before


def test_a_finished_search_goes_on_with_a_larger_budget_and_is_shown_once(prefect_server: None, home: Path) -> None:
    from flows.search import search

    search(config(budget={"candidates": 2}), home)
    search(config(budget={"candidates": 4}, slots={"cpu": 1}), home)
    with Ledger.read(home / "tiny") as ledger:
        assert ledger.spent().evaluations == 4
        assert all(len(ledger.attempts(number)) == 1 for number in range(4))
    assert sorted(run["number"] for run in shown(Home(home), "tiny", None)) == [0, 1, 2, 3]


def test_the_same_seed_gives_the_same_search(prefect_server: None, tmp_path: Path) -> None:
    from flows.search import search

    seen = []
    for attempt in range(2):
        search(config(budget={"candidates": 6}, slots={"cpu": 1}), tmp_path / str(attempt))
        with Ledger.read(tmp_path / str(attempt) / "tiny") as ledger:
            genomes = [c.genome.digest for c in ledger.candidates().values()]
            seen.append((genomes, [e.weights for e in ledger.evaluations().values()]))
    assert seen[0] == seen[1]


def test_the_front_in_mlflow_is_that_of_the_ledger(finished: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(Home(finished).tracking_uri)
    experiment = client.get_experiment_by_name("tiny")
    run = client.search_runs([experiment.experiment_id], "tags.`morphogen.kind` = 'search'")[0]
    rows = json.loads(Path(client.download_artifacts(run.info.run_id, "front.json", str(tmp_path))).read_text())
    with Ledger.read(finished / "tiny") as ledger:
        assert sorted(row["number"] for row in rows) == sorted(e.number for e in ledger.front(("error", "parameters")))
