"""Configurations: what is read, what is refused, and that every preset is sound."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from evo import NSGA2, AgingEvolution
from flows.assembly import FREE, document, planned, trainer
from flows.config import PRESETS, SearchConfig, read, validated
from flows.home import BadInput, Home
from genomes.spaces.residual import ResidualSpace
from search import Budget, ConfigMismatch, Ledger, drive, records
from strategies import ASHA, SuccessiveHalving
from tests.doubles import ToyEvaluator, in_turn
from tests.flows.conftest import FAST, FEW, config


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(text, "utf-8")
    return file


@pytest.mark.parametrize("file", sorted(PRESETS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_preset_is_valid_and_survives_the_ledger(file: Path) -> None:
    preset = read(file)
    document = records.dump(preset.model_dump(mode="json"))
    assert SearchConfig.model_validate(yaml.safe_load(document)) == preset


def test_changes_replace_what_the_file_says_unless_they_are_none(tmp_path: Path) -> None:
    file = written(tmp_path, yaml.safe_dump({**FAST, "seed": 3}))
    assert read(file, name="other", seed=None).seed == 3
    assert read(file, name="other", seed=None).name == "other"
    assert read(file, seed=0).seed == 0


def test_facts_are_flat_and_hold_no_address() -> None:
    facts = config(tracking="http://127.0.0.1:5000").facts()
    assert facts["recipe.momentum"] == config().recipe.momentum
    assert not any(isinstance(value, dict) for value in facts.values())
    assert "127.0.0.1" not in str(facts)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("name: a\nx: " + "[" * 1000 + "]" * 1000, "recursion"),
        ("name: a\nseed: 2001-99-99", "month"),
        ("name: a\nseed: " + "9" * 5000, "4300"),
        ("name: a\n? {b: 1}\n: 2", "unhashable"),
        ("\x00", "YAML"),
        ("", "mapping"),
        ("base: &x [1]\nname: *x", "aliases"),
    ],
    ids=["deep", "no date", "long number", "mapping as key", "control", "empty", "alias"],
)
def test_whatever_yaml_chokes_on_is_one_line_that_names_the_file(text: str, word: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=word) as refused:
        read(written(tmp_path, text))
    assert "config.yaml" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_bytes_that_are_no_text_and_directories_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(b"name: \xff\xfe")
    for place in (file, tmp_path):
        with pytest.raises(BadInput, match="cannot be read"):
            read(place)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"timeout": float("inf")}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"budget": {"seconds": float("inf")}}, "budget.seconds"),
        ({"budget": {"seconds": float("nan")}}, "budget.seconds"),
        ({"budget": {"candidates": 0}}, "budget.candidates"),
        ({"budget": {"cpu_seconds": float("inf")}}, "budget.cpu_seconds"),
        ({"budget": {"dollars": 3}}, "budget.dollars_per_hour must be given with budget.dollars"),
        ({"strategy": {"ladder": {"rungs": [64, 256]}}}, "must be below the 256 examples of the full schedule"),
        ({"strategy": {"ladder": {"rungs": [64, 32]}}}, "strategy.ladder"),
        ({"strategy": {"ladder": {"rungs": []}}}, "rungs must be rising"),
        ({"strategy": {"ladder": {"kind": "hyperband"}}}, "strategy.ladder.kind"),
        ({"strategy": {"ladder": {"rung": [64]}}}, "the keys there are kind, rungs, reduction, promotion, bracket"),
        ({"slots": {"cpu": 0}}, "slots.cpu"),
        ({"name": "a\n"}, "name"),
        ({"founders": ["a.json"], "strategy": {"kind": "random"}}, "founders"),
        ({"founders": ["a.json"], "origin": {"model": "a.py:b"}}, "origin must be left out with founders"),
        ({"origin": {"model": "a.py:b"}, "strategy": {"kind": "random"}}, "origin must be left out with the random"),
        ({"origin": {"model": "a.py"}}, "origin.model"),
        ({"data": {"seed": 2**63}}, "data.seed"),
        ({"strategy": {"nsga2": {"founders": 10**30}}}, "1 to 10000 founders"),
        ({"strategy": {"aging": {"founders": 10_001}}}, "at most 10000"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_with_its_place(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(BadInput) as refused:
        validated({**FAST, **changes}, "here")
    assert "here: " in str(refused.value)
    assert place in str(refused.value)


@pytest.mark.parametrize("address", ["http://ann:s3cret@host:5000", "postgresql://host/db?password=s3cret"])
def test_a_password_is_refused_since_it_would_be_stored_and_is_not_repeated(address: str) -> None:
    with pytest.raises(BadInput, match="MLFLOW_TRACKING_PASSWORD") as refused:
        validated({**FAST, "tracking": address}, "here")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("proposing", ["nsga2", "aging", "random"])
@pytest.mark.parametrize(("kind", "wrapper"), [("asha", ASHA), ("halving", SuccessiveHalving)])
def test_a_ladder_wraps_any_strategy_and_promotes_by_its_objectives(
    kind: str, wrapper: type[ASHA | SuccessiveHalving], proposing: str, tmp_path: Path
) -> None:
    ladder = {"kind": kind, "rungs": [64, 128]}
    _, strategy, _ = planned(config(strategy={"kind": proposing, "ladder": ladder}), Home(tmp_path))
    assert isinstance(strategy, wrapper)
    assert strategy.ask(1)[0].fidelity.examples == 64
    assert [fidelity.examples for fidelity in strategy.ladder.fidelities] == [64, 128, 256]
    assert strategy.ladder.objectives == (("error",) if proposing == "aging" else ("error", "parameters"))


@pytest.mark.parametrize("kind", ["nsga2", "aging"])
def test_every_strategy_that_takes_founders_begins_with_them(kind: str, tmp_path: Path) -> None:
    genome = ResidualSpace((1, 8, 8), 10).member(6, [1])
    file = tmp_path / "genome.json"
    file.write_bytes(genome.to_json())
    _, strategy, _ = planned(config(founders=[str(file)], strategy={"kind": kind}), Home(tmp_path))
    assert strategy.ask(1)[0].genome == genome


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux confines a process to cores")
def test_there_are_as_many_slots_as_cores_that_may_be_used_unless_the_file_says_otherwise() -> None:
    allowed = os.sched_getaffinity(0)
    assert config().slots.cpu == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert config().slots.cpu == 1
        assert config().model_dump(mode="json")["slots"]["cpu"] == 1, "the ledger holds the number"
        assert config(slots={"cpu": 5}).slots.cpu == 5
    finally:
        os.sched_setaffinity(0, allowed)


def test_a_search_that_was_begun_with_fewer_settings_goes_on_and_what_differs_is_still_refused(tmp_path: Path) -> None:
    home, now = Home(tmp_path), config(recipe={"crop": 2})
    older = document(now, home)
    del older["recipe"]["erasing"], older["recipe"]["averaging"], older["retrain"]
    Ledger.create(home.search("tiny"), older, FREE).close()
    more = config(recipe={"crop": 2}, budget={"candidates": 99}, retrain={"top": 7})
    for _ in range(2):
        with Ledger.create(home.search("tiny"), document(more, home), FREE) as ledger:
            assert ledger.config["retrain"]["top"] == 7
            assert ledger.config["budget"]["candidates"] == 99
            assert validated(ledger.config, "tiny") == more
    for recipe in ({"crop": 3}, {"crop": 2, "erasing": 0.5}):
        with pytest.raises(ConfigMismatch, match="recipe is"):
            Ledger.create(home.search("tiny"), document(config(recipe=recipe), home), FREE)


def test_finalists_are_trained_as_children_are_but_longer_unless_it_says_otherwise() -> None:
    recipe, fidelity = config(recipe={"crop": 2}).full()
    assert (recipe.crop, fidelity.examples) == (2, 8 * FAST["fidelity"]["examples"])
    recipe, fidelity = config(retrain={"recipe": {"erasing": 0.5}, "fidelity": {"examples": 9}}).full()
    assert (recipe.erasing, recipe.crop, fidelity.examples) == (0.5, 1, 9)


@pytest.mark.parametrize("changes", [{"top": 0}, {"seeds": 101}, {"timeout": float("inf")}, {"epochs": 3}])
def test_a_setting_for_finalists_that_cannot_be_meant_is_refused_with_its_place(changes: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=f"here: retrain.{next(iter(changes))}"):
        validated({**FAST, "retrain": changes}, "here")


@pytest.mark.parametrize("kind", ["nsga2", "aging"])
def test_children_are_judged_as_the_configuration_says(kind: str, tmp_path: Path) -> None:
    _, strategy, _ = planned(config(strategy={"kind": kind, "judgement": "corrected"}), Home(tmp_path))
    assert isinstance(strategy, NSGA2 | AgingEvolution)
    assert strategy.judgement.kind == "corrected"


def test_what_people_change_often_is_changed_and_nothing_else() -> None:
    before = config(budget={"candidates": 7})
    after = before.changed(name="other", seed=3, seconds=60, slots="cpu:2")
    assert (after.name, after.seed, after.slots.cpu) == ("other", 3, 2)
    assert (after.budget.seconds, after.budget.candidates) == (60, 7)
    same = {"name": before.name, "seed": before.seed, "budget": before.budget, "slots": before.slots}
    assert after.model_copy(update=same) == before
    assert before.changed() is before


@pytest.mark.parametrize("change", [{"seconds": 0}, {"seconds": -1}, {"seed": -1}, {"name": "../x"}, {"slots": "gpu"}])
def test_a_change_that_cannot_be_meant_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        config().changed(**change)


@pytest.mark.parametrize("kind", ["nsga2", "aging", "random"])
def test_another_seed_is_another_search(kind: str, tmp_path: Path) -> None:
    (tmp_path / "genome.json").write_bytes(ResidualSpace((1, 8, 8), 10).member(6, [1]).to_json())
    founders, seen = [] if kind == "random" else [str(tmp_path / "genome.json")], []
    for seed in (0, 1):
        settings, home = config(seed=seed, founders=founders, strategy={**FEW, "kind": kind}), Home(tmp_path)
        prepared, strategy, _ = planned(settings, home)
        assert trainer(settings, home, prepared).seed == seed
        with Ledger.create(tmp_path / f"seed-{seed}", {}) as ledger:
            drive(strategy, in_turn(ToyEvaluator()), ledger, Budget(candidates=8))
            seen.append([candidate.genome.digest for candidate in ledger.candidates().values()])
    assert seen[0] != seen[1]
