"""Configurations: what is read, what is refused, and that every preset is sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from evo import NSGA2, AgingEvolution
from flows.assembly import planned
from flows.config import PRESETS, SearchConfig, read, validated
from flows.home import BadInput, Home
from genomes.spaces.residual import ResidualSpace
from search import records
from tests.flows.conftest import FAST, config


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
        ("name: a\nx: " + "[" * 5000 + "]" * 5000, "recursion"),
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
        ({"slots": {"cpu": 0}}, "slots.cpu"),
        ({"name": "a\n"}, "name"),
        ({"founders": ["a.json"], "strategy": {"kind": "random"}}, "founders"),
        ({"founders": ["a.json"], "origin": {"model": "a.py:b"}}, "origin must be left out with founders"),
        ({"origin": {"model": "a.py:b"}, "strategy": {"kind": "random"}}, "origin must be left out with the random"),
        ({"origin": {"model": "a.py"}}, "origin.model"),
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


@pytest.mark.parametrize("kind", ["nsga2", "aging"])
def test_every_strategy_that_takes_founders_begins_with_them(kind: str, tmp_path: Path) -> None:
    genome = ResidualSpace((1, 8, 8), 10).member(6, [1])
    file = tmp_path / "genome.json"
    file.write_bytes(genome.to_json())
    _, strategy, _ = planned(config(founders=[str(file)], strategy={"kind": kind}), Home(tmp_path))
    assert strategy.ask(1)[0].genome == genome


@pytest.mark.parametrize("kind", ["nsga2", "aging"])
def test_children_are_judged_as_the_configuration_says(kind: str, tmp_path: Path) -> None:
    _, strategy, _ = planned(config(strategy={"kind": kind, "judgement": "corrected"}), Home(tmp_path))
    assert isinstance(strategy, NSGA2 | AgingEvolution)
    assert strategy.population.judgement.kind == "corrected"
