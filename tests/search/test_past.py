"""The past answers for most of what was proposed, and leaves enough to be found anew."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from genomes import Genome, Module, fingerprint
from genomes.operations import Output
from search import Budget, Candidate, Ledger, Past, drive, records, remind
from tests.doubles import ToyEvaluator, in_turn
from tests.search.toys import CONFIG, Climber, network


def past(count: int) -> Past:
    return Past([Candidate(number, network(1)) for number in range(count)])


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 100])
def test_powers_of_two_and_the_last_are_found_anew_and_whatever_comes_after(count: int) -> None:
    anew = [number for number in range(count + 50) if past(count).at(number) is None]
    proofs = {0, 1, 2, 4, 8, 16, 32, 64, count - 1, *range(count, count + 50)}
    assert anew == sorted(number for number in proofs if 0 <= number < count + 50)


def test_the_others_are_answered_under_their_numbers() -> None:
    assert [found.number for number in range(8) if (found := past(8).at(number))] == [3, 5, 6]


@dataclass
class Elephant(Climber):
    """Never forgets."""

    past: Past = field(default_factory=Past)

    def remind(self, past: Past) -> None:
        """Takes what it proposed before."""
        self.past = past


def test_a_strategy_that_can_be_reminded_is_and_any_other_goes_without() -> None:
    elephant = Elephant()
    remind(elephant, past(3))
    assert elephant.past == past(3)
    remind(Climber(), past(3))


def test_a_search_that_is_resumed_reminds_its_strategy_of_all_that_was_asked(place: Path) -> None:
    with Ledger.create(place / "a", CONFIG) as ledger:
        drive(Climber(3), in_turn(ToyEvaluator()), ledger, Budget(candidates=9))
        asked = [records.identity(candidate) for candidate in ledger.candidates().values()]
    elephant = Elephant(3)
    with Ledger.create(place / "a", CONFIG) as ledger:
        drive(elephant, in_turn(ToyEvaluator()), ledger, Budget(candidates=12))
    assert [records.identity(candidate) for candidate in elephant.past.candidates] == asked
    assert len(asked) == 9


def test_what_a_recorded_genome_computes_is_known_without_reading_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger.create(place / "a", CONFIG) as ledger:
        drive(Climber(3), in_turn(ToyEvaluator()), ledger, Budget(candidates=9))
        found = [candidate.genome for candidate in ledger.candidates().values()]
    wanted = [fingerprint(Genome.from_json(genome.to_json())) for genome in found]
    monkeypatch.setattr(Genome, "from_json", None)
    assert [fingerprint.__wrapped__(genome) for genome in found] == wanted


def test_keys_of_early_versions_and_of_broken_genomes_hold_no_fingerprint() -> None:
    assert records.function("0" * 32) == ""
    broken = Candidate(0, Genome.of({"net": Module.of({"y": Output()}, [])}))
    assert records.twin_key(broken, None).startswith("-")
    assert records.function(records.twin_key(broken, None)) == ""
