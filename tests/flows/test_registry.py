"""MLflow's registry holds each champion once, whatever happens on the way, as files without pickle that answer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partialmethod
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from flows.assembly import DATA, RETRAIN, WEIGHTS
from flows.champions import registry
from flows.champions.champion import restore
from flows.home import Home
from genomes import load_genome
from search import Retrainings, WeightStore
from tests.flows.champions import held, promoted, tell, tracker
from training import Prepared, build
from training.loop import normalised

DEAD = "http://127.0.0.1:9"
STEPS = ("log_artifacts", "create_registered_model", "create_model_version", "set_registered_model_alias")
KINDS = {"", ".onnx", ".md", ".json", ".txt", ".yaml", ".py", ".safetensors"}  # of files


@pytest.fixture
def home(trained_home: Path, tmp_path: Path, written_once: None) -> Path:
    return Path(shutil.copytree(trained_home, tmp_path / "home"))


@pytest.fixture
def record(home: Path) -> Iterator[Retrainings]:
    with Retrainings.open(home / "tiny" / RETRAIN) as opened:
        yield opened


def downloaded(home: Path, to: Path) -> Path:
    """Returns the champion's files, got by the command that `morphogen champion` names."""
    mlflow = str(Path(sys.executable).parent / "mlflow")
    command = [mlflow, "artifacts", "download", "-u", "models:/tiny@champion", "-d", str(to)]
    subprocess.run(command, env={**os.environ, "MLFLOW_TRACKING_URI": Home(home).tracking_uri}, check=True)
    return to


def test_nothing_is_registered_before_there_is_a_champion(home: Path, record: Retrainings) -> None:
    tell(home, record)
    assert held(home) == ({}, {})
    assert list(MlflowClient(Home(home).tracking_uri).search_registered_models()) == []


def test_each_champion_is_one_version_and_the_aliases_follow(home: Path, record: Retrainings) -> None:
    first = promoted(home, record, 0).evaluation.weights
    for _ in range(2):
        tell(home, record)
        assert held(home) == ({first: "1"}, {"champion": "1"})
    second = promoted(home, record, 1).evaluation.weights
    for _ in range(2):
        tell(home, record)
        assert held(home) == ({first: "1", second: "2"}, {"champion": "2", "previous": "1"})
    restore(record)
    tell(home, record)
    assert held(home) == ({first: "1", second: "2"}, {"champion": "1", "previous": "2"})


def test_a_version_says_why_and_leads_to_the_run_of_its_training(home: Path, record: Retrainings) -> None:
    one = promoted(home, record, 0)
    tell(home, record)
    client = MlflowClient(Home(home).tracking_uri)
    version = client.get_model_version_by_alias("tiny", "champion")
    words = f"Champion: child {one.number}, seed 0 is promoted: the first one needs no comparison"
    assert version.tags["morphogen.decision"] == words
    assert version.description.startswith(words)
    run = client.get_run(version.run_id)
    assert run.data.tags["morphogen.retraining"] == one.key
    assert client.get_run(run.data.tags["mlflow.parentRunId"]).data.tags["morphogen.decision"] == words


@pytest.mark.parametrize("done", [True, False], ids=["after", "before"])
@pytest.mark.parametrize("step", STEPS)
def test_whoever_dies_on_the_way_makes_no_second_version(
    step: str, done: bool, home: Path, record: Retrainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, sender = promoted(home, record, 0), tracker(home)
    sender.retrained(record)
    right = getattr(MlflowClient, step)

    def dying(*given: Any, **named: Any) -> None:
        if done:
            right(*given, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
        patched.setattr(MlflowClient, step, dying)
        registry.register(sender, Home(home), record)
        pytest.fail("it must have died")
    tell(home, record)
    assert held(home) == ({one.evaluation.weights: "1"}, {"champion": "1"})


def test_a_dead_server_is_a_warning_and_the_next_one_is_told_of_all_champions(
    home: Path, record: Retrainings, caplog: pytest.LogCaptureFixture
) -> None:
    first = promoted(home, record, 0).evaluation.weights
    assert not registry.tell(tracker(home, DEAD), Home(home), record)
    assert "MLflow does not hold the champion" in caplog.text
    second = promoted(home, record, 1).evaluation.weights
    tell(home, record)
    assert held(home) == ({first: "1", second: "2"}, {"champion": "2", "previous": "1"})


def test_trainings_that_are_on_record_no_more_leave_mlflow_however_small_its_pages_are(
    home: Path, record: Retrainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = tracker(home)
    sender.retrained(record)
    assert len(sender.finalists()) == 2
    monkeypatch.setattr(MlflowClient, "search_runs", partialmethod(MlflowClient.search_runs, max_results=1))
    monkeypatch.setattr(Retrainings, "recorded", lambda _: {})
    sender.retrained(record)
    assert sender.finalists() == {}


def test_what_people_deleted_in_mlflow_is_made_anew(home: Path, record: Retrainings) -> None:
    first = promoted(home, record, 0).evaluation.weights
    tell(home, record)
    client = MlflowClient(Home(home).tracking_uri)
    client.delete_registered_model_alias("tiny", "champion")
    client.delete_model_version("tiny", "1")
    tell(home, record)
    versions, aliases = held(home)
    assert list(versions) == [first]
    assert aliases == {"champion": versions[str(first)]}


def test_a_model_of_somebody_else_is_left_alone(home: Path, record: Retrainings) -> None:
    client = MlflowClient(Home(home).tracking_uri)
    client.create_registered_model("tiny", description="mine")
    promoted(home, record, 0)
    tell(home, record)
    model = registry.found(tracker(home)).model
    assert model == f"tiny-{tracker(home).identity()[:8]}"
    assert client.get_model_version_by_alias(model, "champion").version in (1, "1")
    assert client.get_registered_model("tiny").description == "mine"
    assert list(client.search_model_versions("name = 'tiny'")) == []


def test_the_files_are_whole_without_pickle_and_answer_a_plain_script(
    home: Path, record: Retrainings, tmp_path: Path
) -> None:
    one = promoted(home, record, 0)
    tell(home, record)
    directory = downloaded(home, tmp_path / "files")
    files = {str(file.relative_to(directory)) for file in directory.rglob("*") if file.is_file()}
    assert files >= {"MLmodel", "model.onnx", "evidence.md", "evidence.json", "lineage.json", "input_example.json"}
    assert files >= {f"export/{name}" for name in ("genome.json", "network.py", "network.onnx", "weights.safetensors")}
    assert {Path(file).suffix for file in files} <= {
        "",
        ".onnx",
        ".md",
        ".json",
        ".txt",
        ".yaml",
        ".py",
        ".safetensors",
    }
    for file in files:
        assert (directory / file).read_bytes()[:1] != b"\x80", f"{file} must be no pickle"  # its first opcode
        assert (directory / file).read_bytes()[:2] != b"PK", f"{file} must be no archive, as torch.save makes"
    assert "pickle" not in (directory / "MLmodel").read_text()
    evidence = json.loads((directory / "evidence.json").read_text())
    assert evidence["weights"] == one.evaluation.weights
    assert evidence["challenger"]["errors"] == [one.evaluation.objectives["second_validation_error"]]
    lineage = json.loads((directory / "lineage.json").read_text())
    assert (lineage[0]["parents"], lineage[-1]["number"]) == ([], one.number)
    assert all(member["parents"][0] == before["number"] for before, member in pairwise(lineage))
    genome = load_genome((directory / "export" / "genome.json").read_bytes())
    assert lineage[-1]["genome"] == genome.digest
    assert load_file(directory / "export" / "weights.safetensors")
    script = (
        "import json, numpy, onnxruntime, sys\n"
        "session = onnxruntime.InferenceSession('model.onnx')\n"
        "images = numpy.array(json.load(open('input_example.json'))['images'], 'uint8')\n"
        "(found,) = session.run(['probabilities'], {'images': numpy.repeat(images, 3, 0)})\n"
        "print(json.dumps(found.tolist()))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=directory, capture_output=True, text=True, check=True
    )
    found = np.array(json.loads(ended.stdout))
    assert found.shape == (3, 10)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    normal = Prepared.at(home / "tiny" / DATA).normal
    assert f"\nMEAN = {normal[0]!r}\nSTD = {normal[1]!r}\n" in (directory / "export" / "network.py").read_text()
    pixels = json.loads((directory / "input_example.json").read_text())["images"]
    network = build(*WeightStore(home / "tiny" / RETRAIN / WEIGHTS).get(one.evaluation.weights or "")).eval()
    wanted = torch.softmax(network(normalised(torch.tensor(pixels, dtype=torch.uint8), normal)), 1)
    np.testing.assert_allclose(found[:1], wanted.detach().numpy(), atol=1e-5)
