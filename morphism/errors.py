"""The one exception of this package."""

from __future__ import annotations


class Inapplicable(ValueError):
    """An edit cannot be made at this site, or its result would not keep what it promises."""
