"""What a search loses while MLflow or Prefect is down: time, and what they show of it afterwards.

The search is real but for its children, which sleep for a second: NSGA-II, ledger, one Prefect task run and one MLflow
run a child, a Prefect server and an MLflow server on SQLite. A server is killed, and later started again with the same
data, or it is frozen, so that its connections stay open and nobody answers. Undisturbed runs of equally many children
alternate with these. Afterwards the ledger, MLflow and Prefect are asked how often each child is there.
A full run writes docs/outages.md.

Usage: python benchmarks/outages.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
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

from flows import settings

# isort: split
from evo import NSGA2
from flows.home import Home
from genomes.spaces.residual import ResidualSpace
from search import Budget, Candidate, Evaluation, Ledger, drive
from tests.doubles import ToyEvaluator
from tests.servers import Fault, Server, mlflow_server, prefect_server

PAGE = Path(__file__).resolve().parents[1] / "docs" / "outages.md"
SPACE = ResidualSpace((1, 28, 28), 10)
SLOTS = 2
SECONDS_OF_A_CHILD = 1.0
SECONDS_TO_SHOW = 120.0  # that Prefect's server is given to write down what it was told
GOAL = 0.05


@dataclass(frozen=True)
class Protocol:
    """How long a server is down, in seconds, and how long the search runs before and after that."""

    outage: float = 60.0
    before: float = 5.0
    after: float = 15.0

    @property
    def children(self) -> int:
        """As many as it takes."""
        return int(SLOTS * (self.before + self.outage + self.after) / SECONDS_OF_A_CHILD)


@dataclass(frozen=True)
class Case:
    """A kind of run: which server is down, and in which way; neither, if undisturbed."""

    server: str = ""
    fault: Fault = "killed"

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.server} {self.fault}" if self.server else "undisturbed"


FAULTS = tuple(Case(server, fault) for server in ("Prefect", "MLflow") for fault in ("killed", "frozen"))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Told:
    """What became of one run.

    Attributes:
        case: what was done to it.
        seconds: of wall clock until the last child was told to the strategy.
        down: seconds for which the server did not answer.
        until_shown: seconds more until the flow ended, with MLflow told of everything.
        wrong: by who was asked (ledger, MLflow, Prefect), the children that are not there exactly once, and ended.
    """

    case: Case
    seconds: float
    down: float
    until_shown: float
    wrong: Mapping[str, int]


def sleeping(candidate: Candidate, parents: Mapping[int, Evaluation]) -> Evaluation:
    """Returns a made-up evaluation after a second."""
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

    run, took = "", 0.0

    @flow(name="outages", task_runner=THREADS)
    def whole() -> None:
        nonlocal run, took
        run = str(flow_run.id)
        strategy = NSGA2(SPACE.starters(), SPACE.limits.budgets, 0)
        tracker = Tracker(home, "toy", tracking, {})
        with Ledger.create(home.search("toy"), {}) as ledger, tracker.running():
            begun = time.monotonic()
            drive(strategy, dispatcher(sleeping), ledger, Budget(candidates=protocol.children), SLOTS)
            took = time.monotonic() - begun

    begun, down = time.monotonic(), list[float]()
    with disturbed(servers[case.server], case.fault, protocol, down) if case.server else nullcontext():
        whole()
        ended = time.monotonic() - begun
    if (sender := Tracker(home, "toy", tracking, {})).lag():
        sender.finish()  # it was down until the end
    wrong = {
        "ledger": unlike_once(recorded(home), protocol),
        "MLflow": unlike_once(shown(tracking, home), protocol),
        "Prefect": _settled(run, protocol),
    }
    return Told(case, took, sum(down), ended - took, wrong)


def unlike_once(seen: Counter[int], protocol: Protocol) -> int:
    """Returns how many children are not there exactly once."""
    wanted = Counter(range(protocol.children))
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


def _settled(run: str, protocol: Protocol) -> int:
    """Returns how many children Prefect does not show once, after its server had time to write them down."""
    deadline = time.monotonic() + SECONDS_TO_SHOW
    while wrong := unlike_once(completed(run), protocol):
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
                print(f"{case.name:15} {told.seconds:6.1f} s, down {told.down:5.1f} s, wrong {dict(told.wrong)}")
                taken.append(told)
    return taken


def slowing(taken: list[Told]) -> dict[str, float]:
    """Returns by case the share by which it was slower than the mean of the undisturbed runs before and after it."""
    return {
        here.case.name: here.seconds / statistics.mean((before.seconds, after.seconds)) - 1
        for before, here, after in zip(taken, taken[1:], taken[2:], strict=False)
        if here.case.server
    }


TEMPLATE = """# Outages, measured

Written by `benchmarks/outages.py` on {cores} cores, load average {load:.1f}, Prefect {prefect}, MLflow {mlflow}.
{children} children of {seconds:g} s on {slots} slots; a server is down for {outage:g} s and the time that it takes to
start. "Slower" compares the wall clock of the loop with the mean of the undisturbed runs before and after it; the goal
is at most {goal:.0%}. The undisturbed runs took {least:.1f} to {most:.1f} s. "Not once" counts the children that are
not there exactly once when everything answers again.

| what is down | not answering, s | loop, s | slower | not once: ledger | MLflow | Prefect |
|---|--:|--:|--:|--:|--:|--:|
{lines}

Killed means SIGKILL and a new start with the same data; frozen means SIGSTOP: connections stay open, nobody answers.
"""


def page(taken: list[Told], protocol: Protocol, facts: Mapping[str, Any]) -> str:
    """Returns the page of a full run."""
    slower = slowing(taken)
    calm = [told.seconds for told in taken if not told.case.server]
    lines = "\n".join(
        f"| {told.case.name} | {told.down:.1f} | {told.seconds:.1f} | {slower[told.case.name]:+.1%} | "
        + " | ".join(str(told.wrong[asked]) for asked in ("ledger", "MLflow", "Prefect"))
        + " |"
        for told in taken
        if told.case.server
    )
    return TEMPLATE.format(
        lines=lines,
        children=protocol.children,
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
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    protocol = Protocol(outage=4.0, before=2.0, after=10.0) if quick else Protocol()
    taken = measured(protocol)
    facts = {
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        **{name: version(name) for name in ("prefect", "mlflow")},
    }
    if not quick:
        PAGE.write_text(page(taken, protocol, facts))
    wrong = {told.case.name: dict(told.wrong) for told in taken if told.case.server}
    result = {"slower": slowing(taken), "not_once": wrong, "children": protocol.children, "outage": protocol.outage}
    print("RESULT", json.dumps({**result, **facts}))


if __name__ == "__main__":
    main()
