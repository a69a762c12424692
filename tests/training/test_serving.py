"""What is served takes pixels and returns probabilities, and computes what the network computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from genomes import Genome
from tests.training.test_export import calling, messy, varied
from training import export, serving
from training.errors import ExportError
from training.loop import normalised
from training.network import build

NORMAL = (0.25, 0.5)


@pytest.mark.parametrize("make", [calling, varied])
def test_pixels_go_in_and_probabilities_come_out(make: Callable[[], Genome], tmp_path: Path) -> None:
    genome = make()
    weights = messy(genome, 3)
    assert serving.write(genome, weights, tmp_path / "model.onnx", NORMAL) < 1e-5
    network = build(genome, weights).eval()
    shape = (3, *(1, 8, 8)) if make is calling else (3, 2, 9, 9)
    images = np.random.default_rng(1).integers(0, 256, shape, "uint8")
    with torch.inference_mode():
        wanted = torch.softmax(network(normalised(torch.from_numpy(images), NORMAL)), 1).numpy()
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["probabilities"], {"images": images})
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert wanted.max(1).min() > 1.5 / wanted.shape[1]  # else anything would be near


def test_other_than_bytes_are_refused(tmp_path: Path) -> None:
    serving.write(calling(), messy(calling()), tmp_path / "model.onnx", NORMAL)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match="Unexpected input data type"):  # scaled to 0 to 1, it would be black
        session.run(None, {"images": np.zeros((1, 1, 8, 8), np.float32)})


def test_nothing_of_this_machine_is_in_the_file(tmp_path: Path) -> None:
    serving.write(calling(), messy(calling()), tmp_path / "model.onnx", NORMAL)
    assert str(Path(__file__).parent.parent.parent).encode() not in (tmp_path / "model.onnx").read_bytes()
    assert [item.name for item in onnx.load(tmp_path / "model.onnx").graph.input] == ["images"]


def test_a_file_that_computes_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, other = export.write_onnx, serving.Served(build(calling(), messy(calling(), 9)), *NORMAL).eval()
    monkeypatch.setattr(serving, "write_onnx", lambda file, _, *rest: write(file, other, *rest))
    with pytest.raises(ExportError, match="must reproduce the network"):
        serving.write(calling(), messy(calling()), tmp_path / "model.onnx", NORMAL)


@pytest.mark.parametrize("size", serving.PROBES)
def test_a_file_that_answers_no_number_to_a_batch_of_any_size_is_refused(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = serving.run_onnx
    broken = {str(size): torch.full((size, 1), torch.nan)}
    monkeypatch.setattr(serving, "run_onnx", lambda file, probes: run(file, probes) | broken)
    with pytest.raises(ExportError, match="differs by nan"):
        serving.write(calling(), messy(calling()), tmp_path / "model.onnx", NORMAL)
