"""MLflow holds each evaluation once, whatever happens between it and us."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from prefect.exceptions import TerminationSignal

from flows import cli
from flows.home import BadInput, Home
from flows.tracking import Tracker
from genomes import Genome, Module
from genomes.operations import Conv, Flatten, Input, Output
from search import Candidate, Evaluation, Ledger
from tests.flows.conftest import config, shown
from tests.flows.families import kin, recorded
from tests.flows.test_lineage import embedded, unpacked

DEAD = "http://127.0.0.1:9"
COUNT = 9


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow store, since making one takes seconds."""
    home = Home(tmp_path_factory.mktemp("template"))
    MlflowClient(home.tracking_uri).get_experiment_by_name("none")
    return home.root / "mlflow.db"


@pytest.fixture
def place(tmp_path: Path, template: Path) -> Home:
    home = Home(tmp_path / "searches")
    home.make()
    shutil.copy(template, home.root / "mlflow.db")
    recorded(home.search("kin"), *kin(COUNT))
    return home


def tracker(home: Home, uri: str | None = None) -> Tracker:
    return Tracker(home, "kin", uri, {"seed": 5})


def counted(home: Home) -> Counter[int]:
    return Counter(run["number"] for run in shown(home, "kin", None))


def gone(*_: Any, **__: Any) -> None:
    raise MlflowException("the server is gone")


def runs(home: Home, kind: str) -> list[Any]:
    client = MlflowClient(home.tracking_uri)
    experiment = client.get_experiment_by_name("kin")
    return list(client.search_runs([experiment.experiment_id], f"tags.`morphogen.kind` = '{kind}'"))


@pytest.mark.parametrize("step", ["log_batch", "mark_sent"])
@pytest.mark.parametrize("restarted", [True, False], ids=["killed", "server failed"])
def test_a_run_that_was_made_and_not_noted_is_made_anew_and_not_twice(
    restarted: bool, step: str, place: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = tracker(place)
    assert (sender.lag(), sender.drain(), sender.drain(), sender.lag()) == (COUNT, COUNT, 0, 0)
    candidates, evaluations = kin(2 * COUNT)
    later = {number: candidates[number] for number in range(COUNT, 2 * COUNT)}
    recorded(place.search("kin"), later, evaluations)
    with monkeypatch.context() as patched:
        owner = Ledger if step == "mark_sent" else MlflowClient
        right, calls = getattr(owner, step), []

        def dying(*given: Any, **named: Any) -> Any:
            calls.append(given)
            if len(calls) > 3:
                raise MlflowException("the server is gone")
            return right(*given, **named)

        patched.setattr(owner, step, dying)
        with pytest.raises(MlflowException):
            sender.drain()
    assert 0 < sender.lag() < COUNT
    assert len(counted(place)) == 2 * COUNT - sender.lag() + 1  # one is there, and not noted
    monkeypatch.setattr(MlflowClient, "search_runs", partialmethod(MlflowClient.search_runs, max_results=4))  # a page
    (tracker(place) if restarted else sender).drain()
    assert counted(place) == Counter(range(2 * COUNT))
    assert len(runs(place, "search")) == 1


def test_an_answer_that_is_lost_leaves_no_second_run(place: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    right = MlflowClient.create_run

    def lost(*given: Any, **named: Any) -> Any:
        right(*given, **named)
        raise MlflowException("timed out")

    sender = tracker(place)
    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "create_run", lost)
        with pytest.raises(MlflowException):
            sender.drain()
    sender.drain()
    assert counted(place) == Counter(range(COUNT))
    assert len(runs(place, "search")) == 1


def test_a_run_that_a_slow_server_makes_when_nobody_waits_any_more_is_removed(
    place: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[Callable[[], Any]] = []

    def slow(client: MlflowClient, *given: Any) -> Any:
        if not late and given[2].get("morphogen.number") == "1":
            late.append(lambda: made(client, *given))
            raise TimeoutError("read timed out")
        return made(client, *given)

    made = MlflowClient.create_run
    monkeypatch.setattr(MlflowClient, "create_run", slow)
    sender = tracker(place)
    with pytest.raises(TimeoutError):
        sender.drain()
    sender.drain()
    late[0]()  # behind the back of the drain that looked for it
    assert counted(place)[1] == 2
    sender.finish()
    assert set(counted(place).values()) == {1}


def test_another_search_of_the_same_name_on_the_same_server_is_left_alone(place: Home, tmp_path: Path) -> None:
    tracker(place).drain()
    other = Home(tmp_path / "colleague")
    recorded(other.search("kin"), *kin(COUNT, seed=6))
    Tracker(other, "kin", place.tracking_uri, {}).drain()
    assert counted(place) == Counter(dict.fromkeys(range(COUNT), 2))
    tracker(place).drain()
    assert counted(place) == Counter(dict.fromkeys(range(COUNT), 2))


def test_parameters_that_were_not_sent_in_time_are_sent_later(place: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "log_batch", gone)
        with pytest.raises(MlflowException):
            tracker(place).drain()
    Tracker(place, "kin", None, {"seed": 5}).drain()
    Tracker(place, "kin", None, {"seed": 6, "more": 1}).drain()  # MLflow's parameters cannot change
    assert runs(place, "search")[0].data.params == {"seed": "5", "more": "1"}


def test_a_genome_that_cannot_be_built_does_not_hold_up_those_behind_it(place: Home) -> None:
    nodes = {"image": Input(shape=(1, 8, 8)), "flat": Flatten(), "conv": Conv(out_channels=3, kernel=3)}
    chain = [("image", "flat"), ("flat", "conv"), ("conv", "logits")]
    broken = Genome.of({"net": Module.of({**nodes, "logits": Output()}, chain)})
    failure = Evaluation(COUNT, "build_error", reason="conv needs an input [C, H, W]\n" * 1000)
    good = kin(COUNT)[1][0]
    family = {COUNT: Candidate(COUNT, broken), COUNT + 1: Candidate(COUNT + 1, kin(COUNT)[0][0].genome)}
    recorded(place.search("kin"), family, {COUNT: failure, COUNT + 1: replace(good, number=COUNT + 1)})
    tracker(place).drain()
    assert counted(place) == Counter(range(COUNT + 2))


def test_the_family_s_page_names_each_member_s_run_and_the_server_without_its_password(
    place: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = tracker(place)
    sender.drain()
    monkeypatch.setattr(sender, "uri", "https://user:secret@tracking.example/base")
    sender.publish()
    MlflowClient(place.tracking_uri).download_artifacts(sender.run, "lineage.html", str(tmp_path))
    document = embedded((tmp_path / "lineage.html").read_text())
    assert document["place"] == f"https://tracking.example/base/#/experiments/{sender.experiment}/runs/"
    with Ledger.read(place.search("kin")) as ledger:
        noted = ledger.external_ids(range(COUNT))
    details = [detail for block in document["details"] for detail in unpacked(block)]
    assert [detail["run"] for detail in details] == [noted[number] for number in range(COUNT)]


def test_the_end_of_a_block_is_the_status_of_its_run(place: Home) -> None:
    cancelled = TerminationSignal(signal=15)
    ends = ((None, "FINISHED"), (KeyboardInterrupt(), "KILLED"), (cancelled, "KILLED"), (RuntimeError(), "FAILED"))
    for error, status in ends:
        with suppress(KeyboardInterrupt, TerminationSignal, RuntimeError), tracker(place).running():
            if error:
                raise error
        assert [run.info.status for run in runs(place, "search")] == [status]


def test_a_dead_server_neither_ends_nor_replaces_how_a_block_ended(
    place: Home, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.tracking.SECONDS_BETWEEN_DRAINS", 0.01)
    sender = tracker(place, DEAD)
    with pytest.raises(ZeroDivisionError), sender.running():
        raise ZeroDivisionError
    assert sender.lag() == COUNT
    assert sender.address() == DEAD
    assert "MLflow was not told everything" in caplog.text


def test_whatever_cannot_be_reached_is_one_line(place: Home) -> None:
    for uri in (DEAD, "nonsense://x", "http://"):
        with pytest.raises(BadInput, match="MLflow must be reachable") as refused:
            tracker(place, uri).check()
        assert "\n" not in str(refused.value)


def test_a_search_goes_on_without_its_server_and_sync_brings_the_rest_once(
    prefect_server: None, tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.search import search

    home = Home(tmp_path / "searches")
    home.make()
    store = f"sqlite:///{shutil.copy(template, tmp_path / 'store.db')}"
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", str(tmp_path / "artifacts"))
    monkeypatch.chdir(tmp_path)
    right = MlflowClient.create_run

    monkeypatch.setattr(MlflowClient, "create_run", gone)
    result = search(config(tracking=store, budget={"candidates": 4}), home.root)
    assert (result["evaluations"], result["untracked"]) == (4, 4)
    assert shown(home, "tiny", store) == []
    monkeypatch.setattr(MlflowClient, "create_run", right)
    for _ in range(2):
        cli.sync("tiny", home.root)
        assert sorted(run["number"] for run in shown(home, "tiny", store)) == [0, 1, 2, 3]
    assert search(config(tracking=DEAD, budget={"candidates": 5}), home.root)["untracked"] == 1
    with pytest.raises(BadInput, match="MLflow must be reachable"):
        cli.sync("tiny", home.root)


def test_a_search_that_runs_is_not_synced_by_another_process(place: Home) -> None:
    with Ledger.open(place.search("kin")), pytest.raises(Exception, match="being run by"):
        cli.sync("kin", place.root)
    assert counted(place) == Counter()


def test_who_looks_at_a_page_does_not_hold_up_the_sender(place: Home) -> None:
    tracker(place).check()
    with closing(sqlite3.connect(place.tracking_file)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM runs").fetchone() == (0,)
        tracker(place).drain()
        assert reader.execute("SELECT count(*) FROM runs").fetchone() == (0,), "one page shows one state"
    assert counted(place) == Counter(range(COUNT))


def test_what_mlflow_has_lost_is_shown_again(place: Home, template: Path) -> None:
    tracker(place).drain()
    assert counted(place) == Counter(range(COUNT))
    with closing(sqlite3.connect(template)) as lost, closing(sqlite3.connect(place.tracking_file)) as store:
        lost.backup(store)  # as if the store had been deleted
    tracker(place).drain()
    assert counted(place) == Counter(range(COUNT))
