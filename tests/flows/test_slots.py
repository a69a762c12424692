"""Slots from the configuration and the command line to where children are trained, and to where people see it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows import assembly, cli, terminal
from flows.config import validated
from flows.home import BadInput
from flows.slots import Slots
from search import Budget, Evaluation, Ledger, Progress, Spent
from tests.flows.conftest import FAST, config
from tests.flows.families import kin, recorded
from tests.flows.test_terminal import screen, summary
from training.pool import Occupied
from training.slots import cores


def on_a_machine_with(devices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "_cuda_devices", lambda: devices)


def names(monkeypatch: pytest.MonkeyPatch, slots: dict[str, Any], devices: int = 0) -> list[str]:
    on_a_machine_with(devices, monkeypatch)
    return [slot.name for slot in assembly.slots(config(slots=slots))]


def test_without_words_there_are_two_slots_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert names(monkeypatch, {}) == names(monkeypatch, {"cpu": 2}) == ["cpu:0", "cpu:1"]
    assert config().slots == Slots(cpu=2)


def test_all_devices_or_some_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    assert names(monkeypatch, {"cuda": {}}, 2) == ["cuda:0/0", "cuda:1/0"]
    assert names(monkeypatch, {"cuda": {"devices": "all", "per_device": 2}}, 1) == ["cuda:0/0", "cuda:0/1"]
    assert names(monkeypatch, {"cuda": {"devices": [3, 1], "per_device": 1}}, 4) == ["cuda:3/0", "cuda:1/0"]


def test_cuda_where_there_is_none_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        BadInput, match=r"torch finds no CUDA device: use slots: \{cpu: N\}, or look whether nvidia-smi"
    ):
        names(monkeypatch, {"cuda": {"per_device": 4}})


def test_a_device_that_is_not_there_is_named_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"slots.cuda.devices must be among 0 to 1, .* got \[2, 7\]"):
        names(monkeypatch, {"cuda": {"devices": [7, 0, 2]}}, 2)


@pytest.mark.parametrize(
    ("slots", "words"),
    [
        ({"cpu": 0}, "slots.cpu"),
        ({"cpu": 2, "cuda": {}}, "slots must have one of cpu, cuda and ray, not two and not none"),
        ({"cpu": None}, "slots must have one of cpu, cuda and ray, not two and not none"),
        ({"cpu": 2, "ray": {"children": 2}}, "slots must have one of cpu, cuda and ray, not two and not none"),
        ({"ray": {}}, "slots.ray.children"),
        ({"ray": {"children": 2, "gpus": 1.5}}, "slots.ray.gpus"),
        ({"ray": {"children": 2, "address": "head"}}, "slots.ray.address"),
        ({"ray": {"children": 2, "address": "user:secret@head:6379"}}, "slots.ray.address"),
        ({"ray": {"children": 2, "store": "/mnt/searches"}}, "slots.ray.store"),
        ({"ray": {"children": 2, "store": "s3://key:secret@bucket/a"}}, "store must hold no user, password or token"),
        ({"cuda": {"devices": []}}, "devices must be all, or one or more different indices, got []"),
        ({"cuda": {"devices": [1, 1]}}, "devices must be all, or one or more different indices, got [1, 1]"),
        ({"cuda": {"devices": [-1]}}, "slots.cuda.devices"),
        ({"cuda": {"devices": "some"}}, "slots.cuda.devices"),
        ({"cuda": {"per_device": 0}}, "slots.cuda.per_device"),
        ({"cuda": {"per_gpu": 2}}, "slots.cuda.per_gpu"),
        ({"gpu": 1}, "the keys there are cpu, cuda"),
    ],
)
def test_slots_that_cannot_be_meant_are_refused_with_their_place(slots: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as refused:
        validated({**FAST, "slots": slots}, "here")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_stored_is_read_again() -> None:
    many = {"ray": {"children": 8, "address": "ray://head:10001", "gpus": 0.25, "store": "s3://bucket/a"}}
    for slots in (many, {}, {"cpu": 7}, {"cuda": {"devices": [0, 1], "per_device": 4}}, {"cuda": {}}):
        one = config(slots=slots)
        assert validated(one.model_dump(mode="json"), "here") == one


@pytest.mark.parametrize(
    ("text", "document"),
    [
        ("4", {"cpu": 4}),
        ("cpu:16", {"cpu": 16}),
        ("cuda:4", {"cuda": {"devices": "all", "per_device": 4}}),
        ("cuda:2@0", {"cuda": {"devices": [0], "per_device": 2}}),
        ("cuda:1@1,3", {"cuda": {"devices": [1, 3], "per_device": 1}}),
        ("ray:8@auto", {"ray": {"children": 8, "address": "auto"}}),
        ("ray:8@ray://head:10001", {"ray": {"children": 8, "address": "ray://head:10001"}}),
    ],
)
def test_a_few_words_stand_for_slots(text: str, document: dict[str, Any]) -> None:
    assert Slots.words(text) == document
    assert Slots.model_validate(document)


@pytest.mark.parametrize(
    "text", ["", "cuda", "gpu:4", "cpu:2@0", "4@0", "cuda:4@", "cuda:4@0,", "-1", "4 ", "٤x", "ray:8", "ray:@auto"]
)
def test_other_words_are_refused_with_those_that_are_understood(text: str) -> None:
    with pytest.raises(BadInput, match=r"slots must be N, cpu:N, cuda:N \(on each device\) or cuda:N@0,1"):
        Slots.words(text)


def test_more_slots_than_cores_are_warned_of() -> None:
    assert Slots(cpu=cores()).crowded() == Slots.model_validate({"cuda": {}}).crowded() == ""
    assert f"slots.cpu is {cores() + 1} and there are {cores()} cores" in Slots(cpu=cores() + 1).crowded()


def test_a_search_that_goes_on_may_change_its_kind_of_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = config(slots={"cuda": {"per_device": 4}}).model_dump(mode="json")
    with Ledger.create(tmp_path / "tiny", before):
        pass
    ran: list[Any] = []
    monkeypatch.setattr(cli, "_run", lambda settings, _: ran.append(settings))
    cli.resume("tiny", slots="3", home=tmp_path)
    cli.resume("tiny", slots="cuda:2@1", home=tmp_path)
    cli.resume("tiny", home=tmp_path)
    assert [one.slots.cpu for one in ran] == [3, None, None]
    assert [one.slots.cuda and one.slots.cuda.per_device for one in ran] == [None, 2, 4]
    with Ledger.create(tmp_path / "tiny", ran[0].model_dump(mode="json"), assembly.FREE) as ledger:
        assert ledger.config["slots"] == {"cpu": 3, "cuda": None, "ray": None}


def test_what_the_words_do_not_say_of_a_cluster_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {"ray": {"address": "auto", "children": 8, "cpus": 2.0, "gpus": 0.25, "store": "s3://bucket/searches"}}
    before = config(slots=ours)
    with Ledger.create(tmp_path / "tiny", before.model_dump(mode="json")):
        pass
    ran: list[Any] = []
    monkeypatch.setattr(cli, "_run", lambda settings, _: ran.append(settings))
    cli.resume("tiny", slots="ray:16@head:6379", home=tmp_path)
    more = {"ray": {**ours["ray"], "address": "head:6379", "children": 16}}
    assert ran[0].slots.model_dump(mode="json", include={"ray"}) == more
    assert before.changed(slots="ray:16@head:6379").slots == ran[0].slots


def test_slots_of_other_machines_are_as_many_as_children_may_be_under_way() -> None:
    one, two = assembly.slots(config(slots={"ray": {"children": 2, "gpus": 0.5}}))
    assert (one.name, two.name, one.kind) == ("cuda:remote/0", "cuda:remote/1", "cuda")
    assert {slot.kind for slot in assembly.slots(config(slots={"ray": {"children": 3}}))} == {"cpu"}


def test_a_latency_that_is_an_objective_is_measured_on_one_machine() -> None:
    timed = {"strategy": {"nsga2": {"objectives": ["error", "latency_seconds"]}}}
    assert validated({**FAST, **timed, "slots": {"cpu": 2}}, "here")
    with pytest.raises(BadInput, match=r"slots must be cpu or cuda if latency_seconds is an objective"):
        validated({**FAST, **timed, "slots": {"ray": {"children": 2}}}, "here")


def test_on_one_machine_nothing_of_ray_is_imported() -> None:
    program = """
import sys
import flows.cli, flows.search, flows.retrain, flows.tracking, training.trainer
from flows.config import SearchConfig
with flows.search.connection(SearchConfig(name="tiny")) as remote:
    assert remote is None
print([name for name in sys.modules if name.split(".")[0] in ("ray", "prefect_ray") or name == "flows.cluster.runner"])
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert ran.stdout == "[]\n"


def test_without_the_extra_a_cluster_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.search import connection

    monkeypatch.setitem(sys.modules, "ray", None)  # what an import finds where it is not installed
    monkeypatch.delitem(sys.modules, "flows.cluster.runner", raising=False)
    with pytest.raises(BadInput, match=r"slots.ray must come with its extra: pip install -e '\.\[ray\]'"):
        connection(config(slots={"ray": {"children": 2}}))


def test_the_terminal_tells_who_is_where_and_for_how_long() -> None:
    seconds = [3.2]
    console, page = screen(tty=True)
    view = terminal.Display(
        Budget(), console, terminal.Live(console=console), lambda: (Occupied("cuda:0/1", 7, seconds[0]),)
    ).view(Progress(Spent(), 0.0, None, (), (7, 8)))
    console.print(view)
    seconds[0] = 65.0
    console.print(view)
    assert "training: 7 on cuda:0/1 for 3 s, 8" in page.getvalue()
    assert "training: 7 on cuda:0/1 for 65 s, 8" in page.getvalue(), "a picture that is drawn again must be up to date"


def test_a_summary_shows_what_each_slot_did_and_what_is_in_training(tmp_path: Path) -> None:
    candidates = kin(4)[0]
    good = {"error": 0.1, "parameters": 5.0, "macs": 1.0}
    places = ["cpu:0", "cpu:1", "cpu:0"]
    recorded(tmp_path / "s", candidates, {n: Evaluation(n, "ok", good, slot=place) for n, place in enumerate(places)})
    text = summary(tmp_path / "s")
    assert "Slot cpu:0: 0 s, attempts 2" in text
    assert "Slot cpu:1: 0 s, attempts 1" in text
    assert "In training: 3 for 0 s" in text


def test_a_real_search_records_its_slots(prefect_server: None, home: Path) -> None:
    from flows.search import search

    search(config(budget={"candidates": 3}), home)
    with Ledger.read(home / "tiny") as ledger:
        slots = {e.slot for e in ledger.evaluations().values() if e.twin is None}
        assert slots <= {"cpu:0", "cpu:1"}
        assert {one.slot for one in ledger.occupancy()} == slots != set()
        assert all(one.seconds > 0 for one in ledger.occupancy())
        assert ledger.running() == []
