"""The one exception of this package."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 8  # reasons in the message


class InvalidGenome(ValueError):
    """A genome, or its JSON, breaks a rule; carries every reason that was found, the first eight in its message.

    Attributes:
        reasons: one sentence each: what should be, where, and what is.
    """

    def __init__(self, *reasons: str) -> None:
        """Takes at least one reason."""
        more = [f"and {len(reasons) - SHOWN} more"] if len(reasons) > SHOWN else []
        super().__init__("; ".join([*reasons[:SHOWN], *more]))
        self.reasons: Sequence[str] = reasons
