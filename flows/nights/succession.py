"""Succession: which search a night goes on with, and how much of its budget is this night's."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from flows.config import SearchConfig, validated
from flows.home import BadInput, Home
from flows.nights.record import NIGHTS, Night, Outcome, tally
from search import Budget, Ledger, Spent

LIMITS = ("parameters", "macs", "activation_bytes")  # that a successor may widen


class Succession(NamedTuple):
    """How a finished search is followed by others.

    Attributes:
        searches: how many there may be, the first one among them.
        widen: each successor's limits of networks are those of the one before, times this.
    """

    searches: int = 1
    widen: float = 1.0

    def member(self, config: SearchConfig, number: int) -> SearchConfig:
        """Returns the configuration of a search of the succession.

        Selection of a successor takes errors at equal lineage age: else its heirs would win for being old.

        Args:
            config: of the first one.
            number: which, from 1.

        Raises:
            BadInput: there can be no successor, or not with these limits.
        """
        if number == 1:
            return config
        if config.origin:
            raise BadInput(
                f"searches must be 1 with an origin, got {self.searches}: among the founders of a successor are the "
                "space's own starters"
            )
        factor = self.widen ** (number - 1)
        space = {name: int(getattr(config.space, name) * factor) for name in LIMITS}
        document = config.model_dump(mode="json")
        changes = {
            "name": f"{config.name}-{number}",
            "predecessor": self.member(config, number - 1).name,
            "founders": (),
            "space": {**document["space"], **space},
            "strategy": {**document["strategy"], "judgement": "corrected"},
        }
        return validated({**document, **changes}, f"the successor of search {config.name}")

    def current(self, config: SearchConfig, home: Home, nights: Sequence[Night]) -> SearchConfig | None:
        """Returns the configuration of the search to go on with; None if the last one is finished.

        Raises:
            BadInput: as `member`, or another search has the name of a successor.
        """
        number, there = 1, set(home.names())
        while number < self.searches and self.member(config, number + 1).name in there:
            number += 1
            _check(self.member(config, number), home)
        for member in (self.member(config, n) for n in range(number, min(number + 1, self.searches) + 1)):
            if not finished(member, home, nights):
                return member
        return None


def finished(config: SearchConfig, home: Home, nights: Sequence[Night]) -> bool:
    """Says whether a search has spent the whole of its budget, or proposed all that it can."""
    mine = [night for night in nights if night.search == config.name]
    if mine and mine[-1].outcome == "exhausted":
        return True
    return config.budget.share(tally(home, config.name).spent) >= 1


def tonight(whole: Budget, spent: Spent, seconds: float, candidates: int | None) -> Budget:
    """Returns the budget that ends a night: what was spent and the night's own on top, within that of the whole search.

    Args:
        whole: the search's.
        spent: so far.
        seconds: the night's bound of wall clock.
        candidates: the night's bound of candidates; None for none.
    """
    ages = (whole.seconds, spent.elapsed_seconds + seconds)
    counts = (whole.candidates, candidates and spent.candidates + candidates)
    return replace(
        whole,
        seconds=min(age for age in ages if age is not None),
        candidates=min((count for count in counts if count is not None), default=None),
    )


def why(config: SearchConfig, home: Home, share: float) -> Outcome:
    """Returns why a night's search stopped: it had nothing left to propose, or its budget or the night's was spent.

    Args:
        config: of the search, with the whole budget.
        home: the directory that holds searches.
        share: of the night's budget that was spent, from 0 to 1.
    """
    if share < 1:
        return "exhausted"
    return "spent" if config.budget.share(tally(home, config.name).spent) >= 1 else "went on"


def first(home: Home, name: str) -> str:
    """Returns the name of the search that a succession began with, which may be this one: it has the nights."""
    if (home.search(name) / NIGHTS).exists():
        return name
    with Ledger.read(home.search(name)) as ledger:
        before = ledger.config.get("predecessor")
    return first(home, before) if before else name


def _check(config: SearchConfig, home: Home) -> None:
    """Refuses a search that has a successor's name and is none."""
    with Ledger.read(home.search(config.name)) as ledger:
        before = ledger.config.get("predecessor")
    if before != config.predecessor:
        raise BadInput(
            f"search {config.name} must be the successor of {config.predecessor}, it is another one: give the nightly "
            "search another name, or move that one away"
        )
