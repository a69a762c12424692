"""Promotions: the decisions about who is champion of a search, and who holds the place after all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

Outcome = Literal["promoted", "refused", "restored"]


class Promotion(NamedTuple):
    """One decision.

    Attributes:
        key: of the training whose network it is about.
        outcome: it became champion, or did not; or people brought it back in place of the one that followed it.
        evidence: as JSON values.
        decided: seconds since 1970, for people only.
    """

    key: str
    outcome: Outcome
    evidence: Mapping[str, Any]
    decided: float


class Holders(NamedTuple):
    """Who holds which place, by the key of the training.

    Attributes:
        champion: None before the first promotion.
        previous: the one before; None before the second promotion.
        withdrawn: who lost the place to one that people brought back.
    """

    champion: str | None
    previous: str | None
    withdrawn: frozenset[str]


def holders(promotions: Iterable[Promotion]) -> Holders:
    """Returns who holds the places after these decisions, the first one first."""
    champion = previous = None
    withdrawn: set[str] = set()
    for key, outcome, _, _ in promotions:
        if outcome == "refused":
            continue
        if outcome == "restored" and champion:
            withdrawn.add(champion)
        withdrawn.discard(key)
        if key != champion:
            champion, previous = key, champion
    return Holders(champion, previous, frozenset(withdrawn))
