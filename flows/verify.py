"""Verification: each certificate and each child's first weights, derived again from the stored ancestors and compared.

The code that derives them is the one that made them; what it is given comes from the ledger and the weight store.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from flows import assembly
from flows.config import stored
from flows.home import BadInput, Home, line
from morphism import Certificate
from morphism.certificate import TOLERANCES
from search import Candidate, CorruptWeights, Evaluation, Ledger, records
from training.errors import TrainingError

if TYPE_CHECKING:
    from training.data import Split
    from training.inherit import Start
    from training.trainer import Trainer

# What reading and realising raise where somebody changed a record; InvalidGenome and Inapplicable are ValueErrors.
TAMPERED = (ValueError, KeyError, IndexError, TypeError, RuntimeError, CorruptWeights, TrainingError)


@dataclass(frozen=True)
class Check:
    """What verifying one child showed.

    Attributes:
        number: the candidate's.
        certificates: derived now; none if they could not be.
        identical: how many of them the ledger holds to the last bit.
        problems: what is wrong and how it should be, one line each.
    """

    number: int
    certificates: tuple[Certificate, ...] = ()
    identical: int = 0
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verifier:
    """Checks children of one search.

    Attributes:
        ledger: of the search.
        evaluator: that of the search, whose store, data, seed and origin determine first weights.
    """

    ledger: Ledger
    evaluator: "Trainer"

    @cached_property
    def identities(self) -> dict[int, str]:
        """The hash of all that a candidate was when it was recorded, by number, of those that were evaluated."""
        return {step.number: step.identity for step in self.ledger.steps() if step.kind == "tell"}

    @cached_property
    def split(self) -> "Split":
        """The search's data."""
        from training.data import load

        return load(self.evaluator.prepared)

    def check(self, number: int) -> Check | None:
        """Verifies one evaluated candidate; None if it failed or repeats another, so that nothing was derived."""
        try:
            candidate, evaluation = self.ledger.candidate(number), self.ledger.evaluations([number])[number]
            parents = self.ledger.evaluations(candidate.parents)
        except TAMPERED as error:
            return Check(number, problems=(f"its record must be readable: {line(error)}",))
        if not evaluation.ok or evaluation.twin is not None:
            return None
        problems = [*self._recorded(candidate), *self._stored(candidate, evaluation)]
        try:
            start = self._start(candidate, parents)
        except TAMPERED as error:
            return Check(number, problems=(*problems, f"its first weights must be derivable: {line(error)}"))
        if evaluation.initial != start.digest:
            problems.append(f"its first weights must be {start.digest}, the ledger says {evaluation.initial}")
        problems += _differences(evaluation.certificates, start.certificates)
        same = Counter(map(repr, evaluation.certificates)) & Counter(map(repr, start.certificates))
        return Check(number, start.certificates, same.total(), tuple(problems))

    def _recorded(self, candidate: Candidate) -> Iterator[str]:
        """Yields whether the record is what was proposed, and whether its edits begin and end where they should."""
        was, now = self.identities[candidate.number], records.identity(candidate)
        if was != now:
            yield f"its genome, parents, edits and fidelity must hash to {was}, they hash to {now}: one was changed"
        ends = candidate.edits[-1].genome if candidate.edits else candidate.genome
        if ends != candidate.genome:
            yield f"its edits must lead to genome {candidate.genome.digest}, they lead to {ends.digest}"

    def _stored(self, candidate: Candidate, evaluation: Evaluation) -> Iterator[str]:
        """Yields whether the trained weights are whole, and those of this genome."""
        try:
            genome, _ = self.evaluator.store.get(evaluation.weights or "")
        except TAMPERED as error:
            yield line(error)
            return
        if genome != candidate.genome:
            yield f"its weights must be of genome {candidate.genome.digest}, they are of {genome.digest}"

    def _start(self, candidate: Candidate, parents: dict[int, Evaluation]) -> "Start":
        from training.inherit import Heritage, inherit

        evaluator = self.evaluator
        heritage = Heritage.of(candidate, parents, evaluator.seed, evaluator.founding(candidate))
        return inherit(heritage, evaluator.store, self.split.train.images, evaluator.prepared.normal)


def verified(home: Home, name: str, child: int | None, screen: Console) -> bool:
    """Verifies a search, or one child of it; prints what was found and returns whether all is as it should be.

    Raises:
        BadInput: the child has nothing to verify, or the data is missing.
        SearchError: there is no such search or candidate, or it cannot be read.
    """
    with Ledger.read(home.search(name)) as ledger, _one_thread():
        config = stored(ledger)
        verifier = Verifier(ledger, assembly.trainer(config, home, assembly.data(config, home)))
        numbers = [*verifier.identities] if child is None else [child]
        if child is not None and child not in verifier.identities:
            raise BadInput(f"candidate {ledger.candidate(child).number} of search {name} is not evaluated yet: wait")
        listed = track(numbers, "verifying", console=screen, transient=True, disable=not screen.is_terminal)
        checks = [check for number in listed if (check := verifier.check(number))]
    if child is not None and not checks:
        raise BadInput(f"candidate {child} of search {name} failed or repeats another: nothing was derived")
    _show(checks, len(numbers) - len(checks), screen)
    return not any(check.problems for check in checks)


def _differences(stored: Sequence[Certificate], derived: Sequence[Certificate]) -> Iterator[str]:
    """Yields in what certificates differ; errors that another machine measures differ, within the tolerance."""
    if len(stored) != len(derived):
        yield f"it must have {len(derived)} certificates, the ledger holds {len(stored)}"
    for was, now in zip(stored, derived, strict=False):
        held = asdict(was)
        for name, wanted in asdict(now).items():
            if held[name] != wanted and not (name == "errors" and _within(was) and set(was.errors) == set(now.errors)):
                yield f"the certificate of {now.rule} must have {name} {wanted}, the ledger says {held[name]}"


def _within(certificate: Certificate) -> bool:
    return all(0 <= error <= TOLERANCES[mode] for mode, error in certificate.errors.items())


def _show(checks: Sequence[Check], others: int, screen: Console) -> None:
    certificates = [certificate for check in checks for certificate in check.certificates]
    if certificates:
        screen.print(_table(certificates))
    for check in checks:
        for problem in check.problems:
            screen.print(Text(f"child {check.number}: {problem}", style="red"), soft_wrap=True)
    good, same = sum(not check.problems for check in checks), sum(check.identical for check in checks)
    left = f"; {others} failed or repeat another" if others else ""
    screen.print(
        f"Verified: {good} of {len(checks)} children, {same} of {len(certificates)} certificates identical to the last "
        f"bit{left}",
        soft_wrap=True,
    )


def _table(certificates: Sequence[Certificate]) -> Table:
    """Returns what was derived, by rule."""
    table = Table(title="Derived again", title_justify="left", title_style="bold")
    for column in ("rule", "edits", "certified", "proved", *TOLERANCES):
        table.add_column(column, justify="left" if column == "rule" else "right")
    for rule in sorted({certificate.rule for certificate in certificates}):
        some = [certificate for certificate in certificates if certificate.rule == rule]
        exact = [certificate for certificate in some if certificate.modes]
        proved = sum(certificate.proved == certificate.modes for certificate in exact)
        worst = [max((c.errors[mode] for c in exact if mode in c.errors), default=None) for mode in TOLERANCES]
        table.add_row(
            rule,
            str(len(some)),
            str(sum(certificate.verdict for certificate in exact)) if exact else "no promise",
            str(proved) if exact else "",
            *("" if error is None else f"{error:.1e}" for error in worst),
        )
    return table


@contextmanager
def _one_thread() -> Iterator[None]:
    """Computes on one thread, as children are trained: sums over several are not the same to the last bit."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
