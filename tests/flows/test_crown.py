"""`morphogen champion` says who it is, why, and how to use it; `--rollback` and `sync` keep MLflow in step."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from flows.assembly import DATA, RETRAIN
from flows.champions import crown
from flows.champions.champion import stored
from flows.home import Home
from flows.terminal import console
from flows.tracking import Tracker
from search import Ledger, Retraining, Retrainings
from tests.flows.champions import SETTINGS, held, promoted, tell
from tests.flows.test_cli import run
from training import Prepared


@pytest.fixture
def home(trained_home: Path, tmp_path: Path, written_once: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("flows.terminal.WIDTH", 200)
    return Path(shutil.copytree(trained_home, tmp_path / "home"))


def crowned(home: Path, *places: int, told: bool = True) -> list[Retraining]:
    with Retrainings.open(home / "tiny" / RETRAIN) as record:
        made = [promoted(home, record, place) for place in places]
        if told:
            tell(home, record)
    return made


def test_the_champion_is_shown_with_evidence_and_commands(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, now = crowned(home, 0, 1)
    assert run(monkeypatch, "champion", "tiny", "--home", str(home)) == 0
    said = capsys.readouterr().out
    assert f"Champion: child {now.number}, seed 0 is promoted: the first one needs no comparison" in said
    assert f"{now.evaluation.objectives['second_validation_error']:.4f}" in said
    assert f"Previous: child {before.number}, seed 0" in said
    assert "MLflow:   models:/tiny@champion, version 2" in said
    assert "mlflow models serve -m models:/tiny@champion" in said
    assert "Constraint of the champion: at most 30,000 parameters, 2,000,000 MACs" in said


def test_a_refused_challenge_is_shown_too(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (now,) = crowned(home, 0)
    with Retrainings.open(home / "tiny" / RETRAIN) as record:
        first = stored(record, now.key)
        refused = replace(first, outcome="refused", reason="it is no better", present=first.challenger)
        record.decide(next(key for key in record.recorded() if key != now.key), "refused", asdict(refused))
    assert run(monkeypatch, "champion", "tiny", "--home", str(home)) == 0
    assert f"Last challenge: Champion: child {now.number} stays" in capsys.readouterr().out


def test_without_a_champion_it_says_what_to_do(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "champion", "tiny", "--home", str(home)) == 2
    assert "must have a champion to show: retrain its finalists first" in capsys.readouterr().err
    crowned(home, 0)
    assert run(monkeypatch, "champion", "tiny", "--home", str(home), "--rollback") == 2
    assert "a rollback needs a champion before the present one" in capsys.readouterr().err
    assert run(monkeypatch, "champion", "other", "--home", str(home)) == 2
    assert "there is no search other" in capsys.readouterr().err


def test_no_password_is_shown(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crowned(home, 0)
    place = Home(home).tracking_uri.replace("sqlite:", "sqlite://user:hush@")
    tracker = Tracker(Home(home), "tiny", None, {})
    tracker.place = place
    crown.shown(tracker, Home(home), console())
    said = capsys.readouterr().out
    assert "cannot be asked at sqlite://***@" in said
    assert "hush" not in said


def test_what_mlflow_missed_is_named_and_sync_sends_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (now,) = crowned(home, 0, told=False)
    assert run(monkeypatch, "champion", "tiny", "--home", str(home)) == 0
    assert f"does not hold this champion: morphogen sync tiny --home {home}" in capsys.readouterr().out
    assert run(monkeypatch, "sync", "tiny", "--home", str(home)) == 0
    assert held(home) == ({now.evaluation.weights: "1"}, {"champion": "1"})
    assert run(monkeypatch, "champion", "tiny", "--home", str(home)) == 0
    assert "models:/tiny@champion, version 1" in capsys.readouterr().out


def test_a_dead_server_is_said_and_the_evidence_shown(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (now,) = crowned(home, 0, told=False)
    dead = {**SETTINGS.model_dump(mode="json"), "tracking": "http://127.0.0.1:9"}
    with Ledger.create(home / "tiny", dead, free=("tracking",)):
        pass
    assert run(monkeypatch, "champion", "tiny", "--home", str(home)) == 0
    said = capsys.readouterr().out
    assert f"Champion: child {now.number}" in said
    assert "cannot be asked at http://127.0.0.1:9" in said
    assert run(monkeypatch, "sync", "tiny", "--home", str(home)) == 2


def test_a_rollback_gives_the_place_back_here_and_in_mlflow(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, now = crowned(home, 0, 1)
    assert run(monkeypatch, "champion", "tiny", "--home", str(home), "--rollback") == 0
    said = capsys.readouterr().out
    assert f"Child {before.number}, seed 0, is champion again; child {now.number}, seed 0, is withdrawn" in said
    assert "version 1" in said
    assert held(home)[1] == {"champion": "1", "previous": "2"}
    assert run(monkeypatch, "export", "tiny", "--home", str(home), "--to", str(home / "exported")) == 0
    assert f"Candidate {before.number}, trained from scratch" in capsys.readouterr().out  # it follows the champion
    mean, std = Prepared.at(home / "tiny" / DATA).normal
    assert f"\nMEAN = {mean!r}\nSTD = {std!r}\n" in (home / "exported" / "network.py").read_text()
