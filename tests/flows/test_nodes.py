"""A search on a real Ray cluster of two nodes, and what becomes of it when one of them dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from socket import gethostname
from typing import Any

import pytest
import yaml

from flows.home import BadInput, Home
from search import Ledger
from tests.flows.conftest import FAST, config, shown
from tests.flows.test_kill import running
from training.slots import Slot

ROOT = Path(__file__).parents[2]
EXAMPLES = 16_384  # so that a node is killed in the middle of a training


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two nodes of one CPU each, on free ports; they import what is tested, not what is installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_AUTH_MODE", "disabled")  # this machine only, for a minute
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("RAY_worker_niceness", "0")  # Ray's own 15 leaves them nothing on a busy machine
        from ray.cluster_utils import Cluster

        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        nodes.add_node(num_cpus=1)
        yield nodes
        nodes.shutdown()


def search_on(address: str | None, home: Path, candidates: int, store: str | None = None) -> dict[str, Any]:
    from flows.search import search

    slots = {"ray": {"address": address, "children": 2, "store": store}} if address else {"cpu": 1}
    settings = config(slots=slots, budget={"candidates": candidates}, fidelity={"examples": EXAMPLES})
    return search(settings, home)


def occupied(home: Path) -> set[str]:
    if not (home / "tiny" / "ledger.sqlite").exists():
        return set()
    with Ledger.read(home / "tiny") as ledger:
        return {one.slot for one in ledger.occupancy()}


def test_a_search_goes_to_a_cluster_and_back_through_a_store_that_its_nodes_reach(
    cluster: Any, prefect_server: None, tmp_path: Path
) -> None:
    home, store = tmp_path / "searches", tmp_path / "bucket"
    search_on(None, home, 1)
    search_on(cluster.address, home, 4, store.as_uri())
    search_on(None, home, 5)
    with Ledger.read(home / "tiny") as ledger:
        evaluations = ledger.evaluations()
    assert [e.status for e in evaluations.values()] == ["ok"] * 5
    assert evaluations[0].slot == "cpu:0"
    nodes = {node.node_id[:8] for node in cluster.list_all_nodes()}
    for number in (1, 2, 3):
        assert (evaluations[number].slot or "").split("/")[-1] in nodes
    for evaluation in evaluations.values():
        assert (home / "tiny" / "weights" / f"{evaluation.weights}.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_on_the_nodes_of_a_search_that_is_stopped(
    sign: signal.Signals, cluster: Any, prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import get_current_settings

    monkeypatch.setenv("PREFECT_API_URL", str(get_current_settings().api.url))
    slots = {"ray": {"address": cluster.address, "children": 2}}
    settings = {**FAST, "slots": slots, "fidelity": {"examples": 4_000_000}}  # minutes
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    raylets = [node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()]
    with running(tmp_path, "search", "--config", str(tmp_path / "config.yaml")) as process:
        until(lambda: all(map(training_below, raylets)))
        trainings = {one for raylet in raylets for one in training_below(raylet)}
        began = time.monotonic()
        process.send_signal(sign)
        until(lambda: not trainings & set(parents()))
        assert time.monotonic() - began < 10
        assert process.wait(timeout=60) == (130 if sign == signal.SIGINT else -sign)
    with Ledger.read(tmp_path / "tiny") as ledger:
        assert ledger.pending() == [0, 1]
        assert ledger.evaluations() == {}
    if sign == signal.SIGINT:  # else nobody is left who could tell Prefect
        until(lambda: states(tmp_path) == Counter(Crashed=2))


@pytest.mark.slow
def test_a_node_that_dies_costs_its_child_another_attempt_and_nothing_else(
    cluster: Any, prefect_server: None, home: Path
) -> None:
    trainings: list[int] = []
    killer = threading.Thread(target=kill_a_node, args=(cluster, home, trainings), daemon=True)
    killer.start()
    result = search_on(cluster.address, home, 12)
    killer.join(timeout=1)
    assert trainings
    assert not set(trainings) & set(parents())
    with Ledger.read(home / "tiny") as ledger:
        evaluations = ledger.evaluations()
        attempts = {number: ledger.attempts(number) for number in evaluations}
        assert ledger.pending() == []
    assert sorted(evaluations) == list(range(12))
    assert all(e.ok for e in evaluations.values())
    assert result["failures"] == 0
    outcomes = Counter(outcome for tried in attempts.values() for outcome in tried)
    assert outcomes["ok"] == sum(e.twin is None for e in evaluations.values())
    assert outcomes["lost"] >= 1, attempts
    assert set(outcomes) == {"ok", "lost"}, attempts
    until(lambda: states(home) == Counter(Completed=outcomes["ok"], Crashed=outcomes["lost"]))
    weights = home / "tiny" / "weights"
    assert {e.weights for e in evaluations.values()} == {file.stem for file in weights.glob("*.safetensors")}
    assert sorted(run["number"] for run in shown(Home(home), "tiny", None)) == list(range(12))


def kill_a_node(cluster: Any, home: Path, trainings: list[int]) -> None:
    """Kills, in the middle of a child, the node that the search's process is not connected to.

    As the death of a machine would, but for the children's own processes: they have to die with the one that asked.
    """
    (node,) = cluster.worker_nodes
    raylet = node.all_processes["raylet"][0].process.pid
    until(lambda: any(slot.endswith(node.node_id[:8]) for slot in occupied(home)))
    until(lambda: bool(training_below(raylet)))
    time.sleep(0.3)
    trainings.extend(training_below(raylet))
    for process in (raylet, *(process for process, parent in parents().items() if parent == raylet)):
        os.kill(process, signal.SIGKILL)


def states(home: Path) -> Counter[str]:
    """How many task runs of the searches in a home there are, by the name that Prefect has for their state."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.client.schemas.sorting import FlowRunSort

    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=200)
        chosen = FlowRunFilterId(any_=[run.id for run in runs if run.parameters.get("home") == str(home)])
        return Counter(run.state_name for run in client.read_task_runs(flow_run_filter=FlowRunFilter(id=chosen)))


def parents() -> dict[int, int]:
    """Each process with its parent."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            found[int(place.name)] = int((place / "stat").read_text().rsplit(")", 1)[1].split()[1])
    return found


def training_below(process: int) -> list[int]:
    """The processes of children below another: those that a fork server made."""

    def server(one: int) -> bool:
        with suppress(OSError):
            return b"forkserver" in Path(f"/proc/{one}/cmdline").read_bytes()
        return False

    above = parents()

    def line(one: int) -> Iterator[int]:
        while one in above:
            yield (one := above[one])

    return [one for one in above if server(one) and server(above[one]) and process in line(one)]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert condition()


def seen() -> tuple[Slot, str]:
    from flows.cluster.runner import place

    return place(0.25), os.environ["CUDA_VISIBLE_DEVICES"]


def test_a_task_that_has_a_share_of_a_gpu_is_in_a_slot_of_it_and_sees_no_other(cluster: Any) -> None:
    """Ray believes how many there are; none is needed to be told which one to use."""
    import ray

    node = cluster.add_node(num_cpus=0, num_gpus=2)
    ray.init(cluster.address, log_to_driver=False)
    try:
        slot, visible = ray.get(ray.remote(num_cpus=0, num_gpus=0.25)(seen).remote(), timeout=120)
    finally:
        ray.shutdown()
        cluster.remove_node(node)
    assert slot == Slot(f"cuda:{gethostname()}/{node.node_id[:8]}/{visible}", "cuda:0", 0.25)
    assert visible in ("0", "1")


def test_an_address_where_no_cluster_is_is_refused_with_what_should_be_there(prefect_server: None, home: Path) -> None:
    began = time.monotonic()
    with pytest.raises(BadInput, match=r"slots.ray.address must be that of a Ray cluster"):
        search_on("127.0.0.1:9", home, 1)
    assert time.monotonic() - began < 60
    assert not (home / "tiny").exists()


def test_without_a_server_that_nodes_reach_a_cluster_is_refused_before_it_is_asked(home: Path) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.search import connection

    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(BadInput, match=r"must have a Prefect server that all nodes reach"),
        connection(config(slots={"ray": {"children": 1, "address": "127.0.0.1:9"}})),
    ):
        pass
