"""The exceptions of this package, as a tree.

SearchError
├── SearchMissing
├── SearchLocked
├── ConfigMismatch
├── UnreadableLedger
│   └── NewerSchema
├── ReplayDiverged
├── ContractBroken
├── CorruptWeights
└── DiskFull
"""

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
    """The file is not a ledger, or is damaged, or cannot be written."""


class NewerSchema(UnreadableLedger):
    """The ledger was written by another version of this program, which this one cannot read."""


class ReplayDiverged(SearchError):
    """Replaying the ledger, the strategy proposes something else than it did: its code or its settings changed."""


class ContractBroken(SearchError):
    """A strategy or an evaluator did what the contract forbids; nothing of it was recorded."""


class CorruptWeights(SearchError):
    """A weight file is missing, or its content is not what its name says."""


class DiskFull(SearchError):
    """There is no room left; nothing is lost, and the search can be resumed."""
