"""Bad input ends with one line that names the place and the remedy, a code that is not 0, and nothing half-written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import cli
from tests.flows.conftest import FAST


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["morphogen", *words])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    code = stopped.value.code
    return code if isinstance(code, int) else 0


def written(tmp_path: Path, **changes: Any) -> str:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({**FAST, **changes}))
    return str(file)


BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "an unknown key": ({"populaton": 3}, ["populaton", "strategy", "config.yaml"]),
    "an unknown key below": ({"recipe": {"lerning_rate": 1}}, ["recipe.lerning_rate", "learning_rate, momentum"]),
    "no example to train on": ({"fidelity": {"examples": 0}}, ["fidelity", "examples", "0"]),
    "a number out of range": ({"recipe": {"momentum": 7}}, ["recipe", "momentum", "7"]),
    "a negative seed": ({"seed": -1}, ["seed", "-1"]),
    "an unsafe name": ({"name": "../up"}, ["name", "../up"]),
    "an unknown strategy": ({"strategy": {"kind": "magic"}}, ["strategy.kind", "nsga2", "magic"]),
    "an objective that nobody measures": (
        {"strategy": {"nsga2": {"objectives": ["fame"]}}},
        ["strategy", "macs", "fame"],
    ),
    "an unknown data set": ({"data": {"name": "imagenet21k"}}, ["imagenet21k", "digits", "fashion_mnist"]),
    "a function that is not there": ({"data": {"name": "no.such:thing"}}, ["no.such:thing", "import"]),
    "an image folder that is not there": (
        {"data": {"name": "image_folder", "root": "/no/such"}},
        ["data.root", "/no/such"],
    ),
    "limits that nothing fits": ({"space": {"parameters": 10}}, ["parameters", "10"]),
    "too small images": ({"data": {"name": "tests.flows.pictures:tiny"}}, ["[1, 2, 2]", "4"]),
    "wrong images": ({"data": {"name": "tests.flows.pictures:floats"}}, ["uint8", "float32"]),
    "a dead MLflow server": ({"tracking": "http://127.0.0.1:9"}, ["MLflow", "127.0.0.1:9", "tracking"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_configuration_is_one_line_with_a_remedy(
    case: str,
    prefect_server: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    changes, words = BAD[case]
    home = tmp_path / "searches"
    assert run(monkeypatch, "search", "--config", written(tmp_path, **changes), "--home", str(home)) == 2
    said = capsys.readouterr().err.strip().splitlines()
    lines = [line for line in said if line.startswith("morphogen:")]
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]
    assert not list(home.glob("*/ledger.sqlite"))
    assert not (home / "tiny").exists()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: &x [1]\nb: *x\n", "alias"),
        ("a: [1", "YAML"),
        ("- 1\n", "mapping"),
        ("name: a\n" * 9000, "bytes"),
        ("a: !!python/none x", "YAML"),
    ],
)
def test_a_broken_file_is_refused(
    text: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    assert run(monkeypatch, "search", "--config", str(file), "--home", str(tmp_path / "h")) == 2
    assert word in capsys.readouterr().err


def test_a_missing_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "search", "--config", str(tmp_path / "none.yaml")) == 2
    assert "none.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["show", "lineage", "resume", "sync"])
def test_a_search_that_is_not_there_is_named_with_those_that_are(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, verb, "nothing", "--home", str(tmp_path)) == 2
    assert "no search nothing" in capsys.readouterr().err


def test_a_home_that_cannot_be_written_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    prefect_server: None,
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert run(monkeypatch, "search", "--config", written(tmp_path), "--home", str(blocked / "below")) == 2
    assert "--home must be a writable directory" in capsys.readouterr().err


def test_a_file_that_is_no_ledger_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny").mkdir()
    file = tmp_path / "tiny" / "ledger.sqlite"
    file.write_text("not a database, but more than a hundred bytes " * 10)
    before = file.read_bytes()
    assert run(monkeypatch, "show", "tiny", "--home", str(tmp_path)) == 2
    assert "ledger" in capsys.readouterr().err
    assert file.read_bytes() == before
