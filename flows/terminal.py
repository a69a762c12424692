"""Terminal: progress while a search runs, and its tables and trees afterwards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from flows import report
from flows.finalists import finalists
from flows.payoff import payoffs
from morphism import Certificate
from search import Budget, Candidate, Evaluation, Ledger, Progress
from training.measurement import LATENCY

if TYPE_CHECKING:
    from training.pool import Occupied

Occupants = Callable[[], "tuple[Occupied, ...]"]
WIDTH = max(80, shutil.get_terminal_size((120, 40)).columns)


def console() -> Console:
    """Returns the console that everything is written to."""
    return Console(width=WIDTH, highlight=False)


class Display:
    """Shows each event of a search: redrawn in place on a terminal, else one line for each finished child."""

    def __init__(self, budget: Budget, screen: Console, live: Live, occupied: Occupants = tuple) -> None:
        self.budget, self.screen, self.live, self.occupied = budget, screen, live, occupied
        self.told = -1

    def __call__(self, progress: Progress) -> None:
        """Takes note of one event."""
        self.live.update(self.view(progress))
        if not self.screen.is_terminal and progress.spent.evaluations != self.told:
            self.told = progress.spent.evaluations
            self.screen.print(self.line(progress))

    def line(self, progress: Progress) -> str:
        """Returns one line: children done, best, front, spent and remaining."""
        spent, left = progress.spent, self.remaining(progress)
        winner = (
            f"best error {progress.best.objectives['error']:.4f} (child {progress.best.number})"
            if progress.best
            else "no result yet"
        )
        failed = f", {spent.failures} failed" if spent.failures else ""
        return (
            f"{spent.evaluations} children done{failed} · {winner} · front of {len(progress.front)} · "
            f"{spent.elapsed_seconds:.0f} s spent · {left}"
        )

    def remaining(self, progress: Progress) -> str:
        """Returns what is left of each bound of the budget."""
        left = [
            f"{max(0, limit - used):.{2 if unit == 'dollars' else 0}f} {unit}"
            for unit, used, limit in self.budget.bounds(progress.spent)
        ]
        return f"{' and '.join(left) or 'no bound'} left"

    def view(self, progress: Progress) -> Group:
        """Returns the picture that is redrawn in place."""
        bar = Bar(
            TextColumn("[bold]search"), BarColumn(WIDTH // 2), TextColumn("{task.percentage:.0f} % of the budget")
        )
        bar.add_task("", completed=round(100 * progress.share))
        table = evaluations_table([*progress.front][:8], {}, "Pareto front so far")
        return Group(bar, Text(self.line(progress)), Now(progress.in_flight, self.occupied), table)


class Now:
    """What is being trained, where and for how long; told anew at each drawing, since that is several a second."""

    def __init__(self, in_flight: tuple[int, ...], occupied: Occupants) -> None:
        self.in_flight, self.occupied = in_flight, occupied

    def __rich__(self) -> Text:
        places = {one.number: f" on {one.slot} for {one.seconds:.0f} s" for one in self.occupied()}
        children = [f"{number}{places.get(number, '')}" for number in self.in_flight]
        return Text(f"training: {', '.join(children) or 'nothing'}", style="dim")


@contextmanager
def display(budget: Budget, occupied: Occupants = tuple) -> Iterator[Display]:
    """Yields a display that `drive` can call.

    Args:
        budget: of the search.
        occupied: returns who is in which slot.
    """
    screen = console()
    with Live(console=screen, refresh_per_second=4, transient=True, auto_refresh=screen.is_terminal) as live:
        yield Display(budget, screen, live, occupied)


def evaluations_table(
    rows: list[Evaluation],
    candidates: dict[int, Candidate],
    title: str,
    judgements: Mapping[int, float] | None = None,
) -> Table:
    """Returns a table of evaluations, with their edits where the candidates are given, and the errors as judged."""
    table = Table(title=title, title_justify="left", title_style="bold")
    timed = any("latency_seconds" in row.objectives for row in rows)
    measured = ("latency ms", "x reference") if timed else ()
    for column in ("child", "error", "parameters", "MACs", *measured, "CPU seconds", "examples with ancestors"):
        table.add_column(column, justify="right")
    if judgements:
        table.add_column("error as judged", justify="right")
    table.add_column("whose child")
    for row in rows:
        candidate = candidates.get(row.number)
        table.add_row(
            str(row.number),
            f"{row.objectives['error']:.4f}",
            f"{row.objectives['parameters']:,.0f}",
            f"{row.objectives['macs']:,.0f}",
            *(_latency(row) if timed else ()),
            f"{row.cost.get('seconds', 0):.1f}",
            f"{row.cost.get('lineage_examples', 0):,.0f}",
            *([f"{judgements[row.number]:.4f}"] if judgements else []),
            report.descent(candidate) if candidate else "",
        )
    return table


def _latency(row: Evaluation) -> tuple[str, str]:
    """Returns the latency in milliseconds and in times of the reference network's; blanks if it was not measured."""
    seconds, ratio = (row.objectives.get(name) for name in LATENCY)
    return (f"{1000 * seconds:.3f}" if seconds else "", f"{ratio:.2f}" if ratio else "")


def _named(evaluation: Evaluation) -> str:
    facts = evaluation.objectives
    sizes = f"{facts['parameters']:,.0f} parameters, {facts['macs']:,.0f} MACs"
    return f"child {evaluation.number}, error {facts['error']:.4f}, {sizes}"


def summary(ledger: Ledger, screen: Console) -> None:
    """Prints best, front, spent, failures and the gains over the no-op control."""
    evaluations, spent, winner, front = ledger.evaluations(), ledger.spent(), report.best(ledger), report.front(ledger)
    candidates = ledger.candidates()  # read last: a search that runs asks before it tells
    if winner:
        first, judged = finalists(ledger, 1)[0], report.judgements(ledger)
        screen.print(evaluations_table(front, candidates, "Pareto front", judged))
        screen.print(f"Best: {_named(winner)}")
        if judged and first.number != winner.number:
            screen.print(f"First finalist: {_named(first)}, error as judged {judged[first.number]:.4f}")
    screen.print(
        f"Spent: {spent.elapsed_seconds:.0f} s, {spent.evaluations} of {spent.candidates} children, "
        f"{spent.examples:,.0f} examples, {spent.train_seconds:.0f} s of training"
    )
    _slots(ledger, screen)
    for place in sorted({json.dumps(e.machine) for e in evaluations.values() if e.machine}):
        told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in json.loads(place).items())
        screen.print(Text(f"Latency measured on: {told}"))
    _certificates(candidates, evaluations, screen)
    failures = [e for e in evaluations.values() if not e.ok]
    screen.print(f"Failures: {len(failures) or 'none'}")
    for failure in failures[:10]:
        screen.print(Text(f"  child {failure.number}: {failure.status}: {failure.reason}"))
    if len(failures) > 10:
        screen.print(f"  and {len(failures) - 10} more")
    _gains(candidates, evaluations, screen)


def _slots(ledger: Ledger, screen: Console) -> None:
    for slot, attempts, seconds in ledger.occupancy():
        screen.print(f"Slot {slot}: {seconds:.0f} s, attempts {attempts}")
    running = ", ".join(f"{number} for {seconds:.0f} s" for number, seconds in ledger.running())
    if running:
        screen.print(f"In training: {running}")


def _certificates(candidates: dict[int, Candidate], evaluations: dict[int, Evaluation], screen: Console) -> None:
    proofs = [c for e in evaluations.values() for c in e.certificates if c.modes]
    worst = max((error for proof in proofs for error in proof.errors.values()), default=0.0)
    kept, proved = sum(proof.verdict for proof in proofs), sum(proof.proved == proof.modes for proof in proofs)
    controls = sum(candidates[number].control for number in evaluations)
    screen.print(
        f"Morphisms: {kept} of {len(proofs)} certified, {proved} proved statically, largest error {worst:.1e}; "
        f"no-op controls: {controls}"
    )


def _gains(candidates: dict[int, Candidate], evaluations: dict[int, Evaluation], screen: Console) -> None:
    found = [payoff for payoff in payoffs(candidates, evaluations) if payoff.compared]
    if not found:
        screen.print("Gain over the no-op control: no parent has a control and another child yet")
        return
    table = Table(
        title="Gain over the no-op control, which is the parent trained on as long (children with this edit)",
        title_justify="left",
        title_style="bold",
    )
    for column in ("edit", "children", "mean gain", "95 % interval", "best gain"):
        table.add_column(column, justify="left" if column == "edit" else "right")
    for payoff in found:
        interval = "" if payoff.low is None else f"{payoff.low:+.4f} to {payoff.high:+.4f}"
        table.add_row(payoff.rule, str(payoff.compared), f"{payoff.mean:+.4f}", interval, f"{payoff.best:+.4f}")
    screen.print(table)


def family(ledger: Ledger, number: int) -> Tree:
    """Returns a candidate's line as a tree: the founder on top, then each child of the one before it, with its edits.

    The line is not nested, since after thirty edits nothing would be left of the terminal's width.
    """
    founder, *rest = ledger.line(number)
    top = Tree(_member(ledger, founder))
    for member in rest:
        top.add(_member(ledger, member))
    return top


def _claim(certificate: Certificate, mode: str) -> str:
    """Returns what is known of one mode that an edit claims."""
    return f"{mode} {certificate.errors[mode]:.1e}{', proved' if mode in certificate.proved else ''}"


def _member(ledger: Ledger, number: int) -> Text:
    candidate, evaluation = ledger.candidate(number), ledger.evaluation(number)
    text = Text(f"{number} ", style="bold").append(report.edits(candidate), style="cyan")
    if evaluation is None:
        return text.append(" in training", style="dim")
    if not evaluation.ok:
        return text.append(f" {evaluation.status}: {evaluation.reason}", style="red")
    text.append(f"  error {evaluation.objectives['error']:.4f}, {evaluation.objectives['parameters']:,.0f} parameters")
    for certificate in evaluation.certificates:
        proof = ", ".join(_claim(certificate, mode) for mode in certificate.modes) or "no promise"
        text.append(
            f"\n  {certificate.rule}: {'kept the function' if certificate.modes else 'disruption'} ({proof})",
            style="green" if certificate.modes else "yellow",
        )
    return text
