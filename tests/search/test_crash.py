"""A search killed anywhere and resumed ends as if nothing had happened, and trains nothing finished again."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from search import Budget, Candidate, Evaluation, Ledger, Status, drive
from tests.doubles import ToyEvaluator
from tests.search.failpoints import Crash, Failpoints, run, told
from tests.search.toys import CONFIG, Climber, Generations, state

FAILURES: dict[int, Status] = {5: "non_finite", 7: "killed", 8: "timeout", 9: "build_error"}
STRATEGIES = {"never waits": Climber, "waits for generations": Generations}


def evaluator() -> ToyEvaluator:
    return ToyEvaluator(failures=FAILURES)


def undisturbed(place: Path, strategy: type[Climber]) -> tuple[int, list[tuple[object, ...]]]:
    points = Failpoints()
    run(place / "undisturbed", points, evaluator(), strategy(3))
    return points.count, state(place / "undisturbed")


def assert_resumes(directory: Path, strategy: type[Climber], expected: list[tuple[object, ...]]) -> None:
    finished, again = told(directory), evaluator()
    run(directory, Failpoints(), again, strategy(3))
    assert state(directory) == expected
    assert not finished & set(again.calls), "what was finished was evaluated again"
    assert not list(directory.glob("partial-*"))


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_a_crash_at_any_operation_changes_nothing(strategy: type[Climber], place: Path) -> None:
    operations, expected = undisturbed(place, strategy)
    assert operations > 150
    for at in range(1, operations + 1):
        directory = place / f"at-{at}"
        with pytest.raises(Crash):
            run(directory, Failpoints(at), evaluator(), strategy(3))
        assert_resumes(directory, strategy, expected)


@pytest.mark.parametrize("life", [30, 37, 53])
def test_crash_after_crash_it_still_gets_there(life: int, place: Path) -> None:
    _, expected = undisturbed(place, Climber)
    deaths = 0
    while len(told(place / "doomed")) < 12:
        with suppress(Crash):
            run(place / "doomed", Failpoints(life), evaluator())
        deaths += 1
    assert 3 <= deaths < 100
    assert state(place / "doomed") == expected


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_sigkill_at_any_operation_changes_nothing(place: Path) -> None:
    operations, expected = undisturbed(place, Climber)
    for at in range(1, operations + 1, 5):
        directory = place / f"at-{at}"
        assert os.WTERMSIG(forked(directory, at)) == signal.SIGKILL
        assert_resumes(directory, Climber, expected)


def test_a_power_cut_takes_nothing_but_asks_and_they_are_asked_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sure to be on the disk is the log up to the last write that waited for it; later pages may be lost."""
    _, expected = undisturbed(place, Climber)
    lasting, statements = {"size": 0}, list[str]()

    def safe(ledger: Ledger) -> None:
        lasting["size"] = (ledger.directory / "ledger.sqlite-wal").stat().st_size

    class Traced(Ledger):
        def _prepare(self) -> None:
            self._db.set_trace_callback(statements.append)
            super()._prepare()
            safe(self)

        def asked(self, candidate: Candidate, twin_key: str, elapsed: float) -> None:
            super().asked(candidate, twin_key, elapsed)
            cut(self.directory, place / f"cut-{candidate.number}", lasting["size"])

        def told(self, evaluation: Evaluation, elapsed: float) -> None:
            super().told(evaluation, elapsed)
            assert [line for line in statements if "synchronous" in line][-1] == "PRAGMA synchronous = FULL"
            safe(self)

        def failed(self, evaluation: Evaluation) -> None:
            super().failed(evaluation)
            safe(self)

    monkeypatch.setattr("tests.search.failpoints.Ledger", Traced)
    run(place / "a", Failpoints(), evaluator())
    assert state(place / "a") == expected
    monkeypatch.undo()
    for number in range(12):
        assert_resumes(place / f"cut-{number}", Climber, expected)


def cut(directory: Path, after: Path, size: int) -> None:
    """Copies a search as a power cut may leave it: of its log only the first `size` bytes."""
    shutil.copytree(directory, after)
    os.truncate(after / "ledger.sqlite-wal", size)


def forked(directory: Path, at: int) -> int:
    """Runs a search in a process that kills itself, and returns how that ended."""
    child = os.fork()
    if child == 0:
        try:
            run(directory, Failpoints(at, lambda: os.kill(os.getpid(), signal.SIGKILL)), evaluator())
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def test_an_interrupted_attempt_is_not_a_failed_one(place: Path) -> None:
    def dies(*_: object) -> None:
        raise Crash

    for _ in range(4):
        with pytest.raises(Crash), Ledger.create(place / "a", CONFIG) as ledger:
            drive(Climber(3), dies, ledger, Budget(candidates=12))
    run(place / "a", Failpoints(), ToyEvaluator(failures={0: "killed"}, recovers=2))
    with Ledger.read(place / "a") as ledger:
        assert ledger.attempts(0) == ["interrupted"] * 4 + ["killed", "killed", "ok"]
        assert ledger.evaluations()[0].ok
