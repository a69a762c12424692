"""Finalists: the best different networks of a search, those of the front first."""

from __future__ import annotations

from pathlib import Path

from flows import report
from flows.finalists import finalists
from genomes import equivalent
from search import Candidate, Evaluation, Ledger, non_dominated
from tests.flows.families import genome_of, kin, recorded


def told(number: int, error: float, parameters: float) -> Evaluation:
    return Evaluation(number, "ok", {"error": error, "parameters": parameters, "macs": 1.0}, {"lineage_examples": 1.0})


def best(directory: Path, count: int, *trained: int) -> list[int]:
    with Ledger.read(directory) as ledger:
        return [evaluation.number for evaluation in finalists(ledger, count, trained)]


def test_the_front_comes_first_by_error_then_the_rest_by_error(tmp_path: Path) -> None:
    errors = [(0.3, 10.0), (0.1, 90.0), (0.12, 95.0), (0.2, 50.0), (0.11, 92.0)]  # 2 and 4 are dominated by 1
    candidates = {n: Candidate(n, genome_of((3 + n,))) for n in range(5)}
    recorded(tmp_path / "s", candidates, {n: told(n, *errors[n]) for n in range(5)})
    assert best(tmp_path / "s", 2) == [1, 3]
    assert best(tmp_path / "s", 9) == [1, 3, 0, 4, 2]


def test_a_network_is_a_finalist_once_whatever_it_inherited(tmp_path: Path) -> None:
    candidates = {
        0: Candidate(0, genome_of((4,))),
        1: Candidate(1, genome_of((4,)), (0,)),  # its no-op control
        2: Candidate(2, genome_of((5,))),
    }
    recorded(tmp_path / "s", candidates, {0: told(0, 0.2, 9), 1: told(1, 0.1, 9), 2: told(2, 0.3, 11)})
    assert best(tmp_path / "s", 3) == [1, 2]
    assert best(tmp_path / "s", 3, 0) == [0, 2]  # what was trained from scratch before keeps its number, and its place
    assert best(tmp_path / "s", 1, 0, 2) == [0]


def test_failures_and_what_is_still_trained_are_none(tmp_path: Path) -> None:
    candidates = {n: Candidate(n, genome_of((3 + n,))) for n in range(3)}
    recorded(tmp_path / "s", candidates, {0: Evaluation(0, "non_finite", reason="NaN"), 1: told(1, 0.5, 9)})
    assert best(tmp_path / "s", 3) == [1]
    recorded(tmp_path / "empty", {0: candidates[0]}, {})
    assert best(tmp_path / "empty", 3) == []


def test_of_a_large_family_all_finalists_are_different_and_none_is_missed(tmp_path: Path) -> None:
    candidates, evaluations = kin(80)
    recorded(tmp_path / "kin", candidates, evaluations)
    chosen = best(tmp_path / "kin", 1000)
    genomes = [candidates[number].genome for number in chosen]
    assert not any(equivalent(one, other) for i, one in enumerate(genomes) for other in genomes[:i])
    good = {number for number, evaluation in evaluations.items() if evaluation.ok}
    assert all(any(equivalent(candidates[number].genome, genome) for genome in genomes) for number in good)
    assert best(tmp_path / "kin", 4) == chosen[:4]


def test_where_selection_corrects_errors_finalists_are_in_its_order(tmp_path: Path) -> None:
    recorded(tmp_path / "kin", *kin(80), {"strategy": {"judgement": "corrected"}})
    with Ledger.read(tmp_path / "kin") as ledger:
        seen, objectives = report.judgements(ledger), {n: e.objectives for n, e in ledger.evaluations().items() if e.ok}
        measured = {evaluation.number for evaluation in report.front(ledger)}
        genomes = {n: candidate.genome for n, candidate in ledger.candidates().items()}
    front = set(non_dominated({n: (seen[n], found["parameters"]) for n, found in objectives.items()}))
    chosen = best(tmp_path / "kin", 80)
    alike = {n: [one for one in objectives if equivalent(genomes[one], genomes[n])] for n in chosen}
    first = {n: min(alike[n], key=lambda one: (one not in front, seen[one])) for n in chosen}
    assert chosen == sorted(chosen, key=lambda n: (first[n] not in front, seen[first[n]]))
    assert front & set(chosen)
    assert front != measured
    rest = [number for number in chosen if first[number] not in front]
    assert rest != sorted(rest, key=lambda n: objectives[n]["error"])
    assert all(objectives[n]["error"] == min(objectives[one]["error"] for one in alike[n]) for n in chosen)
    assert any(first[n] != n for n in chosen)  # the place of one, the weights of another
