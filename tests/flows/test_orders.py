"""An order holds all that another machine needs, and is fulfilled there as it would be here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows import assembly
from flows.cluster.depot import Depot
from flows.cluster.orders import Order, fulfilled, settled
from flows.home import BadInput, Home
from search import Candidate, Evaluation, Ledger, WeightStore, sha256
from tests.flows.conftest import config
from tests.flows.families import kin
from training.slots import Slot

HERE = Slot("cpu:here/1")


def begun(home: Path, **slots: Any) -> tuple[Any, Any]:
    """A search's configuration and its evaluator on this machine, with the files that a search begins with."""
    place = Home(home)
    place.make()
    settings = settled(config(slots={"ray": {"children": 2, **slots}}, fidelity={"examples": 64}))
    prepared, _, _ = assembly.planned(settings, place)
    place.search("tiny").mkdir()
    kept = assembly.keep(settings, place, prepared)
    return settings, assembly.trainer(settings, place, kept)


def founder(home: Path) -> Candidate:
    settings = config(fidelity={"examples": 64})
    _, strategy, _ = assembly.planned(settings, Home(home))
    (candidate,) = strategy.ask(1)
    return candidate


def comparable(evaluation: Evaluation) -> Evaluation:
    """Without what differs from run to run: where it was, and its seconds."""
    cost = {name: value for name, value in evaluation.cost.items() if "seconds" not in name}
    return replace(evaluation, cost=cost, slot=None)


def test_what_was_ordered_is_read_back_equal() -> None:
    candidates, evaluations = kin(4)
    order = Order(config(), Path("/searches"), "a" * 64, "b" * 64, candidates[3], {0: evaluations[0]})
    text = order.to_json()
    assert Order.from_json(text) == order
    handed = replace(order, parents={}, heir=evaluations[1])
    assert Order.from_json(handed.to_json()) == handed
    assert isinstance(json.loads(text), dict)


def test_an_order_names_the_weights_that_training_may_begin_with() -> None:
    first, second = (Evaluation(number, "ok", weights=str(number) * 64) for number in (1, 2))
    order = Order(config(), Path(), None, "f" * 64, kin(1)[0][0], {1: first, 2: second})
    assert order.weights == {"1" * 64, "2" * 64}
    assert replace(order, parents={}).weights == {"f" * 64}
    assert replace(order, parents={}, heir=first).weights == {"1" * 64}
    assert replace(order, parents={}, origin=None).weights == set()


def test_another_machine_that_sees_the_directory_gets_the_same_result(tmp_path: Path) -> None:
    home = tmp_path / "searches"
    settings, evaluator = begun(home)
    candidate = founder(home)
    there = fulfilled(Order.from_json(Order(settings, home, None, None, candidate, {}).to_json()), HERE)
    assert there.ok
    assert there.slot == "cpu:here/1"
    evaluator.clear({candidate.number})
    assert comparable(evaluator(candidate, {})) == comparable(there)


def test_what_landed_before_a_node_was_lost_is_taken_and_not_trained_again(tmp_path: Path) -> None:
    home = tmp_path / "searches"
    settings, _ = begun(home)
    order = Order(settings, home, None, None, founder(home), {})
    first = fulfilled(order, HERE)
    again = fulfilled(order, Slot("cpu:elsewhere/1"))
    assert again == replace(first, slot=None)  # it took no slot


def test_another_machine_that_does_not_see_the_directory_says_what_it_should_see(tmp_path: Path) -> None:
    order = Order(config(slots={"ray": {"children": 1}}), tmp_path / "elsewhere", None, None, founder(tmp_path), {})
    with pytest.raises(BadInput, match=r"--home must be a directory that all nodes .* share, under one path, or slots"):
        fulfilled(order, HERE)


def test_through_a_depot_another_machine_needs_nothing_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, bucket = tmp_path / "searches", tmp_path / "bucket"
    settings, evaluator = begun(home, store=bucket.as_uri())
    parent = evaluator(founder(home), {})
    child = Candidate(1, founder(home).genome, (0,), (), founder(home).fidelity)
    data = sha256(evaluator.prepared.file)
    Depot(bucket.as_uri()).put(data, evaluator.prepared.file)
    Depot(bucket.as_uri()).put(parent.weights or "", evaluator.store.path(parent.weights or ""))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    there = fulfilled(Order(settings, Path("/nowhere"), data, None, child, {0: parent}), HERE)
    assert there.ok
    WeightStore(bucket).get(there.weights or "")
    assert comparable(evaluator(child, {0: parent})) == comparable(there)
    assert not Path("/nowhere").exists()


def test_an_heir_goes_on_from_its_predecessor_on_another_machine_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, bucket = tmp_path / "searches", tmp_path / "bucket"
    settings, evaluator = begun(home, store=bucket.as_uri())
    candidate = founder(home)
    before = evaluator(candidate, {})
    evaluator.clear({candidate.number})
    evaluator = replace(evaluator, heirs={candidate.genome.digest: before})
    data = sha256(evaluator.prepared.file)
    Depot(bucket.as_uri()).put(data, evaluator.prepared.file)
    Depot(bucket.as_uri()).put(before.weights or "", evaluator.store.path(before.weights or ""))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    there = fulfilled(Order(settings, Path("/nowhere"), data, None, candidate, {}, before), HERE)
    assert there.cost["lineage_examples"] == 2 * before.cost["examples"]
    assert comparable(evaluator(candidate, {})) == comparable(there)


def test_a_depot_that_lacks_something_is_a_failure_that_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings, evaluator = begun(tmp_path / "searches", store=(tmp_path / "bucket").as_uri())
    order = Order(settings, tmp_path, sha256(evaluator.prepared.file), None, founder(tmp_path / "searches"), {})
    failed = fulfilled(order, HERE)
    assert failed.status == "io_error"
    assert "bucket must be in reach of" in failed.reason


def test_a_recipe_means_the_same_on_all_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.loop.fast_bfloat16", lambda _: True)
    auto = {"recipe": {"precision": "auto"}}
    assert settled(config(slots={"ray": {"children": 1}}, **auto)).recipe.precision == "bfloat16"
    assert settled(config(slots={"cpu": 1}, **auto)).recipe.precision == "auto"
    assert settled(config(slots={"ray": {"children": 1, "gpus": 0.5}}, **auto)).recipe.precision == "auto"


def test_a_search_that_was_on_a_cluster_is_retrained_on_this_machine(tmp_path: Path) -> None:
    settings, _ = begun(tmp_path)
    slots = assembly.retrainer(settings, Home(tmp_path)).pool.slots
    assert {slot.name.split("/")[0] for slot in slots} <= {f"cpu:{number}" for number in range(256)}
    with Ledger.create(tmp_path / "tiny", assembly.document(settings, Home(tmp_path)), assembly.FREE) as ledger:
        assert ledger.config["slots"]["ray"]["children"] == 2
