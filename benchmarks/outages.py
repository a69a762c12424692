"""What a search loses while MLflow or Prefect is down: time, and what they show of it afterwards.

The search is real but for its children, which sleep for five seconds: NSGA-II, ledger, one Prefect task run and one
MLflow run a child, a Prefect server and an MLflow server on SQLite. A server is killed, and later started again with
the same data, or it is frozen, so that its connections stay open and nobody answers. Shorter undisturbed runs alternate
with these; what is compared is wall clock for each child. Afterwards the ledger, MLflow and Prefect are asked how often
each child is there. A full run writes docs/outages.md.

Usage: python benchmarks/outages.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import UUID

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the servers of the tests

from flows import settings

# isort: split
from evo import NSGA2, NSGA2Settings
from flows.home import Home
from genomes.spaces.residual import ResidualSpace
from search import Budget, Candidate, Evaluation, Ledger, drive
from tests.doubles import ToyEvaluator
from tests.servers import Fault, Server, mlflow_server, prefect_server

PAGE = Path(__file__).resolve().parents[1] / "docs" / "outages.md"
SPACE = ResidualSpace((1, 28, 28), 10)
SLOTS = 4
SECONDS_OF_A_CHILD = 5.0
SECONDS_TO_SHOW = 120.0  # that Prefect's server is given to write down what it was told
GOAL = 0.05


@dataclass(frozen=True)
class Protocol:
    """How long a server is down, in seconds, and how long the search runs before and after that and undisturbed."""

    outage: float = 60.0
    before: float = 5.0
    after: float = 20.0
    undisturbed: float = 30.0

    def children(self, case: Case) -> int:
        """Returns how many it takes to run for so long."""
        seconds = self.before + self.outage + self.after if case.server else self.undisturbed
        return int(SLOTS * seconds / SECONDS_OF_A_CHILD)


@dataclass(frozen=True)
class Case:
    """A kind of run: which server is down, and in which way; neither, if undisturbed."""

    server: str = ""
    fault: Fault = "killed"

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.server} {self.fault}" if self.server else "undisturbed"


FAULTS = tuple(Case(server, fault) for server in ("Prefect", "MLflow") for fault in ("killed", "frozen"))


@dataclass(frozen=True)
class Told:
    """What became of one run.

    Attributes:
        case: what was done to it.
        children: how many it had.
        seconds: of wall clock until the last child was told to the strategy.
        down: seconds for which the server did not answer.
        until_shown: seconds more until the flow ended, with MLflow told of everything.
        wrong: by who was asked (ledger, MLflow, Prefect), the children that are not there exactly once, and ended.
    """

    case: Case
    children: int
    seconds: float
    down: float
    until_shown: float
    wrong: Mapping[str, int]

    @property
    def pace(self) -> float:
        """Seconds of wall clock for each child."""
        return self.seconds / self.children


def sleeping(candidate: Candidate, parents: Mapping[int, Evaluation]) -> Evaluation:
    """Returns a made-up evaluation after five seconds."""
    time.sleep(SECONDS_OF_A_CHILD)
    return ToyEvaluator()(candidate, parents)


@contextmanager
def disturbed(server: Server, fault: Fault, protocol: Protocol, down: list[float]) -> Iterator[None]:
    """Takes a server down beside the block, for as long as the protocol says, and notes for how long that was."""

    def disturb() -> None:
        time.sleep(protocol.before)
        begun = time.monotonic()
        with server.down(fault):
            time.sleep(protocol.outage)
        down.append(time.monotonic() - begun)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def searched(home: Home, tracking: str, case: Case, servers: Mapping[str, Server], protocol: Protocol) -> Told:
    """Returns what became of a search while a server was down."""
    from prefect import flow
    from prefect.runtime import flow_run

    from flows.search import THREADS, dispatcher
    from flows.tracking import Tracker

    run, took, children = "", 0.0, protocol.children(case)

    @flow(name="outages", task_runner=THREADS)
    def whole() -> None:
        nonlocal run, took
        run = str(flow_run.id)
        strategy = NSGA2(SPACE.founders(0), SPACE.limits.budgets, 0, NSGA2Settings(founders=12))
        tracker = Tracker(home, "toy", tracking, {})
        with Ledger.create(home.search("toy"), {}) as ledger, tracker.running():
            begun = time.monotonic()
            drive(strategy, dispatcher(sleeping), ledger, Budget(candidates=children), SLOTS)
            took = time.monotonic() - begun

    begun, down = time.monotonic(), list[float]()
    with disturbed(servers[case.server], case.fault, protocol, down) if case.server else nullcontext():
        whole()
        ended = time.monotonic() - begun
    if (sender := Tracker(home, "toy", tracking, {})).lag():
        sender.finish()  # it was down until the end
    wrong = {
        "ledger": unlike_once(recorded(home), children),
        "MLflow": unlike_once(shown(tracking, home), children),
        "Prefect": _settled(run, children),
    }
    return Told(case, children, took, sum(down), ended - took, wrong)


def unlike_once(seen: Counter[int], children: int) -> int:
    """Returns how many children are not there exactly once."""
    wanted = Counter(range(children))
    return sum(seen[number] != wanted[number] for number in {*seen, *wanted})


def recorded(home: Home) -> Counter[int]:
    """Returns how often each child was trained and recorded, by the ledger."""
    with Ledger.read(home.search("toy")) as ledger:
        told = ledger.evaluations()
        return Counter({number: len(ledger.attempts(number)) or 1 for number in told})


def shown(tracking: str, home: Home) -> Counter[int]:
    """Returns how often MLflow shows each child, among runs that ended."""
    from mlflow import MlflowClient

    client, identity = MlflowClient(tracking), (home.search("toy") / "tracking-id").read_text()
    found = client.get_experiment_by_name("toy")
    assert found is not None
    parent = client.search_runs([found.experiment_id], f"tags.`morphogen.id` = '{identity}'")[0].info.run_id
    mine = f"tags.`mlflow.parentRunId` = '{parent}' and tags.`morphogen.kind` = 'child'"
    runs = client.search_runs([found.experiment_id], mine, max_results=50_000)
    return Counter(int(run.data.tags["morphogen.number"]) for run in runs if run.info.status == "FINISHED")


def completed(run: str) -> Counter[int]:
    """Returns how often Prefect shows each child of a flow run, among task runs that completed."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    mine = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(run)]))
    found: list[Any] = []
    with get_client(sync_client=True) as client:
        while page := client.read_task_runs(flow_run_filter=mine, limit=200, offset=len(found)):
            found += page
    return Counter(int(task.name.split()[0]) for task in found if task.state_name == "Completed")


def _settled(run: str, children: int) -> int:
    """Returns how many children Prefect does not show once, after its server had time to write them down."""
    deadline = time.monotonic() + SECONDS_TO_SHOW
    while wrong := unlike_once(completed(run), children):
        if time.monotonic() > deadline:
            return wrong
        time.sleep(1)
    return 0


def measured(protocol: Protocol) -> list[Told]:
    """Returns all runs; each fault is between two undisturbed ones."""
    cases = [Case(), *(case for fault in FAULTS for case in (fault, Case()))]
    taken = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        root = Path(scratch)
        with prefect_server(root / "prefect") as prefect, mlflow_server(root / "mlflow") as mlflow:
            os.environ |= {"PREFECT_API_URL": f"{prefect.root}/api", "PREFECT_HOME": str(root / "client")}
            servers = {"Prefect": prefect, "MLflow": mlflow}
            for number, case in enumerate(cases):
                home = Home(root / str(number))
                home.make()
                told = searched(home, mlflow.root, case, servers, protocol)
                print(f"{case.name:15} {told.pace:6.3f} s a child, down {told.down:5.1f} s, wrong {dict(told.wrong)}")
                taken.append(told)
    return taken


def slowing(taken: list[Told]) -> dict[str, float]:
    """Returns by case the share by which a child took longer than in the undisturbed runs before and after it."""
    return {
        here.case.name: here.pace / statistics.mean((before.pace, after.pace)) - 1
        for before, here, after in zip(taken, taken[1:], taken[2:], strict=False)
        if here.case.server
    }


TEMPLATE = """# Outages, measured

Written by `benchmarks/outages.py` on {cores} cores, load average {load:.1f}, Prefect {prefect}, MLflow {mlflow}.
{children} children of {seconds:g} s on {slots} slots; a server is down for {outage:g} s and the time that it takes to
start. "Slower" compares the wall clock for each child with the mean of the undisturbed runs before and after it; the
goal is at most {goal:.0%}. The undisturbed runs took {least:.3f} to {most:.3f} s a child, n = {calm}. "Not once" counts
the children that are not there exactly once when everything answers again.

| what is down | not answering, s | s a child | slower | not once: ledger | MLflow | Prefect |
|---|--:|--:|--:|--:|--:|--:|
{lines}

Killed means SIGKILL and a new start with the same data; frozen means SIGSTOP: connections stay open, nobody answers.
"""


def page(taken: list[Told], protocol: Protocol, facts: Mapping[str, Any]) -> str:
    """Returns the page of a full run."""
    slower = slowing(taken)
    calm = [told.pace for told in taken if not told.case.server]
    lines = "\n".join(
        f"| {told.case.name} | {told.down:.1f} | {told.pace:.3f} | {slower[told.case.name]:+.1%} | "
        + " | ".join(str(told.wrong[asked]) for asked in ("ledger", "MLflow", "Prefect"))
        + " |"
        for told in taken
        if told.case.server
    )
    return TEMPLATE.format(
        lines=lines,
        children=max(told.children for told in taken),
        calm=len(calm),
        seconds=SECONDS_OF_A_CHILD,
        slots=SLOTS,
        outage=protocol.outage,
        goal=GOAL,
        least=min(calm),
        most=max(calm),
        **facts,
    )


def main() -> None:
    """Measures and prints each run, and the result as JSON in the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="outages of four seconds")
    quick = parser.parse_args().quick
    assert settings.DEFAULTS
    for level in ("PREFECT_LOGGING_LEVEL", "PREFECT_LOGGING_INTERNAL_LEVEL"):
        os.environ.setdefault(level, "CRITICAL")
    protocol = Protocol(outage=4.0, before=3.0, after=13.0, undisturbed=15.0) if quick else Protocol()
    taken = measured(protocol)
    facts = {
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        **{name: version(name) for name in ("prefect", "mlflow")},
    }
    if not quick:
        PAGE.write_text(page(taken, protocol, facts))
    wrong = {told.case.name: dict(told.wrong) for told in taken if told.case.server}
    result = {"slower": slowing(taken), "not_once": wrong, "outage": protocol.outage}
    print("RESULT", json.dumps({**result, **facts}))


if __name__ == "__main__":
    main()
