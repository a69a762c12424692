"""`morphogen retrain` on real Prefect, MLflow, SQLite and processes: each training once, the test part read once."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flows.assembly import FREE, RETRAIN, keep, planned, retrainer, tidy, trainer
from flows.finalists import finalists
from flows.home import Home
from flows.retrain import configured, wanted
from search import Budget, Evaluation, Ledger, Retraining, Retrainings, drive
from search.retrainings import FILE
from tests.flows.champions import held
from tests.flows.conftest import config
from tests.flows.test_cli import run
from tests.flows.test_kill import running, workers

COUNT = 6
SETTINGS = config(
    budget={"candidates": COUNT},
    retrain={"top": 2, "seeds": 2, "fidelity": {"examples": 512}},
    recipe={"batch_size": 64, "erasing": 0.25, "averaging": 0.1},
)


def searched(home: Path, settings: Any, count: int) -> Path:
    """Makes a tiny search without Prefect and returns its home."""
    place = Home(home)
    place.make()
    prepared, strategy, _ = planned(settings, place)
    with Ledger.create(place.search("tiny"), settings.model_dump(mode="json"), FREE) as ledger:
        evaluator = trainer(settings, place, keep(settings, place, prepared))
        drive(strategy, lambda c, parents, done: done(evaluator(c, parents)), ledger, Budget(candidates=count))
    return home


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return searched(tmp_path_factory.mktemp("searched"), SETTINGS, COUNT)


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "home"))


@pytest.fixture(scope="module")
def finished(template: Path, tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Path:
    """A home whose finalists were retrained."""
    from flows.retrain import retrain

    home = Path(shutil.copytree(template, tmp_path_factory.mktemp("finished") / "home"))
    retrain("tiny", home=home)
    return home


def retrained(home: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("flows.terminal.WIDTH", 200)
    return run(monkeypatch, "retrain", "tiny", "--home", str(home), *words)


def recorded(home: Path) -> dict[str, Retraining]:
    with Retrainings.read(home / "tiny" / RETRAIN) as record:
        return record.recorded()


def readings(home: Path) -> list[float | None]:
    with Retrainings.read(home / "tiny" / RETRAIN) as record:
        return [reading.error for reading in record.readings()]


def shown(home: Path) -> list[Any]:
    """Returns the runs of finalists' trainings in MLflow."""
    from mlflow import MlflowClient

    client = MlflowClient(Home(home).tracking_uri)
    experiment = client.get_experiment_by_name("tiny")
    return list(client.search_runs([experiment.experiment_id], "tags.`morphogen.kind` = 'retraining'"))


def test_the_finalists_are_trained_with_every_seed_and_the_test_part_is_read_once(finished: Path) -> None:
    done = recorded(finished).values()
    with Ledger.read(finished / "tiny") as ledger:
        best = [evaluation.number for evaluation in finalists(ledger, 2)]
    assert sorted((one.number, one.seed) for one in done) == sorted((n, seed) for n in best for seed in (0, 1))
    assert all(one.evaluation.ok and one.evaluation.cost["lineage_examples"] == 512 for one in done)
    assert len({one.evaluation.weights for one in done}) == 4
    assert {one.setting["recipe"]["averaging"] for one in done} == {0.1}
    with Retrainings.read(finished / "tiny" / RETRAIN) as record:
        chosen = record.chosen()
        assert chosen is not None
        assert list(record.test_errors()) == [chosen.evaluation.weights]
    assert len(readings(finished)) == 1


def test_mlflow_has_one_nested_run_a_training_and_the_test_error_of_the_champion_only(finished: Path) -> None:
    from mlflow import MlflowClient

    runs, done = {run.data.tags["morphogen.retraining"]: run for run in shown(finished)}, recorded(finished)
    assert len(shown(finished)) == len(done)
    for key, one in done.items():
        metrics = runs[key].data.metrics
        assert metrics["second_validation_error"] == one.evaluation.objectives["second_validation_error"]
        assert runs[key].info.status == "FINISHED"
    tested = [run for run in runs.values() if "test_error" in run.data.metrics]
    assert [run.data.metrics["test_error"] for run in tested] == readings(finished)
    parent = {run.data.tags["mlflow.parentRunId"] for run in runs.values()}
    client = MlflowClient(Home(finished).tracking_uri)
    assert [client.get_run(run).data.tags["morphogen.kind"] for run in parent] == ["search"]


def test_the_choice_is_champion_in_mlflow_and_prefect_shows_why(finished: Path, prefect_server: None) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    with Retrainings.read(finished / "tiny" / RETRAIN) as record:
        chosen = record.chosen()
        assert chosen is not None
        assert record.holders().champion == chosen.key
    assert held(finished) == ({chosen.evaluation.weights: "1"}, {"champion": "1"})
    mine = ArtifactFilter(key=ArtifactFilterKey(any_=["champion-tiny"]))
    with get_client(sync_client=True) as client:
        pages = client.read_artifacts(artifact_filter=mine)
    words = f"Champion: child {chosen.number}, seed {chosen.seed} is promoted: the first one"
    assert any(page.type == "markdown" and words in str(page.data) for page in pages)


def test_again_nothing_is_trained_nor_read_and_the_recorded_number_is_shown(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Path(shutil.copytree(finished, tmp_path / "home"))
    before, seen = recorded(home), readings(home)
    assert retrained(home, monkeypatch) == 0
    said = capsys.readouterr().out
    assert "4 trainings, 4 of them known" in said
    assert f"test error {seen[0]:.4f} (read once); as recorded before" in said
    assert (recorded(home), readings(home)) == (before, seen)
    assert "stays: no other was chosen" in said
    assert len(held(home)[0]) == 1
    last = said.strip().splitlines()[-1]
    assert last.startswith("Result:")
    assert Path(last.split()[1].rstrip(";")).is_file()
    assert run(monkeypatch, "show", "tiny", "--home", str(home)) == 0
    assert f"test error {seen[0]:.4f} (read once)" in capsys.readouterr().out


def test_more_seeds_and_finalists_train_only_what_is_missing(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Path(shutil.copytree(finished, tmp_path / "home"))
    before = recorded(home)
    assert retrained(home, monkeypatch, "--top", "50", "--seeds", "1") == 0
    said, after = capsys.readouterr().out, recorded(home)
    assert ", 2 of them known" in said
    assert "50 finalists were asked for, the search has" in said
    assert {key: after[key] for key in before} == before
    assert len(after) > len(before)
    assert len({tuple(one.setting["fidelity"].items()) for one in after.values()}) == 1
    assert len(shown(home)) > len(before)


def test_a_warm_start_trains_on_from_what_the_search_left(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Path(shutil.copytree(finished, tmp_path / "home"))
    before = recorded(home)
    assert retrained(home, monkeypatch, "--warm-start") == 0
    said, after = capsys.readouterr().out, recorded(home)
    new = [one for key, one in after.items() if key not in before]
    assert "4 trainings, 0 of them known" in said
    assert [one.number for one in new] == [one.number for one in before.values()]
    assert len({one.evaluation.weights for one in new}) == 4  # all that differs between two seeds is what they draw
    with Ledger.read(home / "tiny") as ledger:
        for one in new:
            left = ledger.evaluations([one.number])[one.number]
            assert one.setting == {**next(iter(before.values())).setting, "warm_start": True}
            assert one.evaluation.initial == left.weights
            assert one.evaluation.cost["lineage_examples"] == left.cost["lineage_examples"] + 512
    assert "Finalists, trained on from the search's weights: mean" in said
    assert retrained(home, monkeypatch, "--warm-start", "--seeds", "1") == 0
    assert "2 trainings, 2 of them known" in capsys.readouterr().out
    assert retrained(home, monkeypatch, "--no-warm-start") == 0
    assert "4 trainings, 4 of them known" in capsys.readouterr().out
    files = {file.stem for file in (home / "tiny" / RETRAIN / "weights").iterdir()}
    assert files == {one.evaluation.weights for one in after.values()}


def test_whoever_stops_it_is_told_the_same_command_again(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.retrain.retrain", stopped)
    assert retrained(home, monkeypatch, "--warm-start", "--top", "1") == 130
    assert capsys.readouterr().out.rstrip().endswith(f" retrain tiny --home {home} --warm-start --top 1")


def test_a_warm_start_from_damaged_weights_is_one_line_and_trains_nothing(
    home: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (home / "tiny" / "weights").iterdir():
        os.truncate(file, 100)
    assert retrained(home, monkeypatch, "--warm-start") == 2
    assert "are damaged: the content's SHA-256" in capsys.readouterr().err
    assert recorded(home) == {}


def test_a_reading_that_landed_and_was_not_recorded_is_not_repeated(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, seen = Path(shutil.copytree(finished, tmp_path / "home")), readings(finished)
    with closing(sqlite3.connect(home / "tiny" / RETRAIN / FILE)) as db, db:
        db.execute("UPDATE reading SET error = NULL")
    assert readings(home) == [None]
    assert retrained(home, monkeypatch) == 0
    assert readings(home) == seen


def test_a_reading_of_the_test_part_that_fails_is_on_record_and_said(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Path(shutil.copytree(finished, tmp_path / "home"))
    with Retrainings.read(home / "tiny" / RETRAIN) as record:
        (weights,) = record.test_errors()
    with closing(sqlite3.connect(home / "tiny" / RETRAIN / FILE)) as db, db:
        db.execute("DELETE FROM reading")
    shutil.rmtree(home / "tiny" / RETRAIN / "results" / "readings")
    file = home / "tiny" / RETRAIN / "weights" / f"{weights}.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    assert retrained(home, monkeypatch) == 2
    assert "the test part could not be read" in capsys.readouterr().err
    assert readings(home) == [None]
    file.write_bytes(content)
    assert retrained(home, monkeypatch) == 0
    assert readings(home) == [None, *readings(finished)]


def test_retrained_weights_survive_a_search_that_goes_on_and_are_what_export_takes(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Path(shutil.copytree(finished, tmp_path / "home"))
    with Ledger.open(home / "tiny") as ledger:
        from flows.assembly import data

        tidy(ledger, trainer(SETTINGS, Home(home), data(SETTINGS, Home(home))))
    with Retrainings.read(home / "tiny" / RETRAIN) as record:
        chosen = record.chosen()
    assert chosen is not None
    files = {file.stem for file in (home / "tiny" / RETRAIN / "weights").iterdir()}
    assert files == {one.evaluation.weights for one in recorded(home).values()}
    assert run(monkeypatch, "export", "tiny", "--home", str(home), "--to", str(tmp_path / "champion")) == 0
    said = capsys.readouterr().out
    assert f"Candidate {chosen.number}, trained from scratch (seed {chosen.seed}, validation error" in said
    assert f"test error {readings(home)[0]:.4f}" in said
    number = str(chosen.number)
    assert run(monkeypatch, "export", "tiny", number, "--home", str(home), "--to", str(tmp_path / "searched")) == 0
    assert "from scratch" not in capsys.readouterr().out
    made = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("champion", "searched")]
    assert made[0] != made[1]


def test_a_search_that_runs_is_not_disturbed(home: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger.open(home / "tiny") as ledger:  # as the search does, which holds the lock
        before = ledger.evaluations()
        assert retrained(home, monkeypatch, "--top", "1", "--seeds", "1") == 0
        ledger.attempted(0)  # it can still write
        assert ledger.evaluations() == before
    assert len(recorded(home)) == 1


def test_two_at_once_are_refused(
    home: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Retrainings.open(home / "tiny" / RETRAIN):
        assert retrained(home, monkeypatch) == 2
    assert "the retraining of search tiny must be run by one process at a time" in capsys.readouterr().err
    assert recorded(home) == {}


def test_what_cannot_be_retrained_is_one_line(
    tmp_path: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert retrained(tmp_path, monkeypatch) == 2
    assert "there is no search tiny" in capsys.readouterr().err
    with Ledger.create(tmp_path / "tiny", SETTINGS.model_dump(mode="json")):
        pass
    assert retrained(tmp_path, monkeypatch) == 2
    assert "must have a candidate that was trained with success" in capsys.readouterr().err
    for option, place in (("--top", "retrain.top"), ("--seeds", "retrain.seeds"), ("--examples", "examples")):
        assert retrained(tmp_path, monkeypatch, option, "0") == 2
        assert place in capsys.readouterr().err
    assert not (tmp_path / "tiny" / RETRAIN).exists()


def test_one_failed_training_is_shown_and_not_fatal(
    home: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Ledger.read(home / "tiny") as ledger:
        settings = configured(ledger.config, "tiny")
        (best,) = finalists(ledger, 1)
        job, again, *_ = wanted(settings, retrainer(settings, Home(home)), [ledger.candidate(best.number)])
    failure = Evaluation(best.number, "non_finite", reason="the loss must be finite, it is nan after 64 examples")
    with Retrainings.open(home / "tiny" / RETRAIN) as record:
        record.record(Retraining(job.key, best.number, 0, {}, failure))
        record.record(Retraining(again.key, best.number, 1, {}, Evaluation(best.number, "timeout")))  # tried again
    assert retrained(home, monkeypatch) == 0
    said = capsys.readouterr().out
    assert "4 trainings, 1 of them known" in said
    assert f"child {best.number}, seed 0: non_finite: the loss must be finite" in said
    assert "1, 1 failed" in said
    with Retrainings.read(home / "tiny" / RETRAIN) as record:
        chosen = record.chosen()
    assert chosen is not None
    assert chosen.number != best.number  # who failed comes behind
    statuses = {run.data.tags["morphogen.status"]: run.info.status for run in shown(home)}
    assert statuses == {"ok": "FINISHED", "non_finite": "FAILED"}


def test_if_all_fail_the_table_says_why_and_nothing_is_tested(
    tmp_path: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = {"learning_rate": 100.0, "weight_decay": 1.0, "precision": "float32", "batch_size": 32}
    hopeless = {"top": 1, "seeds": 1, "fidelity": {"examples": 32_000}, "recipe": wild}
    home = searched(tmp_path / "home", config(retrain=hopeless), 1)
    assert retrained(home, monkeypatch) == 2
    said = capsys.readouterr()
    assert "non_finite: the loss must be finite" in said.out
    assert "one training at least must succeed" in said.err
    assert readings(home) == []


def test_without_its_mlflow_server_all_is_trained_and_sync_shows_it_later(
    home: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)  # MLflow puts the artifacts of a store that is named by hand into the working directory
    store = Home(home).tracking_uri
    dead = SETTINGS.model_copy(update={"tracking": "http://127.0.0.1:9"})
    Ledger.create(home / "tiny", dead.model_dump(mode="json"), FREE).close()
    assert retrained(home, monkeypatch, "--seeds", "1") == 0
    assert "MLflow has not heard of all trainings" in capsys.readouterr().out
    assert len(recorded(home)) == 2
    alive = SETTINGS.model_copy(update={"tracking": store})
    Ledger.create(home / "tiny", alive.model_dump(mode="json"), FREE).close()
    for _ in range(2):
        assert run(monkeypatch, "sync", "tiny", "--home", str(home)) == 0
        assert sorted(run.data.tags["morphogen.retraining"] for run in shown(home)) == sorted(recorded(home))
        assert list(held(home)[0].values()) == ["1"]
    assert sum("test_error" in run.data.metrics for run in shown(home)) == 1


def test_a_search_that_goes_on_leaves_the_runs_of_its_finalists(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(shutil.copytree(finished, tmp_path / "home"))
    before = sorted(one.info.run_id for one in shown(home))
    assert run(monkeypatch, "sync", "tiny", "--home", str(home)) == 0
    assert sorted(one.info.run_id for one in shown(home)) == before


def test_killed_in_the_middle_it_goes_on_and_trains_nothing_twice(
    home: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import get_current_settings

    monkeypatch.setenv("MORPHOGEN_TEST", str(home))  # by which its processes are known
    monkeypatch.setenv("PREFECT_API_URL", str(get_current_settings().api.url))
    words = ("retrain", "tiny", "--seeds", "3", "--examples", "6000")
    with running(home, *words) as process:
        deadline = time.monotonic() + 240
        while len(recorded(home)) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 30
    while workers(home) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert workers(home) == []
    before = recorded(home)
    assert 2 <= len(before) < 6, (home / "output.txt").read_text()[-3000:]
    with running(home, *words) as process:
        assert process.wait(timeout=240) == 0, (home / "output.txt").read_text()[-3000:]
    done = recorded(home)
    assert len(done) == 6
    assert {key: done[key] for key in before} == before  # processor seconds too: they were not trained again
    assert len([error for error in readings(home) if error is not None]) == 1
    files = {file.stem for file in (home / "tiny" / RETRAIN / "weights").glob("*.safetensors")}
    assert files == {one.evaluation.weights for one in done.values()}
    assert len(shown(home)) == 6
    assert len(held(home)[0]) == 1
