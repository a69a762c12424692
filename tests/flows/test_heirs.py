"""What a successor takes over: starters, heirs with weights and heirs with fresh ones, in equal parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.assembly import DATA, FREE, WEIGHTS, document, keep, planned, retrainer, tidy, trainer
from flows.finalists import finalists
from flows.home import BadInput, Home
from flows.nights.heirs import FOUNDERS, HEIRS, Bequest, bequest, kept, source
from flows.nights.succession import Succession
from genomes import Limits, equivalent
from genomes.spaces.residual import ResidualSpace
from search import Budget, Candidate, CorruptWeights, Evaluation, Ledger, SearchMissing, WeightStore, drive
from tests.flows.conftest import config
from tests.flows.families import genome_of, recorded
from tests.flows.test_cli import run
from tests.flows.test_finalists import told

COUNT = 9
BASE = config(budget={"candidates": COUNT}, slots={"cpu": 1})
NEXT = Succession(2).member(BASE, 2)
STARTERS = [genome_of((3,)), genome_of((4,)), genome_of((5,)), genome_of((6,))]


def went(home: Home, settings: Any, count: int) -> None:
    """Runs a search without Prefect, until it has so many candidates."""
    home.make()
    prepared, strategy, begun = planned(settings, home)
    with Ledger.create(home.search(settings.name), document(settings, home), FREE) as ledger:
        evaluator = trainer(settings, home, keep(settings, home, prepared, begun))
        tidy(ledger, evaluator)
        drive(strategy, lambda c, parents, done: done(evaluator(c, parents)), ledger, Budget(candidates=count))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a search and its successor, which was resumed once after its predecessor had changed."""
    home = Home(tmp_path_factory.mktemp("searches"))
    went(home, BASE, COUNT)
    went(home, NEXT, 5)
    went(home, BASE, COUNT + 3)
    went(home, NEXT, COUNT)
    return home


def family(directory: Path, errors: list[float], weights: bool = True) -> Path:
    """Records networks of ten widths each, all of them different from the starters."""
    candidates = {n: Candidate(n, genome_of((10 + n,))) for n in range(len(errors))}
    evaluations = {n: told(n, error, 1000.0 - n) for n, error in enumerate(errors)}
    if weights:
        evaluations = {n: _weighed(one) for n, one in evaluations.items()}
    recorded(directory, candidates, evaluations)
    return directory


def _weighed(one: Evaluation) -> Evaluation:
    return Evaluation(one.number, one.status, one.objectives, one.cost, weights="0" * 64)


def test_of_the_founders_a_third_are_starters_a_third_heirs_with_weights_a_third_fresh(tmp_path: Path) -> None:
    given = bequest(family(tmp_path / "old", [0.1, 0.2, 0.3, 0.4, 0.5]), STARTERS, Limits(), 6)
    best = [genome_of((10 + n,)) for n in range(4)]
    assert given.founders == (STARTERS[0], best[0], best[1], STARTERS[1], best[2], best[3])
    assert {digest: heir.number for digest, heir in given.heirs.items()} == {best[0].digest: 0, best[2].digest: 2}


@pytest.mark.parametrize("founders", range(3, 20))
def test_at_least_a_third_of_those_that_are_proposed_know_nothing_of_the_old_family(
    founders: int, tmp_path: Path
) -> None:
    given = bequest(family(tmp_path / "old", [0.1 + n / 100 for n in range(20)]), STARTERS, Limits(), founders)
    assert len(set(given.founders)) == len(given.founders) <= founders
    assert 3 * sum(genome in STARTERS for genome in given.founders) >= len(given.founders)
    assert set(given.heirs) <= {genome.digest for genome in given.founders} - {genome.digest for genome in STARTERS}


def test_an_heir_without_weights_begins_with_fresh_ones(tmp_path: Path) -> None:
    given = bequest(family(tmp_path / "old", [0.1, 0.2], weights=False), STARTERS, Limits(), 3)
    assert given.heirs == {}
    assert given.founders == (STARTERS[0], genome_of((10,)), genome_of((11,)))


def test_what_is_a_starter_or_over_the_limits_is_no_heir(tmp_path: Path) -> None:
    directory = tmp_path / "old"
    candidates = {0: Candidate(0, STARTERS[0]), 1: Candidate(1, genome_of((300,))), 2: Candidate(2, genome_of((12,)))}
    recorded(directory, candidates, {n: _weighed(told(n, 0.1 + n / 10, 9.0 - n)) for n in candidates})
    given = bequest(directory, STARTERS, Limits(parameters=5000), 3)
    assert given.founders == (STARTERS[0], genome_of((12,)))


def test_a_predecessor_with_nothing_to_hand_on_is_refused(tmp_path: Path) -> None:
    recorded(tmp_path / "old", {0: Candidate(0, STARTERS[0])}, {0: told(0, 0.1, 9.0)})
    with pytest.raises(BadInput, match="predecessor old must have a network"):
        bequest(tmp_path / "old", STARTERS, Limits(), 3)


def test_a_bequest_is_read_as_it_was_written(tmp_path: Path) -> None:
    given = bequest(family(tmp_path / "old", [0.1, 0.2, 0.3, 0.4]), STARTERS, Limits(), 6)
    given.write(tmp_path / FOUNDERS)
    assert kept(tmp_path) == given
    assert kept(tmp_path / "old") is None


def test_a_damaged_bequest_is_named(tmp_path: Path) -> None:
    Bequest((STARTERS[0],), {}).write(tmp_path / FOUNDERS)
    (tmp_path / FOUNDERS / HEIRS).write_text("{")
    with pytest.raises(BadInput, match="must hold the founders as they were written"):
        kept(tmp_path)


def test_a_predecessor_must_be_there_and_have_the_same_data(home: Home) -> None:
    assert source(NEXT, home) == home.search("tiny")
    other = NEXT.model_copy(update={"data": type(NEXT.data)(name="fashion_mnist")})
    with pytest.raises(BadInput, match="data must be that of the predecessor tiny"):
        planned(other.model_copy(update={"name": "other"}), home)
    with pytest.raises(SearchMissing, match="no search gone"):
        planned(NEXT.model_copy(update={"name": "other", "predecessor": "gone"}), home)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"founders": ["a.json"]}, "with founders"),
        ({"origin": {"model": "a.py:b"}}, "with origin"),
        ({"strategy": {"kind": "random"}}, "with the random strategy"),
        ({"predecessor": "tiny"}, "must be another search"),
        ({"predecessor": "../up"}, "pattern"),
    ],
)
def test_a_predecessor_beside_other_founders_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config(**{"predecessor": "old", **changes})


def test_the_successor_begins_with_starters_and_the_old_front(home: Home) -> None:
    space = ResidualSpace((1, 8, 8), 10, NEXT.space)
    with Ledger.read(home.search("tiny-2")) as ledger:
        founders = [candidate for candidate in ledger.candidates().values() if not candidate.parents]
        evaluations = ledger.evaluations()
    with Ledger.read(home.search("tiny")) as ledger:
        old = [candidate.genome for candidate in ledger.candidates(range(COUNT)).values()]
    starters = [founder for founder in founders if founder.genome in space.starters()[:2]]
    heirs = [founder for founder in founders if founder not in starters]
    assert len(founders) == NEXT.strategy.nsga2.founders == 4
    assert [founder.number for founder in starters] == [0, 3]
    assert all(any(equivalent(heir.genome, genome) for genome in old) for heir in heirs)
    assert all(evaluations[founder.number].twin is None for founder in founders)


def test_an_heir_goes_on_from_its_weights_and_carries_what_they_cost(home: Home) -> None:
    given = kept(home.search("tiny-2"))
    assert given is not None
    assert len(given.heirs) == 1
    with Ledger.read(home.search("tiny-2")) as ledger:
        candidates, evaluations = ledger.candidates(), ledger.evaluations()
    for number, candidate in candidates.items():
        before, one = given.heirs.get(candidate.genome.digest), evaluations[number]
        if candidate.parents:
            continue
        own = one.cost["examples"]
        if before is None:
            assert one.cost["lineage_examples"] == own
            continue
        assert one.initial == before.weights
        assert one.cost["lineage_examples"] == own + before.cost["lineage_examples"] > own
        with Ledger.read(home.search("tiny")) as ledger:
            assert ledger.evaluation(before.number) == before


def test_a_successor_is_resumed_from_its_own_copy_whatever_became_of_the_predecessor(home: Home) -> None:
    with Ledger.read(home.search("tiny-2")) as ledger:
        assert ledger.spent().evaluations == COUNT
        assert all(ledger.attempts(n).count("ok") <= 1 for n in range(COUNT))
    given = kept(home.search("tiny-2"))
    assert given is not None
    for heir in given.heirs.values():
        WeightStore(home.search("tiny-2") / WEIGHTS).get(heir.weights or "")
    assert (home.search("tiny-2") / DATA).read_bytes() == (home.search("tiny") / DATA).read_bytes()


def test_a_successor_can_be_verified(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "verify", "tiny-2", "--home", str(home.root)) == 0


def test_finalists_of_a_successor_are_retrained_from_scratch(home: Home) -> None:
    assert trainer(NEXT, home, planned(NEXT, home).prepared).heirs
    evaluator = retrainer(NEXT, home)
    with Ledger.read(home.search("tiny-2")) as ledger:
        best = finalists(ledger, 9)
        genomes = [candidate.genome for candidate in ledger.candidates([e.number for e in best]).values()]
    assert [evaluator.founding(Candidate(n, genome)) for n, genome in enumerate(genomes)] == [None] * len(genomes)


def test_missing_weights_of_the_predecessor_are_named_and_leave_no_founders(home: Home, tmp_path: Path) -> None:
    settings = NEXT.model_copy(update={"name": "third"})
    prepared, _, begun = planned(settings, home)
    assert isinstance(begun, Bequest)
    broken = Bequest(begun.founders, {d: _weighed(heir) for d, heir in begun.heirs.items()})
    with Ledger.create(home.search("third"), document(settings, home), FREE), pytest.raises(CorruptWeights):
        keep(settings, home, prepared, broken)
    assert not (home.search("third") / FOUNDERS).exists()
