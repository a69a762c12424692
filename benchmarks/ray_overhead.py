"""What a child costs through a Ray cluster beside what it costs in a slot of this machine.

The same search with tiny children, one at a time and so the same children, is timed from handing each over to having
its evaluation: in a local slot, and on a Ray cluster of one node that is this machine, in turn. The difference is what
Ray and Prefect's task runner for it add; the network between machines is not in it. The first child is told apart: on
a cluster a worker process has to start for it, with torch.

Usage: python benchmarks/ray_overhead.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flows import settings

# isort: split
from flows.assembly import document, keep, planned, slots, trainer
from flows.config import SearchConfig
from flows.home import Home
from flows.search import connection, dispatcher
from search import Budget, Candidate, Done, Evaluation, Ledger, drive

SPACE = {"parameters": 30_000, "macs": 2_000_000}


def timed(places: Mapping[str, Any], children: int, home: Path) -> list[float]:
    """Returns the seconds from handing over each child to having its evaluation, in the order of children."""
    from prefect import flow
    from prefect.task_runners import ThreadPoolTaskRunner

    config = SearchConfig.model_validate(
        {"name": "timed", "fidelity": {"examples": 256}, "space": SPACE, "slots": places}
    )

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def measured() -> list[float]:
        place, seconds = Home(home), list[float]()
        place.make()
        prepared, strategy, _ = planned(config, place)
        with ExitStack() as stack:
            remote = stack.enter_context(connection(config))
            ledger = stack.enter_context(Ledger.create(place.search(config.name), document(config, place)))
            evaluator = trainer(config, place, keep(config, place, prepared), slots(config))
            dispatch = stack.enter_context(remote(config, place, evaluator)) if remote else dispatcher(evaluator)

            def watched(candidate: Candidate, parents: Mapping[int, Evaluation], done: Done) -> None:
                begun = time.perf_counter()

                def ended(answer: Evaluation | BaseException) -> None:
                    seconds.append(time.perf_counter() - begun)
                    done(answer)

                dispatch(candidate, parents, ended)

            drive(strategy, watched, ledger, Budget(candidates=children))
        return seconds

    return measured()


def report(children: int, times: int) -> None:
    """Measures on a cluster of one node, and prints.

    Args:
        children: of each search.
        times: how many pairs of searches.
    """
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    arms = {"local": {"cpu": 1}, "ray": {"ray": {"address": cluster.address, "children": 1}}}
    first: dict[str, list[float]] = {name: [] for name in arms}
    later: dict[str, list[float]] = {name: [] for name in arms}
    try:
        for _ in range(times):
            for name, places in arms.items():
                with tempfile.TemporaryDirectory() as scratch:
                    cold, *warm = timed(places, children, Path(scratch))
                first[name].append(cold)
                later[name].append(statistics.median(warm))
    finally:
        cluster.shutdown()
    for name in arms:
        print(
            f"{name:6} median {1000 * statistics.median(later[name]):6.0f} ms a child, medians of searches "
            f"{1000 * min(later[name]):.0f} to {1000 * max(later[name]):.0f} ms, n = {times}; "
            f"the first child {statistics.median(first[name]):.1f} s"
        )
    added = [there - here for there, here in zip(later["ray"], later["local"], strict=True)]
    spread = f"{1000 * min(added):.0f} to {1000 * max(added):.0f} ms"
    print(f"Ray adds {1000 * statistics.median(added):.0f} ms a child, {spread}")
    result = {
        "seconds": later,
        "first_seconds": first,
        "added_seconds": added,
        "children": children,
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        **{name: version(name) for name in ("ray", "prefect", "prefect-ray", "torch")},
    }
    print("RESULT", json.dumps(result))


def main() -> None:
    """Measures and prints a table, and the result as JSON in the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer children and repetitions")
    quick = parser.parse_args().quick
    assert settings.DEFAULTS
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])  # the node runs what is here, not what is installed
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a cluster of this machine alone, for a minute
    os.environ.setdefault("RAY_worker_niceness", "0")  # as the processes of local slots; by itself Ray takes 15
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        report(*((15, 1) if quick else (40, 5)))


if __name__ == "__main__":
    main()
