"""Standings: finalists after their full trainings, ranked and shown."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from search import Evaluation, Retraining, Retrainings

JUDGED = "second_validation_error"


@dataclass(frozen=True)
class Standing:
    """One finalist and what became of its trainings.

    Attributes:
        searched: its evaluation in the search.
        retrainings: one for each seed that ended.
    """

    searched: Evaluation
    retrainings: tuple[Retraining, ...]

    @property
    def good(self) -> list[Retraining]:
        """The trainings that succeeded."""
        return [one for one in self.retrainings if one.evaluation.ok]

    @property
    def failures(self) -> list[Retraining]:
        """The trainings that failed."""
        return [one for one in self.retrainings if not one.evaluation.ok]

    def values(self, name: str) -> list[float]:
        """Returns an objective or a cost of each training that succeeded."""
        return [{**one.evaluation.objectives, **one.evaluation.cost}[name] for one in self.good]


def ranked(searched: Iterable[Evaluation], retrainings: Iterable[Retraining]) -> list[Standing]:
    """Returns the standings of finalists, the best one first.

    By the mean error on the second validation part; whoever failed with some seed comes behind all who did not, since
    the mean of the seeds that went well flatters it. Ties go to fewer parameters, then to the earlier candidate.
    """
    by_number: dict[int, list[Retraining]] = {}
    for one in retrainings:
        by_number.setdefault(one.number, []).append(one)
    standings = [Standing(e, tuple(sorted(by_number.get(e.number, ()), key=lambda r: r.seed))) for e in searched]

    def place(standing: Standing) -> tuple[int, float, float, int]:
        errors = standing.values(JUDGED)
        mean = statistics.mean(errors) if errors else math.inf
        failed = len(standing.failures) if errors else len(standing.failures) + 1_000_000
        return failed, mean, standing.searched.objectives["parameters"], standing.searched.number

    return sorted(standings, key=place)


def leader(standings: Sequence[Standing]) -> Retraining | None:
    """Returns the training whose network is the result: the best finalist's with the least second validation error.

    None if all trainings failed.
    """
    good = standings[0].good if standings else []
    return min(good, key=lambda one: (one.evaluation.objectives[JUDGED], one.seed), default=None)


def words(evaluation: Evaluation) -> str:
    """Returns in a few words what became of a training."""
    if evaluation.ok:
        return f"second validation error {evaluation.objectives[JUDGED]:.4f}"
    return f"{evaluation.status}: {evaluation.reason}"


def verdict(record: Retrainings) -> str | None:
    """Returns what was chosen, and how often the test part has been read; None before the first choice."""
    chosen, tests = record.chosen(), record.test_errors()
    if chosen is None:
        return None
    judged = f"Chosen: child {chosen.number}, {chosen.manner} with seed {chosen.seed}: {words(chosen.evaluation)}"
    if (test := tests.get(chosen.evaluation.weights or "")) is None:
        return f"{judged}, test part not read yet"
    count = len({reading.weights for reading in record.readings()})
    often = "read once" if count == 1 else f"read for {count} networks so far, so the least of them is flattered"
    return f"{judged}, test error {test:.4f} ({often})"


def show(standings: Sequence[Standing], tests: Mapping[str, float], screen: Console) -> None:
    """Prints the table, and why trainings failed."""
    screen.print(table(standings, tests))
    for failed in (one for standing in standings for one in standing.failures):
        screen.print(Text(f"child {failed.number}, seed {failed.seed}: {words(failed.evaluation)}", style="red"))


def table(standings: Sequence[Standing], tests: Mapping[str, float]) -> Table:
    """Returns the standings as a table.

    Args:
        standings: the best one first.
        tests: test errors by the digest of the weights; shown for the best finalist only.
    """
    manners = dict.fromkeys(one.manner for standing in standings for one in standing.retrainings)
    page = Table(
        title=f"Finalists, {' or '.join(manners)}: mean ± standard deviation over seeds",
        title_justify="left",
        title_style="bold",
    )
    for column in ("child", "search", "validation", "second validation", "parameters", "MACs", "CPU seconds", "seeds"):
        page.add_column(column, justify="right")
    page.add_column("test", justify="right")
    best = leader(standings)
    for standing in standings:
        counted = standing.searched.objectives
        mine = best is not None and standing is standings[0]
        test = tests.get(best.evaluation.weights or "") if best and mine else None
        failed = f", {len(standing.failures)} failed" if standing.failures else ""
        page.add_row(
            str(standing.searched.number),
            f"{counted['error']:.4f}",
            spread(standing.values("error")),
            spread(standing.values(JUDGED)),
            f"{counted['parameters']:,.0f}",
            f"{counted['macs']:,.0f}",
            spread(standing.values("seconds"), 1),
            f"{len(standing.good)}{failed}",
            "" if test is None else f"{test:.4f}",
        )
    return page


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Returns the mean, with the standard deviation if there are several values."""
    if not values:
        return "none"
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"
