"""Morning: the report of one night as Markdown and a picture, from the record of nights and the ledger."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows import report
from flows.assembly import RETRAIN
from flows.champions.champion import holding
from flows.home import BadInput, Home
from flows.nights import volume
from flows.nights.heirs import kept
from flows.nights.record import NIGHTS, Night, path, recorded
from flows.nights.succession import first
from flows.standings import verdict
from search import Candidate, Evaluation, Ledger, Retrainings, Spent
from search.files import write

WORDS = {
    "went on": "the night's budget was spent",
    "spent": "the budget of the whole search is spent",
    "exhausted": "the strategy has nothing left to propose",
    "failed": "it failed",
    "stopped": "it was stopped",
    "crashed": "it was killed",
}


@dataclass(frozen=True)
class Morning:
    """A report.

    Attributes:
        night: that it is of, the last one that ended.
        headline: what happened, in one sentence.
        text: Markdown, which names the picture by its file name.
        file: with the text.
        picture: of the front, PNG, beside it.
    """

    night: Night
    headline: str
    text: str
    file: Path
    picture: Path


@dataclass(frozen=True)
class Family:
    """What one search knew at the end of a night.

    Attributes:
        name: of the search.
        candidates: all of it, by number.
        evaluations: those that were told by then, by number.
        tonight: those of them that were told in the night, in that order.
        front: then, smallest network first.
        axes: the objectives that the front is of.
    """

    name: str
    candidates: Mapping[int, Candidate]
    evaluations: Mapping[int, Evaluation]
    tonight: Sequence[Evaluation]
    front: Sequence[Evaluation]
    axes: Sequence[str]

    @property
    def across(self) -> str:
        """The objective that the front's picture has beside error."""
        return report.beside_error(self.axes)

    @property
    def best(self) -> Evaluation | None:
        """The evaluation with the least error; ties go to fewer parameters, then to the earlier one."""
        good = [one for one in self.evaluations.values() if one.ok]
        return min(good, key=lambda e: (e.objectives["error"], e.objectives["parameters"], e.number), default=None)


def family(home: Home, night: Night) -> Family:
    """Returns what the search of a night knew at its end; what happened since is left out."""
    with Ledger.read(home.search(night.search)) as ledger:
        order = [step.number for step in ledger.steps() if step.kind == "tell"][: night.last.spent.evaluations]
        known = ledger.evaluations(order)
        tonight = [known[number] for number in order[night.before.spent.evaluations :]]
        front = [known[number] for number in night.last.front]
        return Family(night.search, ledger.candidates(), known, tonight, front, report.axes(ledger))


def latest(home: Home, name: str) -> Morning:
    """Writes the report of the last night that ended, from its record.

    Args:
        home: the directory that holds searches.
        name: of a search, or of one of its successors.

    Raises:
        SearchMissing: there is no such search.
        BadInput: there was no night that ended, or a record is damaged.
    """
    name = first(home, name)
    ended = [night for night in recorded(home, name) if night.after]
    while ended and ended[-1].search not in home.names():
        ended.pop()  # it failed before there was a ledger: there is nothing to tell
    if not ended:
        raise BadInput(
            f"search {name} must have had a night that ended, it had none: reports are of what the flow nightly does"
        )
    return morning(home, name, ended)


def morning(home: Home, name: str, nights: Sequence[Night]) -> Morning:
    """Writes the report of the last of some nights, all of which ended, beside their record.

    Args:
        home: the directory that holds searches.
        name: of the search that the schedule began with.
        nights: the first one first.
    """
    night, earlier = nights[-1], nights[:-1]
    now, directory = family(home, night), home.search(name) / NIGHTS
    old = _before(home, night, earlier, now)
    file, picture = (path(directory, night.number, suffix) for suffix in ("md", "png"))
    partial = picture.with_suffix(".partial.png")
    report.draw_front(now.evaluations, now.front, partial, now.axes)
    partial.rename(picture)
    headline = f"Night {night.number} of {name}: {_sentence(now, night)}"
    parts = [
        [f"# {headline}", "", *_dates(night), *_crashes(earlier)],
        ["## What changed", "", *_changes(now, old, earlier)],
        ["## Front", "", f"![Front: error against {now.across}]({picture.name})", "", *_front(now, old)],
        ["## Cost", "", *_costs(home, nights)],
        ["## Failures", "", *_failures(now)],
        ["## Best lineage", "", *_lineage(home, now)],
        ["## Champion", "", _champion(home, night)],
    ]
    text = "\n".join(line for part in parts for line in (*part, ""))
    write(file, text.encode())
    return Morning(night, headline, text, file, picture)


@dataclass(frozen=True)
class Old:
    """What was there before a night: of this search, or for a successor's first night of its predecessor.

    Attributes:
        name: of that search.
        front: smallest network first.
        best: the least error; None if nothing was trained before.
    """

    name: str
    front: Sequence[Evaluation]
    best: float | None

    def has(self, search: str, one: Evaluation) -> bool:
        """Says whether a member of a search's front was on this front."""
        return search == self.name and any(one.number == other.number for other in self.front)


def _before(home: Home, night: Night, earlier: Sequence[Night], now: Family) -> Old:
    whole = [one for one in earlier if one.last.spent.evaluations]
    if whole and whole[-1].search != night.search:
        then = family(home, whole[-1])
        return Old(then.name, then.front, then.best.objectives["error"] if then.best else None)
    tonight = {one.number for one in now.tonight}
    errors = [e.objectives["error"] for e in now.evaluations.values() if e.ok and e.number not in tonight]
    return Old(now.name, [now.evaluations[number] for number in night.before.front], min(errors, default=None))


def _sentence(now: Family, night: Night) -> str:
    failed = sum(not one.ok for one in now.tonight)
    best = f", best error {now.best.objectives['error']:.4f}" if now.best else ", no success yet"
    failures = f", {failed} of them failed" if failed else ""
    return f"{len(now.tonight)} children{failures}{best}; {WORDS[night.outcome]}"


def _dates(night: Night) -> Iterator[str]:
    begun, ended = (datetime.fromtimestamp(t, UTC) for t in (night.begun, night.ended or night.begun))
    yield f"Search {night.search}, from {begun:%Y-%m-%d %H:%M} to {ended:%Y-%m-%d %H:%M} UTC."
    if night.note:
        yield f"\n{night.note}"


def _crashes(earlier: Sequence[Night]) -> Iterator[str]:
    """Yields which of the nights since the last whole one did not end by themselves."""
    for night in reversed(earlier):
        if night.outcome not in ("crashed", "failed", "stopped"):
            return
        done = night.last.spent.evaluations - night.before.spent.evaluations
        why = f" ({night.note})" if night.note else ""
        said = f"**Night {night.number} before it: {WORDS[night.outcome]}{why}**"
        yield f"\n{said}; its {done} children are in the ledger."


def _changes(now: Family, old: Old, earlier: Sequence[Night]) -> Iterator[str]:
    if not earlier:
        yield "This is the first report: there is no night before to compare with.\n"
    elif old.name != now.name:
        yield f"The first night of {now.name}, which succeeds {old.name} and is compared with it.\n"
    new = [one for one in now.front if not old.has(now.name, one)]
    gone = [one.number for one in old.front if old.name == now.name and one not in now.front]
    before, after = _volumes(now, old)
    best = now.best.objectives["error"] if now.best else None
    yield from _table(
        ("", "before", "after"),
        [
            ("best error", *map(_error, (old.best, best))),
            ("members of the front", len(old.front), f"{len(now.front)}, {len(new)} of them new"),
            (f"hypervolume (error, {_words(now.across)})", f"{before:.2%}", f"{after:.2%}"),
        ],
    )
    yield (
        "\nHypervolume is the share that the front dominates of error 0 to 1 and, on a logarithmic scale, of "
        f"{_words(now.across)} from the least to the most of all networks so far; both columns are of the same box."
    )
    yield f"\nNew on the front: {_numbers(one.number for one in new)}. No longer on it: {_numbers(gone)}."


def _volumes(now: Family, old: Old) -> tuple[float, float]:
    """Returns the share of one and the same box that the front dominated before and dominates now."""
    every = [*now.evaluations.values(), *old.front]
    sizes = [one.objectives[now.across] for one in every if one.ok and now.across in one.objectives]
    if not sizes or min(sizes) <= 0:
        return 0.0, 0.0
    width = (min(sizes), max(sizes))
    points = ([(e.objectives[now.across], e.objectives["error"]) for e in front] for front in (old.front, now.front))
    before, after = (volume.share(some, width) for some in points)
    return before, after


def _front(now: Family, old: Old) -> Iterator[str]:
    names = list(dict.fromkeys(["error", "parameters", "macs", *now.axes]))
    rows = []
    for one in now.front:
        mark = "" if old.has(now.name, one) else "new"
        rows.append(
            (one.number, *(_number(name, one) for name in names), report.descent(now.candidates[one.number]), mark)
        )
    yield from _table(("child", *map(_words, names), "whose child", ""), rows)


def _costs(home: Home, nights: Sequence[Night]) -> Iterator[str]:
    night = nights[-1]
    every = [_difference(one.before.spent, one.last.spent) for one in nights]
    total = Spent(*(sum(values) for values in zip(*(_values(spent) for spent in every), strict=True)))
    with Ledger.read(home.search(night.search)) as ledger:
        price = float(ledger.config["budget"].get("dollars_per_hour") or 0)
    columns = (every[-1], night.last.spent, total)
    rows: list[tuple[Any, ...]] = [
        ("children", *(spent.evaluations for spent in columns)),
        ("failures", *(spent.failures for spent in columns)),
        ("training examples", *(f"{spent.examples:,.0f}" for spent in columns)),
        ("CPU seconds of training", *(f"{spent.train_seconds:,.1f}" for spent in columns)),
        ("seconds of wall clock", *(f"{spent.elapsed_seconds:,.1f}" for spent in columns)),
    ]
    if price:
        rows.append(("dollars", *(f"{spent.elapsed_seconds * price / 3600:,.2f}" for spent in columns)))
    yield from _table(("", "this night", f"search {night.search} in sum", "all nights"), rows)


def _values(spent: Spent) -> tuple[Any, ...]:
    return tuple(vars(spent).values())


def _difference(before: Spent, after: Spent) -> Spent:
    return Spent(*(b - a for a, b in zip(_values(before), _values(after), strict=True)))


def _failures(now: Family) -> Iterator[str]:
    failures = [one for one in now.tonight if not one.ok]
    if not failures:
        yield "None this night."
    for kind, count in Counter(one.status for one in failures).most_common():
        example = next(one for one in failures if one.status == kind)
        yield f"- {kind}: {count}, such as child {example.number}: {example.reason[:300]}"


def _lineage(home: Home, now: Family) -> Iterator[str]:
    """Yields the way from the founder to the best network, with the error at each step."""
    if now.best is None:
        yield "No candidate was trained with success yet."
        return
    chain = [now.best.number]
    while parents := now.candidates[chain[-1]].parents:
        chain.append(parents[0])
    handed = kept(home.search(now.name))
    rows = []
    for number in reversed(chain):
        candidate, one = now.candidates[number], now.evaluations[number]
        heir = handed and not candidate.parents and handed.heirs.get(candidate.genome.digest)
        said = f"founder with the weights of the predecessor's {heir.number}" if heir else report.edits(candidate)
        rows.append((number, said, _number("error", one), _number("parameters", one)))
    yield from _table(("child", "edits", "error", "parameters"), rows)


def _champion(home: Home, night: Night) -> str:
    with ExitStack() as stack:
        record = stack.enter_context(Retrainings.read(home.search(night.search) / RETRAIN))
        told = [words for words in (verdict(record), holding(record)) if words]
    return (
        "\n\n".join(told)
        or "No finalist was trained in full yet: `morphogen retrain`, or `retrain` of the nightly flow."
    )


def _table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |"


def _words(name: str) -> str:
    return {"macs": "MACs"}.get(name, name.replace("_", " "))


def _number(name: str, one: Evaluation) -> str:
    value = one.objectives.get(name)
    if value is None:
        return ""
    return f"{value:,.0f}" if name in ("parameters", "macs", "activation_bytes") else f"{value:.4g}"


def _error(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def _numbers(values: Iterable[int]) -> str:
    return ", ".join(map(str, values)) or "none"
