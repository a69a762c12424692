"""A finalist's training that fails for a passing reason is tried again; a full disk ends the flow."""

from __future__ import annotations

import pytest

from flows.retrain import Job, _landing
from search import Candidate, DiskFull, Evaluation
from tests.flows.families import genome_of

JOB = Job("key", Candidate(3, genome_of((4,))), 0, None)  # type: ignore[arg-type]
GONE, BAD, GOOD = (Evaluation(3, status) for status in ("killed", "non_finite", "ok"))


def ended(monkeypatch: pytest.MonkeyPatch, *answers: Evaluation) -> list[tuple[Job, Evaluation]]:
    left = iter(answers)
    monkeypatch.setattr("flows.retrain._start", lambda job, attempt, landed: landed.put((job, attempt, next(left))))
    return list(_landing([JOB], 1))


def test_what_may_pass_is_tried_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    for answers in ((GONE, GONE, GOOD), (GONE, GONE, GONE), (BAD,)):
        assert ended(monkeypatch, *answers) == [(JOB, answers[-1])]


def test_a_full_disk_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DiskFull, match="child 3, seed 0: disk full: no room: make room, then go on"):
        ended(monkeypatch, Evaluation(3, "io_error", reason="disk full: no room"))
