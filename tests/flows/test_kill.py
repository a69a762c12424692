"""Real `kill -9` of a real search: nothing is lost, nothing finished is trained again, nothing is left running."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from flows.home import Home
from search import INFRASTRUCTURAL, Ledger
from tests.flows.conftest import FAST

CHILDREN = 12
SPARE = 6  # children that a run may finish before its kill: about twice what it does
SLOTS = 2


@contextmanager
def running(home: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", "from flows.cli import main; main()", *words, "--home", str(home)]
    with (home / "output.txt").open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def told(home: Path) -> int:
    if not (home / "tiny" / "ledger.sqlite").exists():
        return 0
    with Ledger.read(home / "tiny") as ledger:
        return ledger.spent().evaluations


def workers(home: Path) -> list[str]:
    """The command lines and open files of processes that work for this search."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                if (
                    b"forkserver" in (process / "cmdline").read_bytes()
                    and str(home).encode() in (process / "environ").read_bytes()
                ):
                    found.append(process.name)
            except OSError:
                continue
    return found


@pytest.mark.parametrize("kills", [pytest.param(3, marks=pytest.mark.quick), pytest.param(20, marks=pytest.mark.slow)])
def test_a_search_killed_again_and_again_ends_whole(
    kills: int, prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MORPHOGEN_TEST", str(tmp_path))  # by which its processes are known
    from prefect.settings import get_current_settings

    monkeypatch.setenv("PREFECT_API_URL", str(get_current_settings().api.url))
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump(
            {
                **FAST,
                "budget": {"candidates": CHILDREN + SPARE * kills},
                "fidelity": {"examples": 8192},
                "recipe": {"learning_rate": 0.02},  # with 0.1 an heir without norms diverges now and then
                "slots": {"cpu": SLOTS},
            }
        )
    )
    rng = random.Random(kills)
    words = ("search", "--config", str(tmp_path / "config.yaml"))
    for _ in range(kills):
        before = told(tmp_path)
        with running(tmp_path, *words) as process:
            while told(tmp_path) == before and process.poll() is None:
                time.sleep(0.05)
            time.sleep(rng.random() * 0.6)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        deadline = time.monotonic() + 30
        while workers(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert workers(tmp_path) == []
        words = ("resume", "tiny")
    with running(tmp_path, *words) as process:
        assert process.wait(timeout=240) == 0, (tmp_path / "output.txt").read_text()[-3000:]
    check_whole(tmp_path, kills)


def check_whole(home: Path, kills: int) -> None:
    from tests.flows.conftest import shown

    total = CHILDREN + SPARE * kills
    with Ledger.read(home / "tiny") as ledger:
        evaluations = ledger.evaluations()
        attempts = [ledger.attempts(number) for number in range(total)]
        assert ledger.pending() == []
    assert sorted(evaluations) == list(range(total))
    assert all(evaluation.ok for evaluation in evaluations.values())
    trained = [attempts[number] for number, evaluation in evaluations.items() if evaluation.twin is None]
    outcomes = Counter(outcome for tried in trained for outcome in tried)
    assert outcomes["interrupted"] <= SLOTS * kills, trained  # only what was in flight
    assert outcomes["ok"] == len(trained)
    assert set(outcomes) <= {"ok", "interrupted"} | INFRASTRUCTURAL  # a busy machine may take a child, too
    weights = {evaluation.weights for evaluation in evaluations.values()}
    for digest in weights:
        assert (home / "tiny" / "weights" / f"{digest}.safetensors").is_file()
    runs = shown(Home(home), "tiny", None)
    assert sorted(run["number"] for run in runs) == list(range(total))
