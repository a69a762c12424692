"""A search is verified from what it stored; what was changed afterwards is found and named."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search import Evaluation, Ledger, drive
from tests.flows.conftest import config
from tests.flows.test_cli import run

COUNT = 14


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the home of a tiny search that was run without Prefect."""
    from flows.assembly import keep, planned, trainer
    from flows.home import Home
    from search import Budget

    home, settings = tmp_path_factory.mktemp("verify"), config(budget={"candidates": COUNT})
    place = Home(home)
    place.make()
    prepared, strategy, _ = planned(settings, place)
    with Ledger.create(place.search("tiny"), settings.model_dump(mode="json")) as ledger:
        evaluator = trainer(settings, place, keep(settings, place, prepared))
        drive(strategy, lambda c, parents, done: done(evaluator(c, parents)), ledger, Budget(candidates=COUNT))
    return home


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    """Returns a copy that may be tampered with."""
    shutil.copytree(trained, tmp_path / "home")
    return tmp_path / "home"


def evaluations(home: Path) -> dict[int, Evaluation]:
    with Ledger.read(home / "tiny") as ledger:
        return ledger.evaluations()


def edited(home: Path) -> int:
    """Returns a child with certificates of a morphism."""
    found = evaluations(home).values()
    return next(e.number for e in found if e.twin is None and any(c.modes for c in e.certificates))


def verify(home: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("flows.terminal.WIDTH", 200)
    return run(monkeypatch, "verify", "tiny", "--home", str(home), *words)


def changed(home: Path, number: int, column: str, change: Callable[[Any], object]) -> None:
    """Rewrites the JSON in a column of an evaluation or a candidate."""
    table = "evaluation" if column == "record" else "candidate"
    with sqlite3.connect(home / "tiny" / "ledger.sqlite") as db:
        (text,) = db.execute(f"SELECT {column} FROM {table} WHERE number = ?", (number,)).fetchone()
        change(document := json.loads(text))
        db.execute(f"UPDATE {table} SET {column} = ? WHERE number = ?", (json.dumps(document), number))
    db.close()


def test_all_that_was_trained_is_derived_again(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [e for e in evaluations(home).values() if e.ok and e.twin is None]
    proofs = [certificate for evaluation in told for certificate in evaluation.certificates]
    assert proofs
    assert verify(home, monkeypatch) == 0
    said = capsys.readouterr().out.splitlines()
    rows = {line.split()[1]: line.split()[3] for line in said if line.startswith("│")}
    assert rows == {rule: str([c.rule for c in proofs].count(rule)) for rule in {c.rule for c in proofs}}
    assert said[-1].startswith(
        f"Verified: {len(told)} of {len(told)} children, {len(proofs)} of {len(proofs)} certificates identical"
    )


def test_one_child_is_verified_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(home, monkeypatch, "--child", str(edited(home))) == 0
    assert "Verified: 1 of 1 children" in capsys.readouterr().out


def test_a_flipped_byte_of_weights_is_found_in_child_and_grandchild(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Ledger.read(home / "tiny") as ledger:
        candidates = ledger.candidates()
    number = candidates[edited(home)].parents[0]
    digest = evaluations(home)[number].weights
    file = home / "tiny" / "weights" / f"{digest}.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert verify(home, monkeypatch) == 1
    said = capsys.readouterr().out
    assert f"child {number}: weights {digest} are damaged" in said
    assert f"child {edited(home)}: its first weights must be derivable: weights {digest} are damaged" in said


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("verdict", False, "must have verdict True, the ledger says False"),
        ("edit", "0" * 64, "must have edit"),
        ("proved", [], "must have proved"),
        ("errors", {"eval": 1e-3}, "must have errors"),
        ("seed", "7", "its record must be readable: certificate seed must be int"),
    ],
)
def test_an_edited_certificate_is_found(
    field: str,
    value: object,
    words: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    number = edited(home)
    proofs = evaluations(home)[number].certificates
    place = next(i for i, c in enumerate(proofs) if c.modes)
    changed(home, number, "record", lambda document: document["certificates"][place].update({field: value}))
    assert verify(home, monkeypatch, "--child", str(number)) == 1
    said = capsys.readouterr().out
    assert f"child {number}: " in said
    assert words in said
    assert "Verified: 0 of 1 children" in said


def test_an_error_that_another_machine_would_measure_is_no_problem_but_told(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    number = edited(home)
    proofs = evaluations(home)[number].certificates
    place = next(i for i, c in enumerate(proofs) if c.modes)
    near = dict.fromkeys(proofs[place].errors, 1.23e-15)
    changed(home, number, "record", lambda document: document["certificates"][place].update(errors=near))
    assert verify(home, monkeypatch, "--child", str(number)) == 0
    count = len(proofs)
    assert f"{count - 1} of {count} certificates identical" in capsys.readouterr().out


def test_a_missing_certificate_is_found(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    number = edited(home)
    changed(home, number, "record", lambda document: document["certificates"].clear())
    assert verify(home, monkeypatch) == 1
    assert "the ledger holds 0" in capsys.readouterr().out


def test_first_weights_that_are_not_the_lineages_are_found(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed(home, 0, "record", lambda document: document.update(initial="0" * 64))
    assert verify(home, monkeypatch) == 1
    said = capsys.readouterr().out
    assert "child 0: its first weights must be" in said
    assert f"the ledger says {'0' * 64}" in said


def test_weights_of_another_genome_are_found(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told, number = evaluations(home), edited(home)
    with Ledger.read(home / "tiny") as ledger:
        candidates = ledger.candidates()
    other = next(e for n, e in told.items() if e.weights and candidates[n].genome != candidates[number].genome)
    changed(home, number, "record", lambda document: document.update(weights=other.weights))
    assert verify(home, monkeypatch, "--child", str(number)) == 1
    assert "its weights must be of genome" in capsys.readouterr().out


def test_a_changed_edit_is_found(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    number = edited(home)
    changed(home, number, "edits", lambda document: document[0]["site"].update(node="elsewhere"))
    assert verify(home, monkeypatch) == 1
    said = capsys.readouterr().out
    assert f"child {number}: its genome, parents, edits and fidelity must hash to" in said
    assert "must have edit" in said


def test_a_failed_candidate_is_no_problem(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    count = sum(e.ok and e.twin is None for e in evaluations(home).values())
    last = max(n for n, e in evaluations(home).items() if e.ok and e.twin is None)
    changed(home, last, "record", lambda document: document.update(status="timeout", certificates=[], initial=None))
    assert verify(home, monkeypatch) == 0
    said = capsys.readouterr().out
    assert f"Verified: {count - 1} of {count - 1} children" in said
    assert "failed or repeat another" in said


def test_bad_input_is_told_from_problems(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(home, monkeypatch, "--child", "999") == 2
    assert f"candidates 0 to {COUNT - 1}, got 999" in capsys.readouterr().err
    assert run(monkeypatch, "verify", "nothing", "--home", str(home)) == 2
    changed(home, 0, "record", lambda document: document.update(status="timeout"))
    assert verify(home, monkeypatch, "--child", "0") == 2
    assert "failed or repeats another" in capsys.readouterr().err
