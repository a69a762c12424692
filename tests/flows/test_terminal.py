"""What the terminal shows: the whole of it, as it is, while a search runs and afterwards."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from flows import report, terminal
from flows.finalists import finalists
from flows.payoff import payoffs
from search import Budget, Candidate, Evaluation, Ledger, Progress, Spent
from tests.flows.families import edit_of, genome_of, kin, random, recorded

DEEP = 120


def screen(width: int = 120, tty: bool = False) -> tuple[Console, io.StringIO]:
    page = io.StringIO()
    return Console(file=page, width=width, highlight=False, force_terminal=tty), page


def summary(directory: Path) -> str:
    console, page = screen()
    with Ledger.read(directory) as ledger:
        terminal.summary(ledger, console)
    return page.getvalue()


def test_a_summary_shows_best_front_costs_failures_and_gains(tmp_path: Path) -> None:
    recorded(tmp_path / "kin", *kin(60))
    text = summary(tmp_path / "kin")
    with Ledger.read(tmp_path / "kin") as ledger:
        best, front, spent = report.best(ledger), report.front(ledger), ledger.spent()
    assert best is not None
    assert f"Best: child {best.number}, error {best.objectives['error']:.4f}" in text
    rows = [line for line in text.splitlines() if line.startswith("│")]
    for one in front:
        assert any(f" {one.number} " in row and f"{one.objectives['error']:.4f}" in row for row in rows)
    assert f"60 of 60 children, {spent.examples:,.0f} examples" in text
    assert f"Failures: {spent.failures}" in text
    assert "mean gain" in text
    count = sum(bool(c.modes) for e in kin(60)[1].values() for c in e.certificates)
    assert f"Morphisms: {count} of {count} certified, {count} proved statically, largest error" in text


def test_a_summary_shows_what_each_edit_was_worth_and_how_sure_that_is(tmp_path: Path) -> None:
    recorded(tmp_path / "kin", *kin(240))
    compared = [payoff for payoff in payoffs(*kin(240)) if payoff.compared]
    text = summary(tmp_path / "kin")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    assert sum(payoff.low is not None for payoff in compared) > 3
    for payoff in compared:
        interval = "" if payoff.low is None else f"{payoff.low:+.4f} to {payoff.high:+.4f}"
        assert [payoff.rule, str(payoff.compared), f"{payoff.mean:+.4f}", interval, f"{payoff.best:+.4f}"] in rows


def test_a_summary_shows_what_selection_saw(tmp_path: Path) -> None:
    recorded(tmp_path / "s", *kin(60), {"strategy": {"judgement": "corrected"}})
    with Ledger.read(tmp_path / "s") as ledger:
        seen, front = report.judgements(ledger), report.front(ledger)
        best, first = report.best(ledger), finalists(ledger, 1)[0]
    text = summary(tmp_path / "s")
    assert best is not None
    assert best.number != first.number
    assert f"First finalist: child {first.number}, error {first.objectives['error']:.4f}" in text
    assert f"error as judged {seen[first.number]:.4f}" in text
    rows = [line for line in text.splitlines() if line.startswith("│")]
    for one in front:
        assert any(f" {one.number} " in row and f"{seen[one.number]:.4f}" in row for row in rows)
    recorded(tmp_path / "raw", *kin(60))
    assert "judged" not in summary(tmp_path / "raw")
    assert "First finalist" not in summary(tmp_path / "raw")


def test_a_search_that_has_only_begun_has_a_summary(tmp_path: Path) -> None:
    recorded(tmp_path / "new", {0: kin(1)[0][0]}, {})
    assert "0 of 1 children" in summary(tmp_path / "new")
    assert "Failures: none" in summary(tmp_path / "new")


def test_what_a_failure_says_is_shown_as_it_is(tmp_path: Path) -> None:
    reason = "expected [bold]x[/bold] [/nothing] :warning: [link=file:///x]"
    recorded(tmp_path / "s", {0: kin(1)[0][0]}, {0: Evaluation(0, "error", reason=reason)})
    assert reason in summary(tmp_path / "s")
    console, page = screen()
    with Ledger.read(tmp_path / "s") as ledger:
        console.print(terminal.family(ledger, 0))
    assert reason in page.getvalue()


def test_more_failures_than_are_shown_are_counted(tmp_path: Path) -> None:
    candidates = {number: Candidate(number, genome_of((4, 4))) for number in range(13)}
    recorded(tmp_path / "s", candidates, {number: Evaluation(number, "timeout") for number in candidates})
    text = summary(tmp_path / "s")
    assert text.count("timeout") == 10
    assert "and 3 more" in text


def test_a_long_line_of_ancestors_keeps_within_the_width_and_in_order(tmp_path: Path) -> None:
    genome = genome_of((4, 4))
    edit = edit_of(random.Random(0), genome)
    candidates = {n: Candidate(n, genome, (n - 1,) if n else (), (edit,) if n else ()) for n in range(DEEP)}
    good = {"error": 0.1234, "parameters": 5.0, "macs": 1.0}
    recorded(tmp_path / "s", candidates, {n: Evaluation(n, "ok", good, weights="2" * 64) for n in range(DEEP - 1)})
    console, page = screen(80)
    with Ledger.read(tmp_path / "s") as ledger:
        console.print(terminal.family(ledger, DEEP - 1))
    lines = page.getvalue().splitlines()
    assert [int(line.lstrip("│├└─ ").split()[0]) for line in lines] == list(range(DEEP))
    assert all("error 0.1234" in line for line in lines[:-1])
    assert lines[-1].endswith("in training")


def progress(spent: Spent, *front: Evaluation) -> Progress:
    return Progress(spent, 0.5, front[0] if front else None, front, (7, 8))


def test_progress_tells_what_is_done_spent_and_left() -> None:
    budget = Budget(candidates=10, seconds=100)
    console, _ = screen()
    with terminal.Live(console=console, auto_refresh=False) as live:
        display = terminal.Display(budget, console, live)
        none = display.line(progress(Spent(candidates=2)))
        assert "no result yet" in none
        assert "8 children and 100 s left" in none
        best = Evaluation(3, "ok", {"error": 0.25, "parameters": 9.0, "macs": 1.0})
        line = display.line(progress(Spent(12, 5, 1, 0, 0, 130.0), best))
    assert "5 children done, 1 failed" in line
    assert "best error 0.2500 (child 3)" in line
    assert "0 children and 0 s left" in line  # those in flight are finished, so more than all may be spent


def test_progress_tells_what_is_left_of_each_bound() -> None:
    console, _ = screen()
    with terminal.Live(console=console, auto_refresh=False) as live:
        budget = Budget(examples=5_000, cpu_seconds=60, dollars=1.5, dollars_per_hour=2)
        left = terminal.Display(budget, console, live).line(progress(Spent(9, 9, 0, 1_000, 42.4, 900.0)))
    assert left.endswith("4000 examples and 18 CPU s and 1.00 dollars left")


def test_a_file_gets_one_line_for_each_finished_child() -> None:
    console, page = screen()
    with terminal.Live(console=console, auto_refresh=False, transient=True) as live:
        display = terminal.Display(Budget(), console, live)
        for evaluations in (0, 1, 1, 1, 2):
            display(progress(Spent(3, evaluations)))
    lines = [line for line in page.getvalue().splitlines() if "children done" in line]
    assert [line.split()[0] for line in lines] == ["0", "1", "2"]


def test_a_terminal_sees_bar_front_and_what_is_trained() -> None:
    console, page = screen(tty=True)
    best = Evaluation(3, "ok", {"error": 0.25, "parameters": 9.0, "macs": 1.0})
    with terminal.Live(console=console, auto_refresh=False) as live:
        console.print(terminal.Display(Budget(), console, live).view(progress(Spent(3, 1), best)))
    for word in ("50 % of the budget", "training: 7, 8", "no bound left", "0.2500"):
        assert word in page.getvalue()
