"""The contract of strategies and evaluators, and the engine that runs them; knows no algorithm and no torch."""

from search.errors import (
    ConfigMismatch,
    ContractBroken,
    CorruptWeights,
    DiskFull,
    NewerSchema,
    ReplayDiverged,
    SearchError,
    SearchLocked,
    SearchMissing,
    UnreadableLedger,
)
from search.files import sha256
from search.front import non_dominated
from search.ledger import Ledger
from search.loop import Budget, Dispatch, Done, Progress, drive
from search.past import Mindful, Past, remind
from search.promotions import Holders, Promotion
from search.protocol import (
    DETERMINISTIC,
    INFRASTRUCTURAL,
    Candidate,
    Evaluation,
    Evaluator,
    Fidelity,
    Status,
    Strategy,
    proposals,
)
from search.records import twin_key
from search.retrainings import Reading, Retraining, Retrainings
from search.view import Spent
from search.weights import WeightStore

__all__ = [
    "DETERMINISTIC",
    "INFRASTRUCTURAL",
    "Budget",
    "Candidate",
    "ConfigMismatch",
    "ContractBroken",
    "CorruptWeights",
    "DiskFull",
    "Dispatch",
    "Done",
    "Evaluation",
    "Evaluator",
    "Fidelity",
    "Holders",
    "Ledger",
    "Mindful",
    "NewerSchema",
    "Past",
    "Progress",
    "Promotion",
    "Reading",
    "ReplayDiverged",
    "Retraining",
    "Retrainings",
    "SearchError",
    "SearchLocked",
    "SearchMissing",
    "Spent",
    "Status",
    "Strategy",
    "UnreadableLedger",
    "WeightStore",
    "drive",
    "non_dominated",
    "proposals",
    "remind",
    "sha256",
    "twin_key",
]
