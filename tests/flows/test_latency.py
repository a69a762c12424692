"""Latency as an objective, end to end: from the command line to the ledger, the tables, the page and MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from flows import cli, report
from flows.assembly import planned, trainer
from flows.home import Home
from flows.lineage import family
from search import Candidate, Evaluation, Ledger
from tests.flows.conftest import FAST, config, shown
from tests.flows.families import kin, recorded

TIMED = ("latency_seconds", "latency_ratio")


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr("sys.argv", ["morphogen", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code


@pytest.fixture(scope="module")
def home(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the home of a search for small error and short latency, run from the command line."""
    place = tmp_path_factory.mktemp("timed")
    wanted = {
        "strategy": {"nsga2": {"founders": 4, "objectives": ["error", "latency_seconds"]}},
        "latency": {"repeats": 10},
    }
    file = place / "timed.yaml"
    file.write_text(yaml.safe_dump({**FAST, **wanted, "name": "timed"}))
    with pytest.MonkeyPatch.context() as patch:
        run(patch, "search", "--config", str(file), "--home", str(place))
    return place


def test_every_child_is_measured_and_equal_networks_share_one_measurement(home: Path) -> None:
    with Ledger.read(home / "timed") as ledger:
        candidates, evaluations = ledger.candidates(), ledger.evaluations()
    assert len(evaluations) == FAST["budget"]["candidates"]  # type: ignore[index]
    for number, evaluation in evaluations.items():
        assert evaluation.ok, evaluation.reason
        assert all(0 < evaluation.objectives[name] < 100 for name in TIMED)
        assert evaluation.machine["threads"] == "1"
        if candidates[number].control:
            before = evaluations[candidates[number].parents[0]]
            assert [evaluation.objectives[name] for name in TIMED] == [before.objectives[name] for name in TIMED]


def test_the_summary_shows_the_front_of_error_and_latency_with_unit_and_machine(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flows.terminal.WIDTH", 160)  # a narrow screen breaks the headings
    run(monkeypatch, "show", "timed", "--home", str(home))
    text = capsys.readouterr().out
    assert "latency ms" in text
    assert "Latency measured on: " in text
    assert "threads 1" in text
    with Ledger.read(home / "timed") as ledger:
        front = report.front(ledger)
        assert front == sorted(ledger.front(("error", "latency_seconds")), key=lambda e: e.objectives["parameters"])
    for one in front:
        assert f"{1000 * one.objectives['latency_seconds']:.3f}" in text


def test_mlflow_and_the_page_hold_what_the_ledger_holds(home: Path) -> None:
    with Ledger.read(home / "timed") as ledger:
        candidates, evaluations = ledger.candidates(), ledger.evaluations()
    for run in shown(Home(home), "timed", None):
        known = evaluations[run["number"]].objectives
        assert [run["metrics"][name] for name in TIMED] == pytest.approx([known[name] for name in TIMED])
    for number, detail in enumerate(family(candidates, evaluations)["details"]):
        assert detail["machine"] == evaluations[number].machine
        assert detail["objectives"]["latency_seconds"] == pytest.approx(
            evaluations[number].objectives["latency_seconds"], rel=1e-5
        )
    assert (
        json.loads(report.tags("timed", candidates[0], evaluations[0])["morphogen.machine"]) == evaluations[0].machine
    )


@pytest.mark.parametrize(
    ("strategy", "measured"),
    [
        ({}, False),
        ({"nsga2": {"objectives": ["error", "latency_ratio"]}}, True),
        ({"kind": "aging", "nsga2": {"objectives": ["error", "latency_ratio"]}}, False),
        ({"kind": "aging", "aging": {"objective": "latency_seconds"}}, True),
        ({"kind": "random", "nsga2": {"objectives": ["error", "latency_ratio"]}}, True),
    ],
)
def test_latency_is_measured_only_if_the_strategy_asks_for_it(
    strategy: dict[str, object], measured: bool, tmp_path: Path
) -> None:
    chosen, place = config(strategy=strategy, latency={"batch_size": 7}), Home(tmp_path)
    evaluator = trainer(chosen, place, planned(chosen, place).prepared)
    assert evaluator.latency == (chosen.latency if measured else None)


def test_a_picture_of_the_front_is_drawn_over_the_objective_that_was_asked_for(tmp_path: Path) -> None:
    candidates, evaluations = kin(12)
    timed = {n: slow(e) for n, e in evaluations.items()}
    recorded(tmp_path / "s", candidates, timed)
    with Ledger.read(tmp_path / "s") as ledger:
        assert report.axes(ledger) == ("error", "parameters")
        front = ledger.front(("error", "latency_seconds"))
    report.draw_front(timed, front, tmp_path / "front.png", ("error", "latency_seconds"))
    report.draw_front(timed, front, tmp_path / "other.png")
    assert (tmp_path / "front.png").read_bytes() != (tmp_path / "other.png").read_bytes()


def slow(evaluation: Evaluation) -> Evaluation:
    from dataclasses import replace

    return replace(evaluation, objectives={**evaluation.objectives, "latency_seconds": 0.001 * (1 + evaluation.number)})


def test_a_candidate_without_a_latency_leaves_its_cell_empty(tmp_path: Path) -> None:
    from flows.terminal import console, evaluations_table

    numbers = {"error": 0.5, "parameters": 10.0, "macs": 20.0}
    rows = [
        Evaluation(0, "ok", {**numbers, "latency_seconds": 0.00123, "latency_ratio": 2.5}),
        Evaluation(1, "ok", numbers),
    ]
    screen = console()
    with screen.capture() as captured:
        screen.print(evaluations_table(rows, dict[int, Candidate](), "t"))
    lines = [line for line in captured.get().splitlines() if line.startswith("│")]
    assert "1.230" in lines[0]
    assert "2.50" in lines[0]
    assert [cell.strip() for cell in lines[1].split("│")[5:7]] == ["", ""]
