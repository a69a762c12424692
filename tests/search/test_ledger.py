"""The ledger records everything once, answers quickly, and refuses what it cannot read or write."""

from __future__ import annotations

import math
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morphism import Certificate
from search import (
    Budget,
    Candidate,
    ConfigMismatch,
    Evaluation,
    Fidelity,
    Ledger,
    NewerSchema,
    SearchLocked,
    SearchMissing,
    Spent,
    UnreadableLedger,
    drive,
    records,
)
from tests.doubles import ToyEvaluator, in_turn
from tests.search.toys import CONFIG, Climber, network, state, widened

CERTIFICATE = Certificate("toy.width", "a", "b", "c", ("eval",), {"eval": 1e-15}, ("eval",), 7, True)
CHILD = Candidate(1, network(3), (0,), (widened(2), widened(3)), Fidelity(50))
OUTCOME = Evaluation(
    1,
    "ok",
    {"error": 0.5, "parameters": 12},
    {"seconds": 2.0, "examples": 50.0},
    ({"examples": 50.0, "loss": 0.1},),
    "ab" * 32,
    certificates=(CERTIFICATE,),
    initial="cd" * 32,
    slot="cuda:1/2",
    gradients={"widen.split net.conv": 0.5},
    machine={"threads": "1"},
    features={"depth": 1.5},
)


def ok(number: int, **objectives: float) -> Evaluation:
    return Evaluation(number, "ok", objectives)


def searched(directory: Path, count: int = 12) -> Path:
    with Ledger.create(directory, CONFIG) as ledger:
        drive(Climber(3), in_turn(ToyEvaluator(failures={5: "timeout"})), ledger, Budget(candidates=count))
    return directory


def founders(ledger: Ledger, count: int) -> None:
    for number in range(count):
        ledger.asked(Candidate(number, network(1)), "key", 0.0)


# --- records ---------------------------------------------------------------------------------------------------------


def test_what_was_recorded_is_read_back_equal(place: Path) -> None:
    founder = Candidate(0, network(1))
    with Ledger.create(place / "a", CONFIG) as ledger:
        ledger.asked(founder, "k", 1.0)
        ledger.asked(CHILD, "l", 2.0)
        ledger.attempted(1)
        ledger.told(OUTCOME, 3.0)
    with Ledger.open(place / "a") as ledger:
        assert ledger.config == CONFIG
        assert ledger.candidates() == {0: founder, 1: CHILD}
        assert ledger.candidate(1) == CHILD
        assert [edit.digest for edit in ledger.candidate(1).edits] == [edit.digest for edit in CHILD.edits]
        assert ledger.evaluations() == {1: OUTCOME}
        assert ledger.evaluation(0) is None
        one, two = map(records.identity, (founder, CHILD))
        assert [*map(tuple, ledger.steps())] == [("ask", 0, one), ("ask", 1, two), ("tell", 1, two)]
        assert ledger.pending() == [0]
        assert ledger.spent() == Spent(2, 1, 0, 50.0, 2.0, 3.0)


def test_a_promotion_is_read_back_as_one_and_is_no_other_candidate(place: Path) -> None:
    promotion = Candidate(1, network(1), (0,), (), Fidelity(90), promotes=0)
    control = replace(promotion, promotes=None)
    with Ledger.create(place / "a", CONFIG) as ledger:
        founders(ledger, 1)
        ledger.asked(promotion, "k", 0.0)
        assert ledger.candidate(1) == promotion
        assert ledger.candidate(0).promotes is None
        assert not promotion.control
        assert control.control
        assert records.identity(promotion) != records.identity(control)
        with pytest.raises(sqlite3.IntegrityError):
            ledger.asked(Candidate(2, network(1), promotes=2), "k", 0.0)  # only what was there before


def test_a_candidate_is_read_back_equal_without_a_ledger() -> None:
    promotion = Candidate(5, network(1), (3, 0), (), Fidelity(90), promotes=3)
    for candidate in (CHILD, promotion, Candidate(0, network(1))):
        again = records.candidate(records.candidate_json(candidate))
        assert again == candidate
        assert records.identity(again) == records.identity(candidate)
        assert [edit.tensors for edit in again.edits] == [edit.tensors for edit in candidate.edits]


def test_a_genome_is_stored_once_however_many_edits_and_candidates_have_it(place: Path) -> None:
    with Ledger.create(place / "a", CONFIG) as ledger:
        ledger.asked(Candidate(0, network(1)), "k", 0.0)
        ledger.asked(CHILD, "k", 0.0)
        ledger.asked(replace(CHILD, number=2), "k", 0.0)
    assert len([row for row in state(place / "a") if "modules" in str(row[1])]) == 3


def test_no_number_is_recorded_twice(place: Path) -> None:
    with Ledger.create(place / "a", CONFIG) as ledger:
        founders(ledger, 1)
        ledger.told(ok(0, error=0.1), 0.0)
        before = state(place / "a")
        with pytest.raises(sqlite3.IntegrityError):
            ledger.asked(Candidate(0, network(2)), "k", 0.0)
        with pytest.raises(sqlite3.IntegrityError):
            ledger.told(ok(0, error=0.2), 0.0)
        assert state(place / "a") == before


def test_what_was_never_asked_cannot_be_told(place: Path) -> None:
    with Ledger.create(place / "a", CONFIG) as ledger, pytest.raises(sqlite3.IntegrityError):
        ledger.told(ok(0, error=0.1), 0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_objective_that_is_not_finite_is_recorded(value: float, place: Path) -> None:
    with Ledger.create(place / "a", CONFIG) as ledger:
        founders(ledger, 1)
        with pytest.raises(ValueError, match="JSON"):
            ledger.told(ok(0, error=value), 0.0)
        assert ledger.pending() == [0]
        ledger.told(ok(0, error=0.5), 0.0)
        with pytest.raises(sqlite3.IntegrityError, match=r"CHECK|NOT NULL"):
            ledger._db.execute("INSERT INTO objective VALUES (0, 'macs', ?)", (value,))


# --- questions -------------------------------------------------------------------------------------------------------


def test_a_line_follows_first_parents(place: Path) -> None:
    family = [(), (), (0,), (2, 1), (3,), (0,)]
    with Ledger.create(place / "a", CONFIG) as ledger:
        for number, parents in enumerate(family):
            ledger.asked(Candidate(number, network(1), parents), "k", 0.0)
        assert (ledger.line(4), ledger.line(1)) == ([0, 2, 3, 4], [1])
        assert [c.parents for c in ledger.candidates([3, 5]).values()] == [(2, 1), (0,)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_front_is_what_no_other_dominates(points: list[tuple[int, int, int]]) -> None:
    with memory() as ledger:
        founders(ledger, len(points) + 1)
        ledger.told(Evaluation(len(points), "killed"), 0.0)
        for number, (a, b, c) in enumerate(points):
            ledger.told(ok(number, a=a, b=b, c=c), 0.0)
        for names, dimensions in ((("a", "b"), (0, 1)), (("a", "b", "c"), (0, 1, 2)), (("c",), (2,))):
            chosen = [tuple(point[d] for d in dimensions) for point in points]
            best = {p for p in chosen if not any(q != p and all(map(le, zip(q, p, strict=True))) for q in chosen)}
            found = [tuple(int(e.objectives[name]) for name in names) for e in ledger.front(names)]
            assert len(found) == len(best)
            assert set(found) == best
        assert ledger.front(("a", "nothing")) == []


def le(pair: tuple[int, int]) -> bool:
    return pair[0] <= pair[1]


@contextmanager
def memory() -> Iterator[Ledger]:
    with tempfile.TemporaryDirectory() as directory, Ledger.create(Path(directory) / "a", CONFIG) as ledger:
        ledger._db.execute("PRAGMA synchronous = OFF")
        yield ledger


def test_twins_are_those_trained_with_success_before_the_asking(place: Path) -> None:
    with Ledger.create(place / "a", CONFIG) as ledger:
        founders(ledger, 4)
        ledger.told(ok(1, error=0.1), 0.0)
        ledger.told(Evaluation(2, "timeout"), 0.0)
        ledger.told(replace(ok(3, error=0.1), twin=1), 0.0)
        ledger.asked(Candidate(4, network(1)), "key", 0.0)
        ledger.asked(Candidate(5, network(1)), "another key", 0.0)
        ledger.told(ok(0, error=0.1), 0.0)
        assert [ledger.twins(number) for number in range(6)] == [[], [], [], [], [1], []]


def test_a_missing_candidate_is_named_with_those_that_are_there(place: Path) -> None:
    with Ledger.create(place / "a", CONFIG) as ledger:
        with pytest.raises(SearchMissing, match="has no candidate yet, got 0"):
            ledger.candidate(0)
        founders(ledger, 3)
        with pytest.raises(SearchMissing, match="has candidates 0 to 2, got 7"):
            ledger.candidate(7)


def test_a_genome_whose_bytes_are_not_what_its_digest_says_is_refused(place: Path) -> None:
    with Ledger.create(place / "a", CONFIG) as ledger:
        ledger.asked(Candidate(0, network(2)), "key", 0.0)
        ledger._db.execute("UPDATE genome SET json = replace(json, 'conv', 'cony')")
        with pytest.raises(UnreadableLedger, match=f"genome {network(2).digest} in the ledger is damaged"):
            ledger.candidate(0)


def test_thousands_of_candidates_are_read_and_walked_quickly(place: Path) -> None:
    count = 3000
    with Ledger.create(place / "a", CONFIG) as ledger:
        ledger._db.execute("PRAGMA synchronous = OFF")
        for number in range(count):
            parents = tuple(sorted({max(0, number - 1), number // 2} - {number}, reverse=True))
            width = 1 + number % 50
            edits = (widened(width),) if parents else ()
            ledger.asked(Candidate(number, network(width), parents, edits), str(number), 0.0)
            ledger.told(replace(OUTCOME, number=number), 0.0)
    begun = time.perf_counter()
    with Ledger.open(place / "a") as ledger:
        assert len(ledger.steps()) == 2 * count
        assert len(ledger.evaluations()) == count
        replayed = time.perf_counter() - begun
        begun = time.perf_counter()
        assert len(ledger.line(count - 1)) == count
        walked = time.perf_counter() - begun
    # Ten times what an idle core takes: it is the growth with the square of the count that would fail here.
    assert replayed < 3
    assert walked < 0.3


# --- tracking --------------------------------------------------------------------------------------------------------


def test_another_thread_drains_what_was_told_while_the_search_runs(place: Path) -> None:
    sent: list[int] = []
    done = threading.Event()

    def drain() -> None:
        with Ledger.read(place / "a") as view:
            while not done.is_set() or view.unsent(1):
                for number in view.unsent(3):
                    assert view.evaluations([number])
                    view.mark_sent(number, f"run-{number}")
                    sent.append(number)

    with Ledger.create(place / "a", CONFIG) as ledger:
        thread = threading.Thread(target=drain)
        thread.start()
        drive(Climber(3), in_turn(ToyEvaluator()), ledger, Budget(candidates=40))
        done.set()
        thread.join()
        assert sorted(sent) == list(range(40))
        assert ledger.external_ids([3, 39, 77]) == {3: "run-3", 39: "run-39"}
        assert ledger.unsent(5) == []


# --- opening ---------------------------------------------------------------------------------------------------------


def test_the_same_configuration_goes_on_and_another_is_refused(place: Path) -> None:
    Ledger.create(place / "a", CONFIG).close()
    Ledger.create(place / "a", dict(reversed(CONFIG.items()))).close()
    with pytest.raises(ConfigMismatch, match=r"search a exists .*seed is 3, not 4.*choose another name"):
        Ledger.create(place / "a", {**CONFIG, "seed": 4})
    with Ledger.open(place / "a") as ledger:  # the lock was given back
        assert ledger.config == CONFIG


def test_a_free_key_may_change_and_its_new_value_is_kept(place: Path) -> None:
    Ledger.create(place / "a", CONFIG).close()
    Ledger.create(place / "a", {**CONFIG, "budget": {"candidates": 99}}, free=("budget",)).close()
    with Ledger.read(place / "a") as ledger:
        assert ledger.config["budget"] == {"candidates": 99}


@pytest.mark.parametrize("way", [Ledger.open, Ledger.read])
def test_a_search_that_is_not_there_is_named_with_those_that_are(way: type[Ledger], place: Path) -> None:
    Ledger.create(place / "one", CONFIG).close()
    Ledger.create(place / "two", CONFIG).close()
    with pytest.raises(SearchMissing, match=r"no search three in .*there are: one, two"):
        way(place / "three")
    assert not (place / "three").exists()


@pytest.mark.parametrize("content", [b"", b"not a database" * 300, b"SQLite format 3\0" + bytes(4080)])
def test_a_file_that_is_no_ledger_is_refused_and_left_alone(content: bytes, place: Path) -> None:
    file = place / "a" / "ledger.sqlite"
    file.parent.mkdir()
    file.write_bytes(content)
    for _ in range(2):  # the second time proves that the lock was given back
        with pytest.raises(UnreadableLedger, match="must be a whole ledger"):
            Ledger.create(place / "a", CONFIG)
        with pytest.raises(UnreadableLedger, match="must be a whole ledger"):
            Ledger.read(place / "a")
    assert file.read_bytes() == content


def test_a_damaged_ledger_is_refused(place: Path) -> None:
    file = searched(place / "a", 30) / "ledger.sqlite"
    content = file.read_bytes()
    for page in range(4096, len(content), 4096):
        file.write_bytes(content[:page] + b"\xff" * 64 + content[page + 64 :])
        with pytest.raises(UnreadableLedger, match="restore a copy"):
            Ledger.open(place / "a")


def test_a_ledger_of_another_version_is_refused(place: Path) -> None:
    searched(place / "a")
    with sqlite3.connect(place / "a" / "ledger.sqlite") as db:
        db.execute("UPDATE meta SET value = '9' WHERE key = 'schema'")
    db.close()
    for way in (Ledger.open, Ledger.read):
        with pytest.raises(NewerSchema, match=r"schema 4 .* has 9: use the version that wrote it"):
            way(place / "a")


def test_a_place_that_cannot_be_written_is_refused(place: Path) -> None:
    (place / "file").touch()
    for directory in (place / "file", place / "file" / "below"):
        with pytest.raises(UnreadableLedger, match="must be a"):
            Ledger.create(directory, CONFIG)
    (place / "a" / "lock").mkdir(parents=True)
    with pytest.raises(UnreadableLedger, match="writable directory"):
        Ledger.create(place / "a", CONFIG)


def test_a_log_left_by_a_removed_ledger_is_not_replayed_into_a_new_one(place: Path) -> None:
    with Ledger.create(place / "old", CONFIG) as ledger:
        drive(Climber(3), in_turn(ToyEvaluator()), ledger, Budget(candidates=12))
        log = (place / "old" / "ledger.sqlite-wal").read_bytes()
    assert len(log) > 4096
    (place / "new").mkdir()
    (place / "new" / "ledger.sqlite-wal").write_bytes(log)
    with Ledger.create(place / "new", CONFIG) as ledger:
        assert ledger.candidates() == {}


# --- one writer ------------------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_by_name_and_readers_are_not(place: Path) -> None:
    with Ledger.create(place / "a", CONFIG):
        for way in (Ledger.open, lambda directory: Ledger.create(directory, CONFIG)):
            with pytest.raises(
                SearchLocked, match=rf"search a .*run by process {os.getpid()} on .*wait for it or stop it"
            ):
                way(place / "a")
        Ledger.read(place / "a").close()
    Ledger.open(place / "a").close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_of_many_processes_that_create_one_search_one_wins(place: Path) -> None:
    children = []
    for _ in range(6):
        if not (child := os.fork()):
            os._exit(_outcome_of_creating(place / "a"))
        children.append(child)
    outcomes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(outcomes) == [0] + [1] * 5


def _outcome_of_creating(directory: Path) -> int:
    try:
        with Ledger.create(directory, CONFIG):
            time.sleep(1)
    except SearchLocked:
        return 1
    except BaseException:
        return 2
    return 0


def test_a_writer_whose_lock_was_removed_cannot_write_over_its_successor(place: Path) -> None:
    with Ledger.create(place / "a", CONFIG) as zombie:
        founders(zombie, 1)
        (place / "a" / "lock").unlink()
        with Ledger.open(place / "a") as successor:
            with pytest.raises(SearchLocked, match="taken over"):
                zombie.told(ok(0, error=0.5), 0.0)
            successor.told(ok(0, error=0.25), 0.0)
            assert successor.evaluations()[0].objectives["error"] == 0.25
