"""The exceptions of this package, as a tree."""

from __future__ import annotations


class SearchError(Exception):
    """Something about a search as a whole; the message says what to do."""


class SearchMissing(SearchError):
    """There is no search, or no such candidate, under this name."""


class SearchLocked(SearchError):
    """Another process is running this search."""


class ConfigMismatch(SearchError):
    """A search of this name exists with another configuration."""


class UnreadableLedger(SearchError):
    """The file is not a ledger, or was written by a newer version, or cannot be written."""


class ReplayDiverged(SearchError):
    """Replaying the ledger, the strategy proposes something else than it did: its code or its settings changed."""


class CorruptWeights(SearchError):
    """A weight file is missing, or its content is not what its name says."""


class DiskFull(SearchError):
    """There is no room left; nothing is lost, and the search can be resumed."""
