"""What a ladder does to the strategy inside: nothing that it could see, but better weights for its children."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest

from genomes import Genome
from search import Candidate, Evaluation, Fidelity, Strategy, twin_key
from strategies import ASHA, LadderSettings, SuccessiveHalving
from tests.strategies.contract import FULL, LADDERS, PLAIN, RUNGS, STARTERS, Game, Make, failed, flaky, toy

each = pytest.mark.parametrize("make", LADDERS.values(), ids=LADDERS)
WRAPPERS = (ASHA, SuccessiveHalving)


@dataclass
class Listener:
    """A strategy that passes everything on and remembers what it proposed and heard."""

    inner: Strategy
    asked: list[Candidate] = field(default_factory=list)
    told: dict[int, Evaluation] = field(default_factory=dict)

    def ask(self, n: int) -> list[Candidate]:
        found = list(self.inner.ask(n))
        self.asked += found
        return found

    def tell(self, candidate: Candidate, evaluation: Evaluation) -> None:
        assert candidate == self.asked[candidate.number]
        assert candidate.number == evaluation.number
        assert candidate.number not in self.told, "it was told twice"
        self.told[candidate.number] = evaluation
        self.inner.tell(candidate, evaluation)


def settings(wrapper: type, **changes: Any) -> LadderSettings:
    kind = "asha" if wrapper is ASHA else "halving"
    return LadderSettings(**{"kind": kind, "rungs": RUNGS, "reduction": 2, **changes})


def climb(game: Game, candidate: Candidate) -> list[Candidate]:
    """Returns a candidate and those that it promotes, first rung first."""
    steps = [candidate]
    while (below := steps[0].promotes) is not None:
        steps.insert(0, game.asked[below])
    return steps


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", ["aging", "nsga2 with crossover"])
def test_a_child_inherits_from_its_parents_highest_rung(wrapper: type, name: str) -> None:
    listener = Listener(PLAIN[name](1))
    game = Game(wrapper(listener, settings(wrapper), FULL), flaky)
    higher = 0
    firsts: list[Candidate] = []  # by the wrapped strategy's numbers
    while len(game.asked) < 60:
        if len(game.flying) >= 3 or not game.ask():
            game.land()
            continue
        candidate = game.asked[-1]
        if candidate.promotes is not None:
            continue
        own, firsts = listener.asked[len(firsts)], [*firsts, candidate]
        assert (candidate.genome, candidate.edits) == (own.genome, own.edits)
        for parent, owns in zip(candidate.parents, own.parents, strict=True):
            done = [c for c in game.asked if c.number in game.told and game.told[c.number].ok]
            mine = [c for c in done if climb(game, c)[0] is firsts[owns]]
            assert parent == max(mine, key=lambda c: c.fidelity.examples).number
            higher += parent != firsts[owns].number
    assert higher > 0


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_strategy_inside_is_told_once_of_all_that_ended_and_of_the_highest_rung(wrapper: type) -> None:
    listener = Listener(PLAIN["aging"](2))
    game = Game(wrapper(listener, settings(wrapper), FULL), flaky).play(70)
    ended = [own for own in listener.asked if own.number in listener.told]
    assert len(ended) > len(listener.asked) - 12  # the others are of a bracket that the end cut off, or are held
    errors = {e.objectives["error"] for e in game.told.values() if e.ok}
    examples = [listener.told[own.number].cost.get("examples", 0.0) for own in ended]
    assert all(e.objectives["error"] in errors for e in listener.told.values() if e.ok)
    assert {float(RUNGS[0]), float(RUNGS[1]), float(FULL.examples)} <= set(examples)


@each
def test_only_the_best_part_climbs_and_every_schedule_is_one_of_the_ladder_s(make: Make) -> None:
    game = Game(make(3)).play(80)
    counts = {e: sum(c.fidelity.examples == e for c in game.asked) for e in (*RUNGS, FULL.examples)}
    steps = [count for count in counts.values() if count]
    assert sum(counts.values()) == 80
    assert len(steps) >= 2
    for below, above in pairwise(steps):
        assert 0 < above <= 3 * below // 4  # to halve exactly, ASHA would have to know who comes later
    promoted = [c.promotes for c in game.asked if c.promotes is not None]
    assert len(promoted) == len(set(promoted))


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_promotions_continue_their_own_weights_or_begin_again_where_they_began(wrapper: type) -> None:
    again = Game(wrapper(PLAIN["aging"](4), settings(wrapper, promotion="retrain"), FULL)).play(60)
    on = Game(wrapper(PLAIN["aging"](4), settings(wrapper), FULL)).play(60)
    for game in (again, on):
        assert any(c.promotes is not None and game.asked[c.promotes].edits for c in game.asked)
    for candidate in again.asked:
        if candidate.promotes is not None:
            below = again.asked[candidate.promotes]
            assert (candidate.parents, candidate.edits) == (below.parents, below.edits)
            assert candidate.control == below.control
    for candidate in on.asked:
        if candidate.promotes is not None:
            assert (candidate.parents, candidate.edits) == ((candidate.promotes,), ())
            assert not candidate.control


@each
def test_a_promotion_is_no_twin_of_what_it_promotes(make: Make) -> None:
    game = Game(make(5)).play(60)
    for candidate in game.asked:
        if candidate.promotes is not None:
            keys = [twin_key(c, game.told[c.parents[0]] if c.parents else None) for c in climb(game, candidate)]
            assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_promotion_that_fails_leaves_what_was_reached_before(wrapper: type) -> None:
    def fails_above(candidate: Candidate, parents: Mapping[int, Evaluation]) -> Evaluation:
        return failed(candidate) if candidate.promotes is not None else toy(candidate, parents)

    listener = Listener(PLAIN["aging"](6))
    game = Game(wrapper(listener, settings(wrapper), FULL), fails_above).play(60)
    assert any(candidate.promotes is not None for candidate in game.asked)
    assert all(e.ok and e.cost["examples"] == RUNGS[0] for e in listener.told.values())
    assert not any(game.asked[parent].promotes is not None for c in game.asked for parent in c.parents)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("spoilt", ["twin", "weights", "not finite", "unmeasured"])
def test_a_result_that_cannot_be_compared_or_continued_does_not_climb(wrapper: type, spoilt: str) -> None:
    def evaluate(candidate: Candidate, parents: Mapping[int, Evaluation]) -> Evaluation:
        evaluation = toy(candidate, parents)
        if candidate.number % 2 == 0:
            return evaluation
        return {
            "twin": replace(evaluation, twin=0),
            "weights": replace(evaluation, weights=None),
            "not finite": replace(evaluation, objectives={**evaluation.objectives, "error": math.nan}),
            "unmeasured": replace(evaluation, objectives={}),
        }[spoilt]

    game = Game(wrapper(PLAIN["random"](7), settings(wrapper), FULL), evaluate).play(40)
    promoted = [c.promotes for c in game.asked if c.promotes is not None]
    assert promoted
    assert not any(number % 2 for number in promoted)


@dataclass
class Waiting:
    """A strategy that proposes three founders, then waits until all are told before it proposes three more."""

    told: int = 0
    asked: int = 0

    def ask(self, n: int) -> list[Candidate]:
        found: list[Candidate] = []
        while len(found) < n and self.asked // 3 <= self.told // 3:
            found.append(Candidate(self.asked, genome(self.asked)))
            self.asked += 1
        return found

    def tell(self, candidate: Candidate, evaluation: Evaluation) -> None:
        assert candidate.number == evaluation.number
        self.told += 1


def genome(number: int) -> Genome:
    return STARTERS[number % len(STARTERS)]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("slots", [1, 2, 5])
def test_a_strategy_that_waits_for_generations_is_never_waited_for_in_vain(wrapper: type, slots: int) -> None:
    inner = Waiting()
    game = Game(wrapper(inner, settings(wrapper), FULL)).play(50, slots)
    assert len(game.told) == 50
    assert inner.told > 12


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("slots", [1, 2, 5])
def test_asks_that_find_nothing_leave_no_trace_so_a_replay_needs_none_of_them(wrapper: type, slots: int) -> None:
    """The game asks in vain whenever the strategy waits; those asks are no events, so the replay knows none of them."""
    game = Game(wrapper(Waiting(), settings(wrapper), FULL)).play(50, slots)
    fresh = wrapper(Waiting(), settings(wrapper), FULL)
    for candidate, evaluation in game.events:
        if evaluation is None:
            assert fresh.ask(1) == [candidate]
        else:
            fresh.tell(candidate, evaluation)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rungs": ()}, "rungs must be rising"),
        ({"rungs": (5, 5)}, "rungs must be rising"),
        ({"rungs": (0, 5)}, "rungs must be rising"),
        ({"reduction": 1}, "reduction must be 2 or more, got 1"),
        ({"bracket": 4}, "left out unless kind is halving"),
        ({"kind": "halving", "bracket": 0}, "bracket must be 1 or more"),
    ],
)
def test_what_is_no_ladder_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LadderSettings(**wrong)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_rung_that_is_no_shorter_than_the_full_schedule_is_refused(wrapper: type) -> None:
    with pytest.raises(ValueError, match="must be below the 60000 examples of the full schedule, got 60000"):
        wrapper(PLAIN["random"](0), settings(wrapper), Fidelity(60_000))
