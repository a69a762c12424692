"""A screen trains the best of several proposals, under new numbers, and tells the strategy of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from genomes import Genome, cost
from search import Candidate, Evaluation
from strategies import RandomSearch, Screened, ScreenSettings
from tests.search.toys import network, widened
from tests.strategies.contract import LIMITS, SPACE, Game, toy


@dataclass
class Scripted:
    """Proposes what it is given, one after the other."""

    script: list[Candidate]
    told: list[Evaluation] = field(default_factory=list)

    def ask(self, n: int) -> Sequence[Candidate]:
        found, self.script = self.script[:n], self.script[n:]
        return found

    def tell(self, candidate: Candidate, evaluation: Evaluation) -> None:
        assert candidate.number == evaluation.number
        self.told.append(evaluation)


def child(number: int, width: int, parent: int = 0) -> Candidate:
    edit = widened(width)
    return Candidate(number, edit.genome, (parent,), (edit,))


def size(genome: Genome) -> float:
    return float(cost(genome).parameters)


def test_the_best_of_the_draws_is_proposed_and_the_others_are_told_as_failures() -> None:
    inner = Scripted([Candidate(0, network(2)), child(1, 3), child(2, 7), child(3, 5)])
    screen = Screened(inner, size, 3)
    founder, chosen = screen.ask(2)
    assert (founder.number, chosen.number, chosen.parents) == (0, 1, (0,))
    assert chosen.genome == network(7)
    assert [(e.number, e.status, e.reason) for e in inner.told] == [
        (1, "over_budget", "screened out"),
        (3, "over_budget", "screened out"),
    ]


def test_numbers_have_no_gaps_and_parents_and_results_are_translated() -> None:
    inner = Scripted([Candidate(0, network(2)), child(1, 3), child(2, 7), child(3, 5, parent=2), child(4, 9, parent=2)])
    screen = Screened(inner, size, 2)
    _, second = screen.ask(2)
    screen.tell(second, Evaluation(1, "ok", {"error": 0.5}))
    assert inner.told[-1] == Evaluation(2, "ok", {"error": 0.5}), "it knows the candidate as number 2"
    (third,) = screen.ask(1)
    assert (third.number, third.parents, third.genome) == (2, (1,), network(9))
    screen.tell(third, Evaluation(2, "ok", {"error": 0.5}, twin=1))
    assert inner.told[-1] == Evaluation(4, "ok", {"error": 0.5}, twin=2)


def test_a_control_is_proposed_at_once_and_what_was_drawn_is_kept() -> None:
    founder = Candidate(0, network(2))
    control = Candidate(2, network(2), (0,))
    screen = Screened(Scripted([founder, child(1, 3), control, child(3, 5)]), size, 2)
    _, first, second = screen.ask(3)
    assert first.control
    assert (second.number, second.genome) == (2, network(5))


def test_a_strategy_that_waits_has_its_best_so_far_trained_and_then_nothing() -> None:
    screen = Screened(Scripted([Candidate(0, network(2)), child(1, 3), child(2, 4)]), size, 8)
    assert [candidate.genome for candidate in screen.ask(9)] == [network(2), network(4)]
    assert list(screen.ask(1)) == []


def test_of_equals_the_first_is_trained() -> None:
    screen = Screened(Scripted([Candidate(0, network(2)), child(1, 3), child(2, 4)]), lambda _: 0.0, 2)
    assert screen.ask(2)[1].genome == network(3)


def test_founders_are_screened_only_if_there_is_nothing_else() -> None:
    script = [Candidate(number, network(width)) for number, width in enumerate((2, 5, 3))]
    assert [c.genome for c in Screened(Scripted(list(script)), size, 3).ask(3)] == [c.genome for c in script]
    assert [c.genome for c in Screened(Scripted(script), size, 3, founders=True).ask(3)] == [network(5)]


def test_a_screen_shifts_random_search_towards_what_it_prefers() -> None:
    plain = Game(RandomSearch(SPACE, LIMITS, 0), toy).play(20).asked
    screened = Game(Screened(RandomSearch(SPACE, LIMITS, 0), size, 4, founders=True), toy).play(20).asked
    means = [sum(size(candidate.genome) for candidate in asked) / 20 for asked in (plain, screened)]
    assert means[1] > 1.3 * means[0]


@pytest.mark.parametrize("draws", [1, 65])
def test_a_screen_that_leaves_nothing_to_choose_is_refused(draws: int) -> None:
    with pytest.raises(ValueError, match=r"screen\.draws must be in"):
        ScreenSettings(draws=draws)
