"""A search that begins with genomes from files."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.assembly import founder, planned
from flows.home import BadInput, Home
from genomes.spaces.residual import ResidualSpace
from tests.flows.conftest import config
from tests.flows.test_cli import run, written
from tests.genomes.test_parsing import CORPUS


def test_an_exported_genome_can_be_the_founder(tmp_path: Path) -> None:
    genome = ResidualSpace((1, 8, 8), 10).member(6, [1])
    file = tmp_path / "genome.json"
    file.write_bytes(genome.to_json())
    _, strategy, _ = planned(config(founders=[str(file)]), Home(tmp_path))
    assert strategy.ask(1)[0].genome == genome


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 16, 16)])
def test_a_founder_for_other_data_is_refused(
    shape: tuple[int, int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    prefect_server: None,
) -> None:
    file = tmp_path / "genome.json"
    file.write_bytes(ResidualSpace(shape, 10).member(6, [1]).to_json())
    words = ("search", "--config", written(tmp_path, founders=[str(file)]), "--home", str(tmp_path / "h"))
    assert run(monkeypatch, *words) == 2
    assert "as the data does" in capsys.readouterr().err


@pytest.mark.parametrize("fault", CORPUS)
def test_a_malformed_genome_is_one_line_that_names_the_file(fault: str, tmp_path: Path) -> None:
    file = tmp_path / "genome.json"
    file.write_bytes(CORPUS[fault][0])
    with pytest.raises(BadInput) as refused:
        founder(file, ResidualSpace((1, 8, 8), 10, config().space))
    assert "\n" not in str(refused.value)
    assert file.name in str(refused.value)


def test_a_malformed_genome_ends_a_search_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], prefect_server: None
) -> None:
    file = tmp_path / "genome.json"
    file.write_bytes(b"{")
    words = ("search", "--config", written(tmp_path, founders=[str(file)]), "--home", str(tmp_path / "h"))
    assert run(monkeypatch, *words) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("morphogen:")]
    assert len(said) == 1
    assert file.name in said[0]
    assert not (tmp_path / "h" / "tiny").exists()


def test_a_founder_over_the_budget_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], prefect_server: None
) -> None:
    file = tmp_path / "genome.json"
    file.write_bytes(ResidualSpace((1, 8, 8), 10).member(200, [2]).to_json())
    words = ("search", "--config", written(tmp_path, founders=[str(file)]), "--home", str(tmp_path / "h"))
    assert run(monkeypatch, *words) == 2
    assert "parameters must be at most" in capsys.readouterr().err
