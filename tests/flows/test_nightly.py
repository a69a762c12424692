"""Nights on real Prefect, MLflow, SQLite and processes: a search goes on, is succeeded, and tells what changed."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flows.home import BadInput, Home
from flows.nights.record import NIGHTS, Nights, recorded
from search import INFRASTRUCTURAL, Ledger, SearchLocked
from tests.flows.conftest import config, shown
from tests.flows.test_cli import run
from tests.flows.test_kill import told, workers
from tests.flows.test_morning import rows

ENDLESS: Any = config(budget={})
PATIENCE = 120  # seconds


@pytest.fixture(scope="module")
def two(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home after two nights of four candidates each; what the first one left is kept aside."""
    from flows.nightly import nightly

    home = tmp_path_factory.mktemp("nights")
    nightly(ENDLESS, candidates=4, home=home)
    shutil.copytree(home / "tiny", home / "aside" / "first")
    nightly(ENDLESS, candidates=4, home=home)
    return home


@pytest.fixture
def later(two: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(two, tmp_path / "later"))


def test_the_second_night_goes_on_with_the_first_ones_population_and_trains_nothing_again(two: Path) -> None:
    with Ledger.read(two / "aside" / "first") as ledger:
        first = ledger.evaluations()
    with Ledger.read(two / "tiny") as ledger:
        candidates, evaluations = ledger.candidates(), ledger.evaluations()
        assert all(len(ledger.attempts(number)) <= 1 for number in evaluations)
    assert (sorted(first), sorted(evaluations)) == ([*range(4)], [*range(8)])
    assert {number: evaluations[number] for number in first} == first
    parents = {parent for number in range(4, 8) for parent in candidates[number].parents}
    assert parents & set(first)


def test_costs_are_added_up(two: Path) -> None:
    one, other = recorded(Home(two), "tiny")
    assert (one.outcome, other.outcome) == ("went on", "went on")
    assert one.last.front == other.before.front
    assert one.last.spent.train_seconds == other.before.spent.train_seconds > 0
    with Ledger.read(two / "tiny") as ledger:
        assert ledger.spent().train_seconds == other.last.spent.train_seconds > one.last.spent.train_seconds
    costs = rows((two / "tiny" / NIGHTS / "night-002.md").read_text(), "Cost")
    assert ["children", "4", "8", "8"] in costs


def test_the_reports_name_the_difference(two: Path) -> None:
    first, second = ((two / "tiny" / NIGHTS / f"night-00{n}.md").read_text() for n in (1, 2))
    assert "This is the first report" in first
    assert "This is the first report" not in second
    one, other = (night.last.front for night in recorded(Home(two), "tiny"))
    new = ", ".join(str(number) for number in other if number not in one) or "none"
    gone = ", ".join(str(number) for number in one if number not in other) or "none"
    assert f"New on the front: {new}. No longer on it: {gone}." in second


def test_prefect_and_mlflow_have_the_reports(two: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    chosen = ArtifactFilter(key=ArtifactFilterKey(any_=["morning-tiny"]))
    with get_client(sync_client=True) as client:
        found = [one for one in client.read_artifacts(artifact_filter=chosen) if f"# {headline(two, 2)}" in one.data]
    assert found
    assert "(data:image/png;base64,iVBOR" in found[0].data
    mlflow = MlflowClient(Home(two).tracking_uri)
    experiment = mlflow.get_experiment_by_name("tiny")
    (search_run,) = mlflow.search_runs([experiment.experiment_id], "tags.`morphogen.kind` = 'search'")
    files = {file.path for file in mlflow.list_artifacts(search_run.info.run_id, "reports")}
    assert files == {f"reports/night-00{n}.{suffix}" for n in (1, 2) for suffix in ("md", "png")}
    copy = mlflow.download_artifacts(search_run.info.run_id, "reports/night-002.md", str(tmp_path))
    text = (two / "tiny" / NIGHTS / "night-002.md").read_text()
    picture = "![Front: error against parameters](night-002.png)"
    assert picture in text
    words = "Front: error against parameters, drawn in `night-002.png` beside this file."
    assert Path(copy).read_text() == text.replace(picture, words)


def headline(home: Path, number: int) -> str:
    return (home / "tiny" / NIGHTS / f"night-00{number}.md").read_text().splitlines()[0].lstrip("# ")


def test_the_report_is_made_again_from_the_record_alike(two: Path) -> None:
    from flows.nightly import report

    file = two / "tiny" / NIGHTS / "night-002.md"
    before = file.read_text()
    file.unlink()
    made = report("tiny", two)
    assert made == {"file": str(file), "headline": headline(two, 2), "tracked": True}
    assert file.read_text() == before
    assert len(recorded(Home(two), "tiny")) == 2


def test_the_command_line_prints_the_last_report(
    two: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "report", "tiny", "--home", str(two)) == 0
    said = capsys.readouterr().out
    assert "Night 2 of tiny" in said
    assert said.splitlines()[-1] == f"Report:   {two / 'tiny' / NIGHTS / 'night-002.md'}"


def test_what_can_be_resumed_by_hand_has_the_whole_searchs_budget(two: Path) -> None:
    with Ledger.read(two / "tiny") as ledger:
        assert ledger.config["budget"] == ENDLESS.model_dump(mode="json")["budget"]


def test_the_whole_budget_ends_a_search_and_later_nights_rest(prefect_server: None, home: Path) -> None:
    from flows.nightly import nightly

    settings = config(budget={"candidates": 3})
    assert [nightly(settings, candidates=2, home=home)["outcome"] for _ in range(3)] == ["went on", "spent", "rested"]
    state = nightly(settings, candidates=2, home=home, return_state=True)
    assert (state.type.value, state.name) == ("COMPLETED", "Rested")
    assert "larger budget" in state.message
    with Ledger.read(home / "tiny") as ledger:
        assert ledger.spent().evaluations == 3
    assert len(recorded(Home(home), "tiny")) == 2
    assert nightly(config(budget={"candidates": 4}), candidates=2, home=home)["outcome"] == "spent"


def test_a_night_is_bounded_in_seconds(prefect_server: None, home: Path) -> None:
    from flows.nightly import nightly

    for number in (1, 2):
        assert nightly(ENDLESS, seconds=2.0, home=home)["outcome"] == "went on"
        night = recorded(Home(home), "tiny")[-1]
        assert night.number == number
        assert night.last.spent.elapsed_seconds - night.before.spent.elapsed_seconds >= 1.9
        assert night.last.spent.evaluations > night.before.spent.evaluations


def test_a_finished_search_is_followed_by_a_successor_from_its_front(prefect_server: None, home: Path) -> None:
    from flows.nightly import nightly

    settings = config(budget={"candidates": 6})
    told = [nightly(settings, candidates=6, searches=2, widen=1.5, home=home) for _ in range(3)]
    assert [(one["search"], one["outcome"]) for one in told[:2]] == [("tiny", "spent"), ("tiny-2", "spent")]
    assert told[2]["outcome"] == "rested"
    with Ledger.read(home / "tiny-2") as ledger:
        assert ledger.config["predecessor"] == "tiny"
        assert ledger.config["space"]["parameters"] == 45_000
        assert ledger.spent().evaluations == 6
    assert "which succeeds tiny" in (home / "tiny" / NIGHTS / "night-002.md").read_text()
    assert len(shown(Home(home), "tiny-2", None)) == 6


@contextmanager
def night_elsewhere(home: Path, seconds: float = 600) -> Iterator[subprocess.Popen[bytes]]:
    """A night in a process of its own, as a worker runs it."""
    code = (
        "import json, sys; from pathlib import Path; from flows.nightly import nightly\n"
        "if __name__ == '__main__': nightly(json.loads(sys.argv[1]), float(sys.argv[2]), home=Path(sys.argv[3]))\n"
    )
    text = json.dumps({**ENDLESS.model_dump(mode="json"), "fidelity": {"examples": 2048}})
    with (home / "output.txt").open("ab") as output:
        command = [sys.executable, "-c", code, text, str(seconds), str(home)]
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def until(home: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while told(home) < count:
        assert process.poll() is None, (home / "output.txt").read_text()[-3000:]
        assert time.monotonic() < deadline, "children must be done in time"
        time.sleep(0.05)


def test_of_two_nights_at_once_one_is_skipped_and_a_killed_one_is_mended_by_the_next(
    prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import get_current_settings

    from flows.nightly import nightly

    monkeypatch.setenv("MORPHOGEN_TEST", str(tmp_path))  # by which its processes are known
    monkeypatch.setenv("PREFECT_API_URL", str(get_current_settings().api.url))
    settings = config(budget={}, fidelity={"examples": 2048})
    with night_elsewhere(tmp_path) as process:
        until(tmp_path, 3, process)
        state = nightly(settings, candidates=2, home=tmp_path, return_state=True)
        assert (state.type.value, state.name) == ("COMPLETED", "Skipped")
        assert "night of search tiny must be run by one process at a time" in state.message
        assert [night.outcome for night in recorded(Home(tmp_path), "tiny")] == ["running"]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + PATIENCE
    while workers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    done = told(tmp_path)
    result = nightly(settings, candidates=4, home=tmp_path)
    assert result["outcome"] == "went on"
    crashed, mended = recorded(Home(tmp_path), "tiny")
    assert (crashed.outcome, crashed.last.spent.evaluations) == ("crashed", done)
    assert crashed.last == mended.before
    assert (
        f"**Night 1 before it: it was killed**; its {done} children are in the ledger"
        in Path(result["file"]).read_text()
    )
    with Ledger.read(tmp_path / "tiny") as ledger:
        evaluations = ledger.evaluations()
        attempts = {n: ledger.attempts(n) for n, e in evaluations.items() if e.twin is None}
        assert ledger.pending() == []
    assert sorted(evaluations) == list(range(len(evaluations)))
    assert all(tried.count("ok") == evaluations[n].ok for n, tried in attempts.items()), attempts
    assert {outcome for tried in attempts.values() for outcome in tried} <= {"ok", "interrupted"} | INFRASTRUCTURAL
    assert sorted(one["number"] for one in shown(Home(tmp_path), "tiny", None)) == sorted(evaluations)


def test_a_search_that_is_run_by_hand_is_left_alone(later: Path) -> None:
    from flows.nightly import nightly

    with Ledger.open(later / "tiny"):
        result = nightly(ENDLESS, candidates=1, home=later)
    assert result["outcome"] == "skipped"
    assert "search tiny must be run by one process at a time" in result["note"]
    assert len(recorded(Home(later), "tiny")) == 2


def test_a_night_that_fails_is_recorded_and_the_next_one_goes_on(later: Path) -> None:
    from flows.nightly import nightly

    with pytest.raises(Exception, match="another configuration"):
        nightly(config(budget={}, seed=7), candidates=2, home=later)
    failed = recorded(Home(later), "tiny")[-1]
    assert failed.outcome == "failed"
    assert "seed is 0, not 7" in failed.note
    report = (later / "tiny" / NIGHTS / "night-003.md").read_text()
    assert "it failed" in report.splitlines()[0]
    assert failed.note in report
    nightly(ENDLESS, candidates=2, home=later)
    assert f"it failed ({failed.note})" in (later / "tiny" / NIGHTS / "night-004.md").read_text()
    with Ledger.read(later / "tiny") as ledger:
        assert ledger.spent().evaluations == 10


@pytest.mark.parametrize("began", ["tiny", "moved-far"])
def test_nights_follow_a_directory_that_is_renamed(began: str, two: Path, later: Path) -> None:
    from flows.nightly import nightly, report

    shutil.move(later / "tiny", later / "moved")
    for file in (later / "moved" / NIGHTS).glob("night-*.json"):
        file.write_text(file.read_text().replace('"search": "tiny"', f'"search": "{began}"'))
    assert report("moved", later)["headline"] == headline(two, 2).replace("tiny", "moved")
    result = nightly(config(name="moved", budget={}), candidates=1, home=later)
    assert (result["search"], result["night"]) == ("moved", 3)
    text = Path(result["file"]).read_text()
    assert "tiny" not in text
    assert "Night 3 of moved" in text


def test_a_search_that_another_process_takes_during_the_night_is_a_failure_and_none_that_was_skipped(
    prefect_server: None, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import nightly as flow

    right = flow.search

    def taken(**given: Any) -> None:
        right(**given)
        raise SearchLocked("search tiny was taken over by another process: stop this one")

    monkeypatch.setattr(flow, "search", taken)
    with pytest.raises(SearchLocked, match="taken over"):
        flow.nightly(ENDLESS, candidates=1, home=home)
    assert recorded(Home(home), "tiny")[-1].outcome == "failed"
    with Ledger.read(home / "tiny") as ledger:
        assert ledger.config["budget"] == ENDLESS.model_dump(mode="json")["budget"]  # and not that of the night


def test_a_search_that_has_proposed_all_is_told_of_no_larger_budget(later: Path) -> None:
    from flows.nightly import nightly

    file = later / "tiny" / NIGHTS / "night-002.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "outcome": "exhausted"}))
    note = nightly(ENDLESS, candidates=1, home=later)["note"]
    assert "more searches for a successor" in note
    assert "larger budget" not in note


def test_a_search_that_cannot_begin_leaves_nothing(prefect_server: None, home: Path) -> None:
    from flows.nightly import nightly

    with pytest.raises(BadInput, match="parameters"):
        nightly(config(space={"parameters": 10}), home=home)
    assert not (home / "tiny").exists()


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"seconds": 0}, "seconds"),
        ({"candidates": 0}, "candidates"),
        ({"searches": 0}, "searches"),
        ({"widen": 0.5}, "widen"),
        ({"seconds": math.inf}, "seconds"),
    ],
)
def test_a_parameter_out_of_its_range_is_named_before_anything_is_made(
    given: dict[str, Any], word: str, prefect_server: None, home: Path
) -> None:
    from prefect.exceptions import ParameterTypeError

    from flows.nightly import nightly

    with pytest.raises(ParameterTypeError, match=rf"{word}: Input should be (greater than|a finite)"):
        nightly(ENDLESS, **given, home=home)
    assert not home.exists()


def test_a_successor_that_cannot_be_is_refused_in_the_first_night(prefect_server: None, home: Path) -> None:
    from flows.nightly import nightly

    with pytest.raises(BadInput, match="predecessor must be left out with the random strategy"):
        nightly(config(strategy={"kind": "random"}), searches=2, home=home)
    assert not home.exists()


def test_the_lock_of_a_night_is_not_that_of_the_search(home: Path) -> None:
    Home(home).make()
    with Nights.open(Home(home), "tiny"), Ledger.create(home / "tiny", {}):
        pass
    with Ledger.open(home / "tiny"), Nights.open(Home(home), "tiny"), pytest.raises(SearchLocked):
        Ledger.open(home / "tiny")
