"""The one exception of this package."""

from __future__ import annotations

from collections.abc import Sequence


class InvalidGenome(ValueError):
    """A genome, or its JSON, breaks a rule; carries every reason that was found.

    Attributes:
        reasons: one sentence each: what should be, where, and what is.
    """

    def __init__(self, *reasons: str) -> None:
        """Takes at least one reason."""
        super().__init__("; ".join(reasons))
        self.reasons: Sequence[str] = reasons
