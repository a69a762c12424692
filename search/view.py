"""View: what a ledger says about its search; every question is one query."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from genomes import Genome, Stored
from search import records
from search.errors import SearchMissing, UnreadableLedger
from search.front import non_dominated
from search.protocol import Candidate, Evaluation


@dataclass(frozen=True)
class Spent:
    """What a search has used so far.

    Attributes:
        candidates: asked for.
        evaluations: told, failures and twins included.
        failures: told, and not `ok`.
        examples: shown in training, repeats counted.
        train_seconds: of processor time, of all children together, attempts that were repeated among them, but not what
            was cut off by a crash or by the loss of a node.
        elapsed_seconds: of wall clock while the search ran, over all its sessions.
    """

    candidates: int = 0
    evaluations: int = 0
    failures: int = 0
    examples: float = 0.0
    train_seconds: float = 0.0
    elapsed_seconds: float = 0.0


class Occupancy(NamedTuple):
    """What a slot did, over all sessions of a search.

    Attributes:
        slot: its name.
        attempts: evaluations that ended in it, failures among them.
        seconds: of wall clock that these took.
    """

    slot: str
    attempts: int
    seconds: float


class Running(NamedTuple):
    """An evaluation that has begun and not ended.

    Attributes:
        number: the candidate's.
        seconds: for how long, by the system's clock.
    """

    number: int
    seconds: float


class Step(NamedTuple):
    """One event of the sequence, in the few words that replaying needs, since reading 10,000 genomes takes seconds.

    Attributes:
        kind: whether a candidate was asked for, or its evaluation told.
        number: the candidate's.
        identity: a hash of all that the candidate is (see `records.identity`).
    """

    kind: Literal["ask", "tell"]
    number: int
    identity: str


class View:
    """The questions that a ledger answers.

    Attributes:
        config: the search's configuration, as JSON values.
    """

    config: Mapping[str, Any]
    _db: sqlite3.Connection

    def steps(self) -> list[Step]:
        """Returns the asks and tells in their order, in few words."""
        rows = self._db.execute("SELECT kind, number, identity FROM event JOIN candidate USING (number) ORDER BY seq")
        return [Step(*row) for row in rows]

    def candidates(self, numbers: Iterable[int] | None = None) -> dict[int, Candidate]:
        """Returns all candidates, or those of the given numbers, by number."""
        where, chosen = _among("number", numbers)
        rows = self._db.execute(
            f"SELECT number, genome, edits, fidelity, promotes, twin_key FROM candidate {where} ORDER BY number", chosen
        ).fetchall()
        functions = {genome: records.function(key) for _, genome, *_, key in rows}
        known = self._genomes(functions, None if numbers is None else rows)
        parents = self._parents(numbers)
        return {
            number: Candidate(
                number,
                known[genome],
                parents.get(number, ()),
                records.edits(edits, known),
                records.fidelity(fidelity),
                promotes,
            )
            for number, genome, edits, fidelity, promotes, _ in rows
        }

    def candidate(self, number: int) -> Candidate:
        """Returns one candidate.

        Raises:
            SearchMissing: there is none of this number.
        """
        if found := self.candidates([number]).get(number):
            return found
        last = self._db.execute("SELECT max(number) FROM candidate").fetchone()[0]
        there = "has no candidate yet" if last is None else f"has candidates 0 to {last}"
        raise SearchMissing(f"the search {there}, got {number}")

    def evaluations(self, numbers: Iterable[int] | None = None) -> dict[int, Evaluation]:
        """Returns all evaluations, or those of the given numbers, by number."""
        where, chosen = _among("number", numbers)
        rows = self._db.execute(f"SELECT number, record FROM evaluation {where} ORDER BY number", chosen)
        return {number: records.evaluation(record) for number, record in rows}

    def evaluation(self, number: int) -> Evaluation | None:
        """Returns one evaluation; None while there is none."""
        return self.evaluations([number]).get(number)

    def pending(self) -> list[int]:
        """Returns the numbers that were asked and not told, in the order in which they are to be evaluated.

        One that failed and is tried again comes after what was started before that; to be interrupted costs no place.
        """
        rows = self._db.execute(
            "WITH failed (number, seq) AS ("
            "  SELECT number, max(seq) FROM attempt WHERE outcome <> 'interrupted' GROUP BY number"
            ") SELECT number, (SELECT min(a.seq) FROM attempt AS a LEFT JOIN failed AS f USING (number) "
            "  WHERE a.number = c.number AND a.seq > coalesce(f.seq, 0)) AS place "
            "FROM candidate AS c WHERE number NOT IN (SELECT number FROM evaluation) "
            "ORDER BY place IS NULL, place, number"
        )
        return [number for number, _ in rows]

    def attempts(self, number: int) -> list[str | None]:
        """Returns the outcome of each start of an evaluation: a status, `interrupted`, or None while it runs."""
        rows = self._db.execute("SELECT outcome FROM attempt WHERE number = ? ORDER BY seq", (number,))
        return [outcome for (outcome,) in rows]

    def occupancy(self) -> list[Occupancy]:
        """Returns what each slot did, by name."""
        rows = self._db.execute(
            "SELECT slot, count(*), sum(ended - started) FROM attempt WHERE slot IS NOT NULL "
            "GROUP BY slot ORDER BY slot"
        )
        return [Occupancy(*row) for row in rows]

    def running(self) -> list[Running]:
        """Returns what is being evaluated; after a crash, until the search goes on, what was."""
        rows = self._db.execute("SELECT number, ? - started FROM attempt WHERE outcome IS NULL", (time.time(),))
        return [Running(*row) for row in rows]

    def line(self, number: int) -> list[int]:
        """Returns the numbers of a candidate's line: the founder, then each first child down to the candidate."""
        rows = self._db.execute(
            "WITH RECURSIVE up (n) AS (SELECT ? UNION ALL SELECT parent FROM parent JOIN up ON child = n AND rank = 0) "
            "SELECT n FROM up ORDER BY n",
            (number,),
        )
        return [one for (one,) in rows]

    def twins(self, number: int) -> list[int]:
        """Returns who has this candidate's twin key and had been trained with success before it was asked for.

        What happened later does not count, so that a candidate is answered in the same way after a crash.
        """
        rows = self._db.execute(
            "SELECT other.number FROM candidate JOIN candidate AS other USING (twin_key) "
            "JOIN evaluation AS e ON e.number = other.number AND e.status = 'ok' AND e.twin IS NULL "
            "JOIN event AS told ON told.kind = 'tell' AND told.number = other.number "
            "JOIN event AS asked ON asked.kind = 'ask' AND asked.number = candidate.number "
            "WHERE candidate.number = ? AND told.seq < asked.seq ORDER BY other.number",
            (number,),
        )
        return [twin for (twin,) in rows]

    def front(self, names: Sequence[str]) -> list[Evaluation]:
        """Returns the evaluations that none other dominates in these objectives (minimised).

        Of those that are equal in all of them, only the first is in the front.
        """
        values: dict[int, dict[str, float]] = {}
        for number, name, value in self._db.execute("SELECT number, name, value FROM objective"):
            values.setdefault(number, {})[name] = value
        kept = non_dominated({n: tuple(v[name] for name in names) for n, v in values.items() if set(names) <= set(v)})
        found = self.evaluations(kept)
        return [found[number] for number in kept]

    @contextmanager
    def still(self) -> Iterator[None]:
        """Shows what is read within the block as it was at one moment, whoever writes meanwhile."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")

    def spent(self) -> Spent:
        """Returns what was used so far."""
        asked, elapsed = self._db.execute(
            "SELECT (SELECT count(*) FROM candidate), max((SELECT coalesce(max(elapsed), 0.0) FROM event), "
            "(SELECT coalesce(max(CAST(value AS REAL)), 0.0) FROM meta WHERE key = 'elapsed'))"
        ).fetchone()
        told, failed, examples, seconds = self._db.execute(
            "SELECT count(*), coalesce(sum(status <> 'ok'), 0), "
            "coalesce(sum(json_extract(record, '$.cost.examples')), 0.0), "
            "(SELECT coalesce(sum(seconds), 0.0) FROM attempt) FROM evaluation"
        ).fetchone()
        return Spent(asked, told, failed, examples, seconds, elapsed)

    def unsent(self, limit: int) -> list[int]:
        """Returns the numbers of evaluations that tracking has not shown yet, oldest first."""
        rows = self._db.execute("SELECT number FROM outbox WHERE external_id IS NULL ORDER BY number LIMIT ?", (limit,))
        return [number for (number,) in rows]

    def external_ids(self, numbers: Iterable[int]) -> dict[int, str]:
        """Returns tracking's ids of those of the given evaluations that it shows."""
        where, chosen = _among("number", numbers)
        rows = self._db.execute(f"SELECT number, external_id FROM outbox {where}", chosen)
        return {number: external for number, external in rows if external}

    def _genomes(
        self, functions: Mapping[str, str], rows: Iterable[tuple[int, str, str, str, int | None, str]] | None
    ) -> dict[str, Genome]:
        """Returns all genomes, or those that rows of candidates and their edits name, by digest.

        Args:
            functions: fingerprints by digest, as far as they are known.
            rows: of candidates; None for all genomes.
        """
        names: set[str] | None = None
        if rows is not None:
            names = {genome for _, genome, *_ in rows}
            names |= {edit["genome"] for _, _, edits, *_ in rows for edit in json.loads(edits)}
        where, chosen = _among("digest", names)
        known = dict[str, Genome]()
        for digest, text in self._db.execute(f"SELECT digest, json FROM genome {where}", chosen):
            known[digest] = Stored(text.encode(), functions.get(digest, ""))
            if known[digest].digest != digest:
                raise UnreadableLedger(f"genome {digest} in the ledger is damaged: restore a copy of the search")
        return known

    def _parents(self, numbers: Iterable[int] | None) -> dict[int, tuple[int, ...]]:
        where, chosen = _among("child", numbers)
        parents: dict[int, tuple[int, ...]] = {}
        for child, parent in self._db.execute(f"SELECT child, parent FROM parent {where} ORDER BY child, rank", chosen):
            parents[child] = (*parents.get(child, ()), parent)
        return parents


def _among(column: str, wanted: Iterable[int] | Iterable[str] | None) -> tuple[str, list[str]]:
    if wanted is None:
        return "", []
    return f"WHERE {column} IN (SELECT value FROM json_each(?))", [json.dumps(list(wanted))]
