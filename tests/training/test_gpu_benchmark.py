"""The benchmark of GPUs where there is none: its arithmetic, its refusal, and that its networks can be captured."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from flows.config import validated
from search import Fidelity
from tests.training.tape import pretending
from training import DataSpec, Recipe, captured, data
from training.loop import train
from training.sources import Labelled, Raw

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    module = importlib.import_module("gpu")
    monkeypatch.setattr(module, "PAGE", tmp_path / "gpu.md")
    return module


def refused(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu.py", *words])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu, "measured", lambda *_: pytest.fail("it must not pretend"))
    code = gpu.main()
    assert not gpu.PAGE.exists()
    assert isinstance(code, int)
    return code


@pytest.mark.parametrize("words", [(), ("--full",)])
def test_without_a_device_it_refuses_and_says_why(
    words: tuple[str, ...], gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(gpu, monkeypatch, *words) == 2
    said = capsys.readouterr()
    assert "must have a CUDA device" in said.err
    assert said.out == ""


def test_without_a_device_the_quick_run_of_all_benchmarks_goes_on_without_a_number(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(gpu, monkeypatch, "--quick") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(last.removeprefix("RESULT ")) == {"skipped": "no CUDA device"}


def test_ratios_are_geometric_means_within_rounds(gpu: ModuleType) -> None:
    rounds = [{"a": 8.0, "b": 2.0}, {"a": 9.0, "b": 9.0}]
    got = gpu.ratio(rounds, "a", "b")
    assert got.middle == pytest.approx(2.0)
    assert got.low * got.high == pytest.approx(4.0), "the interval is even on a logarithmic scale"
    assert got.low < 1 < got.high
    steady = gpu.geometric([3.0, 3.0, 3.0])
    assert (steady.low, steady.high) == (pytest.approx(3.0), pytest.approx(3.0))
    assert gpu.geometric([3.0]) == (pytest.approx(3.0), None, None)


def test_only_what_comes_after_the_start_up_is_scaled(gpu: ModuleType) -> None:
    timed = gpu.Timed(seconds=10.0, startup=4.0, errors=(0.1, 0.2, 0.3))
    assert gpu.a_minute(timed, 3) == pytest.approx(60 * 3 / 10)
    assert gpu.a_minute(timed, 6) == pytest.approx(60 * 6 / 16)


def found(gpu: ModuleType) -> dict[str, object]:
    timed = gpu.Timed
    one = {
        "project": timed(30.0, 10.0, (0.1,) * 64),
        "launched, batch 128": timed(50.0, 10.0, (0.1,) * 32),
        "conventional": timed(100.0, 0.0, (0.12,) * 8),
    }
    seconds = [{"graph": 1.0, "launched": 2.0}, {"graph": 1.0, "launched": 2.0}]
    errors = [{"graph": 0.10, "launched": 0.11}] * 2
    fast = [{"project": 90.0, "by hand": 100.0}] * 2
    return {"g1": [one, one], "g2": fast, "g3": {128: gpu.Gain(seconds, errors)}}


def test_the_page_says_what_was_met_and_what_was_not_run(gpu: ModuleType) -> None:
    page = "\n".join(gpu.page(found(gpu), gpu.QUICK, "here"))
    assert "| children a minute | 120 | 128.00 (128.00 to 128.00) | met |" in page
    assert "| times the rate without graphs in batches of 128 | 3.0 | 3.00 (3.00 to 3.00) | met |" in page
    assert "| images a second over those of the fast loop by hand | 0.8 | 0.90 (0.90 to 0.90) | met |" in page
    assert "| times the speed by a graph, batch 128 | 3.0 | 2.00 (2.00 to 2.00) | **missed** |" in page
    assert "| 128 | 1.00 | 2.00 | -1.00 |" in page
    assert "were not run" in page
    whole = {"gpu-large": {"minutes": 29.0, "test_error": 0.0455}, "gpu-small": {"minutes": 20.0, "test_error": 0.065}}
    lines = "\n".join(gpu.ended(whole))
    assert "| at most 1,000,000 parameters | 29.0 | 4.55 | 4.6 | met |" in lines
    assert "| at most 100,000 parameters | 20.0 | 6.50 | 6.0 | **missed** |" in lines


def test_what_is_measured_can_be_written_as_json(gpu: ModuleType) -> None:
    text = json.dumps(gpu.plain(found(gpu)), allow_nan=False)
    assert json.loads(text)["g1"][0]["project"]["a_minute"] == pytest.approx(128.0)


def test_the_made_up_images_are_the_same_each_time_and_split_as_defined(gpu: ModuleType) -> None:
    pictures, count = gpu.work.pictures, gpu.TRAIN + gpu.JUDGED + 2
    images, labels = pictures(100)
    assert torch.equal(images, pictures(100)[0])
    assert (images.shape, images.dtype) == ((100, *gpu.work.SHAPE), torch.uint8)
    assert set(labels.tolist()) == set(range(gpu.work.CLASSES))
    nothing = Labelled(torch.zeros(count, 1, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64))
    parts = data._split(Raw(nothing, None), DataSpec("x", None, 32, gpu.SHARE, 1e-6, 1e-6))
    assert (len(parts["train"].labels), len(parts["validation"].labels)) == (gpu.TRAIN, gpu.JUDGED)


@pytest.mark.parametrize("name", ["gpu-large", "gpu-small"])
def test_whole_searches_are_configured_as_a_search_can_be(name: str, gpu: ModuleType) -> None:
    config = validated(json.loads(json.dumps(gpu.configured(name))), name)
    assert config.slots.cuda is not None
    assert config.space.parameters == gpu.SEARCHES[name]["parameters"]
    assert config.retrain.fidelity is not None


def test_there_are_sixteen_different_networks(gpu: ModuleType) -> None:
    assert len({genome.digest for genome in gpu.GENOMES}) == 16


def test_the_fast_network_is_the_published_one_and_the_projects_trainer_captures_it(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = gpu.work.pictures(64, (3, 32, 32))
    network = gpu.work.fast_network(images)
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(1.97e6, rel=0.01)
    whitened = network[0](images.float() / 255)[:, :12].permute(1, 0, 2, 3).flatten(1)
    spread = torch.cov(whitened)
    torch.testing.assert_close(spread, torch.eye(12), atol=0.15, rtol=0)
    before = network[0].weight.clone()
    with pretending(monkeypatch) as tapes:
        monkeypatch.setattr(captured, "LEAST", 1)
        recipe = Recipe(**{**vars(gpu.work.FAST), "batch_size": 8})
        train(network, images, labels, recipe, Fidelity(8 * 5), torch.Generator().manual_seed(0), (0.5, 0.25))
    assert [tape.replays for tape in tapes] == [5 - captured.WARM]
    assert torch.equal(network[0].weight, before), "whitening is frozen"


def test_work_without_graphs_leaves_them_on_for_others(gpu: ModuleType) -> None:
    before = captured.LEAST
    with gpu.work.without_graphs():
        assert captured.LEAST > 10**9
    assert before == captured.LEAST
