"""What a ledger says is counted right, and fits where it is shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from evo import judged
from flows import report
from flows.home import BadInput
from morphism import Certificate
from search import Candidate, Evaluation, Fidelity, Ledger, SearchMissing
from tests.flows.families import edit_of, genome_of, kin, random, recorded

COUNT = 60
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report") / "kin"
    recorded(place, *kin(COUNT))
    return place


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    recorded(tmp_path / "empty", {}, {})
    return tmp_path / "empty"


def result(number: int, error: float, parameters: float = 100.0) -> Evaluation:
    return Evaluation(number, "ok", {"error": error, "parameters": parameters, "macs": 1.0}, {}, weights="2" * 64)


def member(number: int, *parents: int, edited: bool = False) -> Candidate:
    genome = genome_of((4, 4))
    return Candidate(number, genome, parents, (edit_of(random.Random(number), genome),) if edited else ())


def test_the_best_has_the_least_error_then_the_fewest_parameters_then_came_first(tmp_path: Path) -> None:
    told = [result(0, 0.2, 1), result(1, 0.1, 9), result(2, 0.1, 5), result(3, 0.1, 5), Evaluation(4, "timeout")]
    recorded(tmp_path / "s", {n: member(n) for n in range(5)}, dict(enumerate(told)))
    with Ledger.read(tmp_path / "s") as ledger:
        found = report.best(ledger)
        assert found is not None
        assert found.number == report.chosen(ledger, "s", None) == 2
        assert report.chosen(ledger, "s", 4) == 4
        with pytest.raises(SearchMissing, match="0 to 4"):
            report.chosen(ledger, "s", 5)


def test_a_search_without_results_has_no_best(empty: Path) -> None:
    with Ledger.read(empty) as ledger:
        assert report.best(ledger) is None
        with pytest.raises(BadInput, match="empty has no evaluated candidate yet"):
            report.chosen(ledger, "empty", None)


def test_the_front_is_what_nobody_beats_smallest_first(directory: Path) -> None:
    with Ledger.read(directory) as ledger:
        front, all_of_them = report.front(ledger), ledger.evaluations().values()
    points = [(e.objectives["parameters"], e.objectives["error"]) for e in front]
    assert points == sorted(points)
    assert [error for _, error in points] == sorted((error for _, error in points), reverse=True)
    for evaluation in all_of_them:
        if evaluation.ok:
            own = (evaluation.objectives["parameters"], evaluation.objectives["error"])
            assert any(p <= own[0] and e <= own[1] for p, e in points)


@pytest.mark.parametrize(("parents", "control"), [((), False), ((3,), False), ((0,), True)])
def test_a_promotion_names_whom_and_to_what_and_is_a_control_only_if_it_begins_where_one_began(
    parents: tuple[int, ...], control: bool
) -> None:
    candidate = replace(member(7, *parents), fidelity=Fidelity(6_000), promotes=3)
    assert candidate.control == control
    assert report.edits(candidate) == report.descent(candidate) == "3 promoted to 6,000 examples"
    assert report.tags("s", candidate, result(7, 0.1))["morphogen.promotes"] == "3"
    assert "morphogen.promotes" not in report.tags("s", member(7), result(7, 0.1))


def test_descent_names_the_parents_of_those_that_have_any() -> None:
    assert report.descent(member(7)) == "founder"
    assert report.descent(member(7, 3, 5)) == "3, 5: no-op control"


def test_metrics_of_certificates_are_of_what_is_claimed() -> None:
    exact = Certificate("a", "", "", "", ("eval", "train"), {"eval": 1e-16, "train": 3e-15}, ("eval",), 0, True)
    other = replace(exact, modes=("eval",), errors={"eval": 2e-16})
    nothing = replace(exact, modes=(), errors={}, proved=())
    assert report.proofs([exact, nothing, other]) == {
        "certificate/proved": pytest.approx(2 / 3),
        "certificate/eval": 2e-16,
        "certificate/train": 3e-15,
    }
    assert report.proofs([nothing]) == {}


def test_a_childs_certificates_are_a_file(directory: Path) -> None:
    with Ledger.read(directory) as ledger:
        candidates, evaluations = ledger.candidates(), ledger.evaluations()
    number = next(n for n, e in evaluations.items() if e.certificates)
    told = report.child_files(candidates[number], evaluations[number])
    read = [Certificate.from_json(entry) for entry in json.loads(told["certificates.json"])]
    assert tuple(read) == evaluations[number].certificates
    assert [edit["rule"] for edit in json.loads(told["edits.json"])] == [c.rule for c in read]


def test_tags_are_text_that_mlflow_keeps_whole() -> None:
    candidates, evaluations = kin(COUNT)
    for number, candidate in candidates.items():
        told = report.tags("kin", candidate, replace(evaluations[number], reason="no room in [x] \u2028" * 1000))
        assert json.loads(told["morphogen.parents"]) == list(candidate.parents)
        assert all(len(value) <= report.CHARACTERS for value in told.values())
        assert all(key.startswith("morphogen.") for key in told)


def test_the_artifacts_of_a_search_are_written_and_its_metrics_counted(directory: Path, tmp_path: Path) -> None:
    with Ledger.read(directory) as ledger:
        metrics = report.artifacts(ledger, "kin", tmp_path)
        front, best = report.front(ledger), report.best(ledger)
    assert best is not None
    assert metrics["evaluations"] == COUNT
    assert metrics["failures"] == sum(not e.ok for e in kin(COUNT)[1].values())
    assert metrics["best_error"] == best.objectives["error"]
    claimed = [c for e in kin(COUNT)[1].values() for c in e.certificates if c.modes]
    assert metrics["certified"] == len(claimed)
    assert metrics["certificate/eval"] == max(c.errors["eval"] for c in claimed)
    rows = json.loads((tmp_path / "front.json").read_text())
    assert [row["number"] for row in rows] == [e.number for e in front]
    assert (tmp_path / "front.png").read_bytes().startswith(PNG)
    assert (tmp_path / "lineage.html").read_text().startswith("<!")


def test_a_search_that_was_stopped_before_its_first_result_has_artifacts(empty: Path, tmp_path: Path) -> None:
    with Ledger.read(empty) as ledger:
        assert report.artifacts(ledger, "empty", tmp_path)["evaluations"] == 0
    assert json.loads((tmp_path / "front.json").read_text()) == []


def test_what_selection_saw_is_told_beside_the_measured_error(tmp_path: Path) -> None:
    recorded(tmp_path / "s", *kin(COUNT), {"strategy": {"judgement": "corrected"}})
    with Ledger.read(tmp_path / "s") as ledger:
        seen, evaluations = report.judgements(ledger), ledger.evaluations()
        report.artifacts(ledger, "s", tmp_path)
    assert seen == judged("corrected", evaluations.values())
    rows = json.loads((tmp_path / "front.json").read_text())
    assert rows
    for row in rows:
        assert row["judged_error"] == seen[row["number"]] != row["error"]
        assert row["error"] == evaluations[row["number"]].objectives["error"]


def test_where_selection_sees_the_measured_error_nothing_is_added(directory: Path, tmp_path: Path) -> None:
    with Ledger.read(directory) as ledger:
        assert report.judgements(ledger) == {}
        report.artifacts(ledger, "s", tmp_path)
    assert not any("judged_error" in row for row in json.loads((tmp_path / "front.json").read_text()))
