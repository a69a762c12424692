"""Past: what a strategy proposed before, so that a replay need not search for what is on record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from search.protocol import Candidate, Strategy


@dataclass(frozen=True)
class Past:
    """What a strategy was seen to propose.

    Attributes:
        candidates: by number, without gaps.
    """

    candidates: Sequence[Candidate] = ()

    def at(self, number: int) -> Candidate | None:
        """Returns what was proposed under a number; None where it is to be found anew.

        That is beyond the end; and as a proof that the strategy still proposes what it did, for the last candidate and
        for each power of two: a change shows at its first children, where looking for them costs least, or at the last.
        """
        proof = number & (number - 1) == 0 or number == len(self.candidates) - 1
        return None if proof or number >= len(self.candidates) else self.candidates[number]


@runtime_checkable
class Mindful(Strategy, Protocol):
    """A strategy that can be reminded."""

    def remind(self, past: Past) -> None:
        """Takes what it proposed before, when it is still fresh.

        Asked again after the same tells, it may take from there what it would find by searching; it must change by that
        just as if it had found it, and propose what it finds now where the past has nothing, or nothing that could be.
        """
        ...


def remind(strategy: Strategy, past: Past) -> None:
    """Reminds a fresh strategy of what it proposed, if it can be; one that cannot searches for all of it again."""
    if isinstance(strategy, Mindful):
        strategy.remind(past)
