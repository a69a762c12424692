"""Stillness between real processes: who trains gives way, who measures is alone, and a death holds nobody up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch
from torch import nn

from training.stillness import Stillness
from training.worker import CONTEXT, start

LOG = "log"  # each line: time, name, what begins or ends


def act(directory: Path, name: str, verb: str, times: int) -> None:
    """What an actor does, in a process of its own."""
    with (directory / LOG).open("a", buffering=1) as log:

        def note(what: str) -> None:
            log.write(f"{time.monotonic()} {name} {what}\n")

        note("ready")
        with Stillness(directory) as still:
            note("entered")
            for _ in range(times):
                with still.alone() if verb == "measure" else nullcontext():
                    note("begin")
                    time.sleep(0.05 if verb == "measure" else 0.02)
                    note("end")
                if verb == "train":
                    still.give_way()


class Stage:
    """Actors in processes of their own, over one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.actors = directory, list[ForkServerProcess]()

    def start(self, name: str, verb: str, times: int) -> ForkServerProcess:
        self.actors.append(CONTEXT.Process(target=act, args=(self.directory, name, verb, times)))
        start(self.actors[-1])
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
        actor.join()


def ended(actor: ForkServerProcess) -> int | None:
    """Waits for an actor and returns its exit code; None if it hangs."""
    actor.join(60)
    return actor.exitcode


def overlapping(some: list[tuple[float, float]], others: list[tuple[float, float]]) -> int:
    return sum(a < d and c < b for a, b in some for c, d in others)


def test_trainings_share_and_a_measurement_has_all_to_itself(stage: Stage) -> None:
    for name in ("train1", "train2"):
        stage.start(name, "train", 10_000)
        stage.until(name, "begin")
    measuring = stage.start("measure", "measure", 5)
    assert ended(measuring) == 0, "two trainings whose steps overlap must not keep a measurement out"
    assert len(stage.spans("measure")) == 5
    assert overlapping(stage.spans("measure"), stage.spans("train")) == 0
    assert overlapping(stage.spans("train1"), stage.spans("train2")) > 3


def test_two_measurements_take_turns(stage: Stage) -> None:
    stage.start("train", "train", 10_000)
    stage.until("train", "begin")
    both = [stage.start(name, "measure", 4) for name in ("measure1", "measure2")]
    assert [ended(actor) for actor in both] == [0, 0]
    assert overlapping(stage.spans("measure1"), stage.spans("measure2")) == 0
    assert overlapping(stage.spans("measure"), stage.spans("train")) == 0


def test_one_that_comes_during_a_measurement_waits_at_the_gate(stage: Stage) -> None:
    with Stillness(stage.directory) as still, still.alone():
        stage.start("train", "train", 1)
        stage.until("train", "ready")
        time.sleep(0.3)
        assert [what for _, _, what in stage.log()] == ["ready"]
    stage.until("train", "end")


@pytest.mark.parametrize("verb", ["train", "measure"])
def test_a_killed_process_holds_nobody_up(verb: str, stage: Stage) -> None:
    victim = stage.start("victim", verb, 10_000)
    stage.until("victim", "begin")
    victim.kill()
    victim.join()
    assert ended(stage.start("measure", "measure", 1)) == 0


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
        assert ended(measuring) == 0


def test_a_network_that_attends_gives_way_before_each_forward_pass(stage: Stage) -> None:
    network = nn.Linear(2, 2)
    with Stillness(stage.directory) as still:
        still.attend(network)
        measuring = stage.start("measure", "measure", 1)
        stage.until("measure", "entered")
        time.sleep(0.3)
        assert measuring.exitcode is None, "it must wait, since this process is in the room"
        network(torch.zeros(1, 2))
        assert stage.spans("measure"), "the forward pass must wait for the measurement"
        assert ended(measuring) == 0
