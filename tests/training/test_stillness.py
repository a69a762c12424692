"""Stillness between real processes: who trains gives way, who measures is alone, and a death holds nobody up."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from training.stillness import Stillness

ROOT = Path(__file__).parents[2]
LOG = "log"  # each line: time, name, what begins or ends

ACTOR = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from training.stillness import Stillness

directory, name, verb = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
log = (directory / "{LOG}").open("a", buffering=1)
note = lambda what: log.write(f"{{time.monotonic()}} {{name}} {{what}}\\n")
with Stillness(directory) as still:
    note("entered")
    if verb == "train":
        for _ in range(int(sys.argv[4])):
            note("begin"); time.sleep(0.02); note("end")
            still.give_way()
    for _ in range(int(sys.argv[4]) if verb == "measure" else 0):
        with still.alone():
            note("begin"); time.sleep(0.05); note("end")
"""


class Stage:
    """Actors in processes of their own, over one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.actors = directory, list[subprocess.Popen[bytes]]()

    def start(self, name: str, verb: str, times: int) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", ACTOR, str(self.directory), name, verb, str(times)]
        self.actors.append(subprocess.Popen(words))
        return self.actors[-1]

    def log(self) -> list[tuple[float, str, str]]:
        file = self.directory / LOG
        lines = file.read_text().splitlines() if file.exists() else []
        return [(float(when), name, what) for when, name, what in map(str.split, lines)]

    def until(self, name: str, what: str, limit: float = 60) -> None:
        deadline = time.monotonic() + limit
        while not any((who, did) == (name, what) for _, who, did in self.log()):
            assert time.monotonic() < deadline, f"{name} did not {what} within {limit} s: {self.log()[-4:]}"
            time.sleep(0.005)

    def spans(self, prefix: str) -> list[tuple[float, float]]:
        """Returns from when to when each actor of that prefix was busy."""
        open_since, found = dict[str, float](), []
        for when, name, what in self.log():
            if name.startswith(prefix) and what == "begin":
                open_since[name] = when
            elif name.startswith(prefix) and what == "end":
                found.append((open_since.pop(name), when))
        return found


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    for actor in made.actors:
        actor.kill()
        actor.wait()


def overlapping(some: list[tuple[float, float]], others: list[tuple[float, float]]) -> int:
    return sum(a < d and c < b for a, b in some for c, d in others)


def test_trainings_share_and_a_measurement_has_all_to_itself(stage: Stage) -> None:
    for name in ("train1", "train2"):
        stage.start(name, "train", 10_000)
        stage.until(name, "begin")
    measuring = stage.start("measure", "measure", 5)
    assert measuring.wait(60) == 0, "two trainings whose steps overlap must not keep a measurement out"
    assert len(stage.spans("measure")) == 5
    assert overlapping(stage.spans("measure"), stage.spans("train")) == 0
    assert overlapping(stage.spans("train1"), stage.spans("train2")) > 3


def test_two_measurements_take_turns(stage: Stage) -> None:
    stage.start("train", "train", 10_000)
    stage.until("train", "begin")
    both = [stage.start(name, "measure", 4) for name in ("measure1", "measure2")]
    assert [actor.wait(60) for actor in both] == [0, 0]
    assert overlapping(stage.spans("measure1"), stage.spans("measure2")) == 0
    assert overlapping(stage.spans("measure"), stage.spans("train")) == 0


def test_one_that_comes_during_a_measurement_waits_at_the_gate(stage: Stage) -> None:
    with Stillness(stage.directory) as still, still.alone():
        stage.start("train", "train", 1)
        time.sleep(1.5)
        assert stage.log() == []
    stage.until("train", "end")


@pytest.mark.parametrize("verb", ["train", "measure"])
def test_a_killed_process_holds_nobody_up(verb: str, stage: Stage) -> None:
    victim = stage.start("victim", verb, 10_000)
    stage.until("victim", "begin")
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert stage.start("measure", "measure", 1).wait(60) == 0


def test_a_device_is_done_with_what_was_launched_before_a_measurement_begins(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = list[bool]()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: done.append(stage.spans("measure") == []))
    with Stillness(stage.directory) as still:
        still.give_way()
        assert done == [], "nobody waits"
        measuring = stage.start("measure", "measure", 1)
        stage.until("measure", "entered")
        time.sleep(0.3)
        still.give_way()
        assert done == [True]
        assert measuring.wait(60) == 0


def test_a_network_that_attends_gives_way_before_each_forward_pass(stage: Stage) -> None:
    network = nn.Linear(2, 2)
    with Stillness(stage.directory) as still:
        still.attend(network)
        measuring = stage.start("measure", "measure", 1)
        stage.until("measure", "entered")
        time.sleep(0.3)
        assert measuring.poll() is None, "it must wait, since this process is in the room"
        network(torch.zeros(1, 2))
        assert stage.spans("measure"), "the forward pass must wait for the measurement"
        assert measuring.wait(60) == 0
