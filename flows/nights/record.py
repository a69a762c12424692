"""Nights: the record of a schedule's nights, one small JSON file each, beside the ledger of the search they began with.

A night is written when it begins and again when it ends, whole each time. One that has no end while nobody holds the
lock was killed; whoever opens the record next closes it with what the ledger says. All else that a report tells is in
the ledger, since evaluations never change.
"""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from flows import report
from flows.home import BadInput, Home
from search import Ledger, Spent
from search.files import make, write
from search.lock import locked

NIGHTS = "nights"  # of a search, in its directory
Outcome = Literal["running", "went on", "spent", "exhausted", "failed", "stopped", "crashed"]


@dataclass(frozen=True)
class Tally:
    """Where a search stood.

    Attributes:
        spent: in sum, over all its sessions.
        front: the numbers of the candidates on it, smallest network first.
    """

    spent: Spent = field(default_factory=Spent)
    front: tuple[int, ...] = ()


@dataclass(frozen=True)
class Night:
    """One night.

    Attributes:
        number: from 1.
        search: the name of the search that went on.
        begun: seconds since 1970.
        before: where the search stood.
        ended: seconds since 1970; None while it runs; of one that crashed, as far as the ledger knows.
        after: where the search stood then; None while it runs.
        outcome: `went on` if the night's budget was spent, `spent` if that of the whole search was, `exhausted` if
            there was nothing left to propose; `stopped` from outside; `crashed` if it was killed.
        note: why it failed or stopped, in one line.
    """

    number: int
    search: str
    begun: float
    before: Tally
    ended: float | None = None
    after: Tally | None = None
    outcome: Outcome = "running"
    note: str = ""

    @property
    def last(self) -> Tally:
        """Where the search stood last, as far as this record knows."""
        return self.after or self.before


class Nights:
    """The record, open for writing by one process; `open` is the way in."""

    def __init__(self, home: Home, name: str) -> None:
        """Takes the home, and the name of the search that the schedule began with."""
        self.home, self.name, self.directory = home, name, home.search(name) / NIGHTS

    @classmethod
    @contextmanager
    def open(cls, home: Home, name: str) -> Iterator["Nights"]:
        """Opens the record, makes it if it is not there, and closes a night that was killed.

        Raises:
            SearchLocked: another process has a night of this schedule.
            UnreadableLedger: the directory cannot be written.
            BadInput: a file in it is damaged.
        """
        nights = cls(home, name)
        make(nights.directory)
        with locked(nights.directory, f"the night of search {name}"):
            nights._mend()
            yield nights

    def begin(self, search: str) -> Night:
        """Records that a night begins for a search, and returns it."""
        known = recorded(self.home, self.name)
        number = max((night.number for night in known), default=0) + 1  # a file can be lost
        night = Night(number, search, time.time(), tally(self.home, search))
        self._write(night)
        return night

    def end(self, night: Night, outcome: Outcome, note: str = "") -> Night:
        """Records that a night ended, and returns it as it is now.

        Args:
            night: as it began.
            outcome: what became of it.
            note: in one line.
        """
        done = replace(night, ended=time.time(), after=tally(self.home, night.search), outcome=outcome, note=note)
        self._write(done)
        return done

    def _mend(self) -> None:
        for night in recorded(self.home, self.name):
            if night.outcome == "running":
                after = tally(self.home, night.search)
                lasted = after.spent.elapsed_seconds - night.before.spent.elapsed_seconds
                self._write(replace(night, ended=night.begun + lasted, after=after, outcome="crashed"))

    def _write(self, night: Night) -> None:
        write(path(self.directory, night.number), json.dumps(asdict(night), indent=1).encode())


def recorded(home: Home, name: str) -> list[Night]:
    """Returns the nights of a schedule, the first one first; none if there was none.

    The directory may have been renamed since, or be a copy: its nights are of the search that has its name now.

    Raises:
        BadInput: a file is damaged.
    """
    files = (home.search(name) / NIGHTS).glob("night-*.json")
    nights = sorted(map(_read, files), key=lambda night: night.number)
    began = nights[0].search if nights else name
    if re.fullmatch(rf"{re.escape(name)}(-\d+)?", began):  # itself or a successor
        return nights
    return [
        replace(night, search=name + night.search.removeprefix(began)) if night.search.startswith(began) else night
        for night in nights
    ]


def path(directory: Path, number: int, suffix: str = "json") -> Path:
    """Returns the file of a night, or with another suffix one of its report."""
    return directory / f"night-{number:03}.{suffix}"


def tally(home: Home, name: str) -> Tally:
    """Returns where a search stands; all zero if it has not begun."""
    if name not in home.names():
        return Tally()
    with Ledger.read(home.search(name)) as ledger, ledger.still():
        return Tally(ledger.spent(), tuple(evaluation.number for evaluation in report.front(ledger)))


def _read(file: Path) -> Night:
    try:
        document: dict[str, Any] = json.loads(file.read_text())
        before, after = _tally(document["before"]), document["after"] and _tally(document["after"])
        night = Night(**{**document, "before": before, "after": after})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} must be the record of a night as it was written, restore a copy: {error}") from None
    if night.outcome not in get_args(Outcome):
        raise BadInput(f"{file}: outcome must be one of {', '.join(get_args(Outcome))}, got {night.outcome!r}")
    return night


def _tally(document: dict[str, Any]) -> Tally:
    return Tally(Spent(**document["spent"]), tuple(document["front"]))
