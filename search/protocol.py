"""The contract between strategies, evaluators and the engine; it knows no algorithm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from genomes import Genome
from morphism import Certificate, Edit

Status = Literal[
    "ok",
    "build_error",
    "non_finite",
    "over_budget",
    "out_of_memory",  # deterministic: final; a lack of memory that may pass is for the evaluator to sit out
    "killed",
    "lost",
    "timeout",
    "io_error",  # infrastructural: tried again with the same seed
]
DETERMINISTIC: frozenset[Status] = frozenset({"build_error", "non_finite", "over_budget", "out_of_memory"})
INFRASTRUCTURAL: frozenset[Status] = frozenset({"killed", "lost", "timeout", "io_error"})


@dataclass(frozen=True)
class Fidelity:
    """A complete training schedule, with its own warm-up and its own cosine to zero.

    Attributes:
        examples: how many training examples are shown, repeats counted.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    examples: int = 20_000

    def __post_init__(self) -> None:
        """Refuses a schedule without an example."""
        if self.examples < 1:
            raise ValueError(f"fidelity.examples must be 1 or more, got {self.examples}")


@dataclass(frozen=True)
class Candidate:
    """What a strategy proposes.

    Attributes:
        number: the order of proposal, from 0.
        genome: what is to be judged.
        parents: numbers of the candidates it comes from; the first one's weights are inherited through `edits`, which
            may take tensors of the second one.
        edits: from the first parent's genome to this one; with a parent and no edit it is the no-op control: the
            parent itself, trained once more.
        fidelity: how completely it is to be trained.
        promotes: the number of the candidate that this one is, trained again at a higher fidelity: from its own weights
            if it is among the parents, else from where it began; None for a new one.
    """

    number: int
    genome: Genome
    parents: tuple[int, ...] = ()
    edits: tuple[Edit, ...] = ()
    fidelity: Fidelity = Fidelity()
    promotes: int | None = None

    @property
    def control(self) -> bool:
        """Whether this is a parent's continuation without change, as long as the parent's children are trained.

        A promotion that continues its own weights is none; a control that is promoted from where it began stays one.
        """
        return bool(self.parents) and not self.edits and self.promotes not in self.parents


@dataclass(frozen=True)
class Evaluation:
    """What became of a candidate.

    Attributes:
        number: the candidate's.
        status: `ok`, or the kind of failure.
        objectives: numbers to minimise by name (`error`, `parameters`, `macs`, …); finite; empty unless `ok`.
        cost: what it took by name: own `seconds`, `examples`, `train_macs` (forward and backward), and the same along
            the whole ancestry as `lineage_seconds`, `lineage_examples`, `lineage_train_macs`.
        curve: one mapping for each point of the learning curve (`examples`, `loss`, …).
        weights: the digest of the trained tensors in the weight store; None if there are none.
        reason: why it failed, in one line.
        certificates: one for each edit.
        twin: the number of the candidate whose evaluation this one repeats; None if it was trained itself.
        initial: SHA-256 of the tensors that training began with, in the store's format; None if it began with none.
        gradients: for edits that could be made of it, by `morphism.place`, how much the loss wants what they add; empty
            unless the variation chooses by it.
        slot: the name of the slot that it was evaluated in; None if it took none.
        machine: what the latency was measured on and how (`processor`, `threads`, …); empty if it was not.
        features: of the genome, by name, as `genomes.features` has them: what judging regresses errors on.
    """

    number: int
    status: Status
    objectives: Mapping[str, float] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[Mapping[str, float], ...] = ()
    weights: str | None = None
    reason: str = ""
    certificates: tuple[Certificate, ...] = ()
    twin: int | None = None
    initial: str | None = None
    gradients: Mapping[str, float] = field(default_factory=dict)
    slot: str | None = None
    machine: Mapping[str, str] = field(default_factory=dict)
    features: Mapping[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the candidate was trained and judged."""
        return self.status == "ok"


class Strategy(Protocol):
    """Proposes candidates; a function of its seed and of what it was told, without I/O."""

    def ask(self, n: int) -> Sequence[Candidate]:
        """Returns at most `n` new candidates (fewer while it waits); the same as asking `n` times for one."""
        ...

    def tell(self, candidate: Candidate, evaluation: Evaluation) -> None:
        """Takes note of what became of a candidate; in any order, failures too."""
        ...


def proposals(one: Callable[[], Candidate | None], n: int) -> list[Candidate]:
    """Returns at most `n` candidates, until `one` has nothing to propose: what `ask` is for most strategies."""
    found: list[Candidate] = []
    while len(found) < n and (candidate := one()):
        found.append(candidate)
    return found


class Evaluator(Protocol):
    """Judges a candidate; may be called from several threads."""

    def __call__(self, candidate: Candidate, parents: Mapping[int, Evaluation]) -> Evaluation:
        """Returns the evaluation; failures are evaluations too."""
        ...
