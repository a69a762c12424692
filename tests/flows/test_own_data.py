"""One's own images, from a function and from a folder, and each kind of strategy, end to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.assembly import DATA
from genomes.spaces.residual import ResidualSpace
from search import ConfigMismatch, Ledger
from tests.flows.conftest import FEW, config
from tests.flows.pictures import stripes
from training import DataSpec, prepare


def searched(home: Path, **changes: object) -> Ledger:
    from flows.search import search

    search(config(budget={"candidates": 6}, **changes), home)
    return Ledger.read(home / "tiny")


def test_a_function_of_ones_own_can_be_searched(prefect_server: None, home: Path) -> None:
    with searched(home, data={"name": "tests.flows.pictures:stripes"}, fidelity={"examples": 4000}) as ledger:
        evaluations = ledger.evaluations()
        shape = ledger.candidate(0).genome["net"].operations["image"].out_shape(())
    assert shape == (3, 10, 10)
    assert all(evaluation.ok for evaluation in evaluations.values())
    assert min(evaluation.objectives["error"] for evaluation in evaluations.values()) < 0.2


def test_a_folder_of_images_can_be_searched(prefect_server: None, home: Path, tmp_path: Path) -> None:
    from torchvision.transforms.functional import to_pil_image

    images, labels = stripes()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = tmp_path / "pictures" / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        to_pil_image(image.transpose(1, 2, 0)).save(folder / f"{number}.png")
    data = {"name": "image_folder", "root": str(tmp_path / "pictures"), "size": 12}
    with searched(home, data=data) as ledger:
        evaluations = ledger.evaluations()
    assert len(evaluations) == 6
    assert all(evaluation.ok for evaluation in evaluations.values())


@pytest.mark.parametrize("kind", ["aging", "random"])
def test_each_strategy_can_be_chosen(kind: str, prefect_server: None, home: Path) -> None:
    with searched(home, strategy={**FEW, "kind": kind}) as ledger:
        candidates, evaluations = ledger.candidates(), ledger.evaluations()
    assert all(evaluation.ok for evaluation in evaluations.values())
    assert any(candidate.parents for candidate in candidates.values()) == (kind == "aging")


def test_a_search_keeps_its_data_and_founders(prefect_server: None, home: Path, tmp_path: Path) -> None:
    from flows.search import search

    file = tmp_path / "founder.json"
    file.write_bytes(ResidualSpace((1, 8, 8), 10).member(6, [1]).to_json())
    begun = config(budget={"candidates": 2}, founders=[str(file)])
    search(begun, home)
    file.unlink()
    for copy in (home / "data").iterdir():
        copy.unlink()
    search(config(budget={"candidates": 4}, founders=[str(file)]), home)
    with Ledger.read(home / "tiny") as ledger:
        assert [evaluation.ok for evaluation in ledger.evaluations().values()] == [True] * 4
    assert not list((home / "data").glob("*.safetensors"))
    other = prepare(DataSpec("digits", seed=1), home / "data")
    other.file.replace(home / "tiny" / DATA)
    with pytest.raises(ConfigMismatch, match=r"the data in .* must be what search tiny began with"):
        search(config(budget={"candidates": 5}, founders=[str(file)]), home)
