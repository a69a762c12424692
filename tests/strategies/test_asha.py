"""ASHA, step by step: the errors are given, so that who climbs when can be said in advance."""

from __future__ import annotations

from search import Candidate, Evaluation, Fidelity
from strategies import ASHA, LadderSettings, RandomSearch
from tests.strategies.contract import LIMITS, SPACE, failed

FULL = Fidelity(900)


class Play:
    """A strategy of which one candidate at a time is asked and told."""

    def __init__(self, reduction: int = 2) -> None:
        settings = LadderSettings(rungs=(100, 300), reduction=reduction, promotion="retrain")
        self.strategy = ASHA(RandomSearch(SPACE, LIMITS, 0), settings, FULL)
        self.asked: list[Candidate] = []

    def ask(self) -> tuple[int | None, int]:
        """Returns whom the next candidate promotes, and its examples."""
        self.asked += self.strategy.ask(1)
        return self.asked[-1].promotes, self.asked[-1].fidelity.examples

    def tell(self, number: int, error: float) -> None:
        candidate = self.asked[number]
        evaluation = Evaluation(number, "ok", {"error": error}, weights="0" * 64)
        self.strategy.tell(candidate, evaluation if error < 1 else failed(candidate))


def test_the_best_part_of_a_rung_climbs_as_soon_as_it_is_known_and_nothing_waits() -> None:
    play = Play()
    assert [play.ask() for _ in range(3)] == [(None, 100)] * 3
    play.tell(0, 0.5)
    assert play.ask() == (None, 100)  # one of one is not the better half of two
    play.tell(1, 0.4)
    assert play.ask() == (1, 300)
    assert play.ask() == (None, 100)  # 2 is still in training, and nobody waits for it


def test_the_highest_rung_is_served_first() -> None:
    play = Play()
    for _ in range(4):
        play.ask()
    for number, error in enumerate([0.4, 0.3, 0.2, 0.1]):
        play.tell(number, error)
    assert [play.ask(), play.ask()] == [(3, 300), (2, 300)]
    for _ in range(2):
        assert play.ask() == (None, 100)
    play.tell(6, 0.05)
    play.tell(7, 0.06)  # 6 may climb to the second rung
    play.tell(4, 0.2)
    play.tell(5, 0.1)  # and 5 to the third
    assert [play.ask(), play.ask(), play.ask()] == [(5, 900), (6, 300), (7, 300)]
    assert play.ask() == (None, 100)


def test_whoever_was_passed_over_may_climb_when_the_rung_has_grown() -> None:
    play = Play()
    for _ in range(4):
        play.ask()
    play.tell(0, 0.5)
    play.tell(1, 0.1)
    assert play.ask() == (1, 300)
    play.tell(2, 0.8)
    play.tell(3, 0.9)
    assert play.ask() == (0, 300)  # the second of four


def test_failures_are_losers() -> None:
    play = Play(reduction=3)
    for _ in range(6):
        play.ask()
    for number in range(5):
        play.tell(number, 1.0)
    assert play.ask() == (None, 100)
    play.tell(5, 0.9)
    assert play.ask() == (5, 300)
    assert play.ask() == (None, 100)
