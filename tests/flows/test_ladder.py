"""A search on a ladder of schedules, through the command line, on real Prefect, MLflow, SQLite and data."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from flows import cli
from flows.home import Home
from search import Candidate, Evaluation, Ledger
from tests.flows.conftest import FAST

RUNGS = (64, 128)
CHILDREN = 14
LADDERS = {"asha, continued": ("asha", "continue"), "halving, retrained": ("halving", "retrain")}

Found = tuple[dict[int, Candidate], dict[int, Evaluation]]


def morphogen(*words: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["morphogen", *words])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    return int(stopped.value.code or 0)


@pytest.fixture(scope="module", params=LADDERS.values(), ids=LADDERS)
def home(request: pytest.FixtureRequest, prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the home of a search that was stopped by its budget in the middle, and resumed with a larger one."""
    kind, promotion = request.param
    place = tmp_path_factory.mktemp("ladder")
    ladder = {"kind": kind, "rungs": list(RUNGS), "reduction": 2, "promotion": promotion}
    (place / "config.yaml").write_text(
        yaml.safe_dump({**FAST, "budget": {"candidates": 5}, "strategy": {"ladder": ladder}})
    )
    assert morphogen("search", "--config", str(place / "config.yaml"), "--home", str(place / "home")) == 0
    more = ("--candidates", str(CHILDREN), "--cpu-seconds", "900", "--dollars", "3", "--dollars-per-hour", "1.5")
    assert morphogen("resume", "tiny", *more, "--home", str(place / "home")) == 0
    return place / "home"


def found(home: Path) -> Found:
    with Ledger.read(home / "tiny") as ledger:
        return ledger.candidates(), ledger.evaluations()


def test_children_climb_and_fewer_on_each_rung(home: Path) -> None:
    candidates, evaluations = found(home)
    assert len(evaluations) == CHILDREN
    assert all(evaluation.ok for evaluation in evaluations.values())
    counts = Counter(candidate.fidelity.examples for candidate in candidates.values())
    assert set(counts) == {*RUNGS, FAST["fidelity"]["examples"]}
    assert all(counts[low] > counts[high] for low, high in pairwise(sorted(counts)))
    for number, candidate in candidates.items():
        assert evaluations[number].cost["examples"] >= candidate.fidelity.examples


def test_a_promotion_trains_on_from_its_own_weights_or_begins_where_it_began(home: Path) -> None:
    candidates, evaluations = found(home)
    promoted = [c for c in candidates.values() if c.promotes is not None]
    assert promoted
    for candidate in promoted:
        below, now, before = candidates[candidate.promotes or 0], evaluations[candidate.number], evaluations
        assert candidate.genome == below.genome
        if candidate.promotes in candidate.parents:
            assert now.initial == before[below.number].weights
        elif candidate.parents:
            assert now.initial == before[below.number].initial


def test_every_child_s_first_weights_can_be_derived_again(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert morphogen("verify", "tiny", "--home", str(home)) == 0


def test_it_is_told_what_is_a_promotion(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mlflow import MlflowClient

    candidates, _ = found(home)
    promoted = {str(n): str(c.promotes) for n, c in candidates.items() if c.promotes is not None}
    client = MlflowClient(Home(home).tracking_uri)
    experiment = client.get_experiment_by_name("tiny")
    runs = [run.data.tags for run in client.search_runs([experiment.experiment_id], "tags.`morphogen.kind` = 'child'")]
    shown = {tags["morphogen.number"]: tags["morphogen.promotes"] for tags in runs if "morphogen.promotes" in tags}
    assert shown == promoted
    top = max(candidates.values(), key=lambda c: (c.fidelity.examples, c.number))
    assert morphogen("lineage", "tiny", str(top.number), "--home", str(home)) == 0
    assert f"{top.promotes} promoted to {top.fidelity.examples:,} examples" in capsys.readouterr().out


def test_the_budget_can_be_raised_in_processor_seconds_and_dollars(home: Path) -> None:
    with Ledger.read(home / "tiny") as ledger:
        budget = ledger.config["budget"]
    assert budget["cpu_seconds"] == 900
    assert (budget["dollars"], budget["dollars_per_hour"]) == (3, 1.5)
