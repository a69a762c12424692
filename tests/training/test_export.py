from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from genomes import Genome, Module, cost, expand, load_genome
from genomes import operations as ops
from genomes.spaces.residual import ResidualSpace
from morphism.certificate import relative_error
from morphism.interpreter import run
from tests.drawing import messy_weights
from tests.training.test_source import zoo
from training import export as exporting
from training import reload
from training.errors import BuildError, ExportError
from training.export import Exported, export, fold
from training.network import build
from training.source import Source, source

FILES = {"weights.safetensors", "genome.json", "network.py", "network.onnx", "README.md"}
NORMAL: dict[str, Any] = {"mean": 0.25, "std": 0.5, "classes": 10}


def messy(genome: Genome, seed: int = 0) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in messy_weights(genome, seed).items()}


def calling() -> Genome:
    """Returns a starter that calls a module twice."""
    return ResidualSpace((1, 8, 8), 10).starters()[-1]


def varied() -> Genome:
    """Returns a genome of what torch's ONNX exporter has to translate and the starters lack."""
    nodes: dict[str, ops.Operation] = {
        "image": ops.Input(0, (2, 9, 9)), "conv": ops.Conv(8, 3, 2, 2, 2, 2, bias=True), "gelu": ops.GELU(),
        "pool": ops.GlobalPool(), "squash": ops.Sigmoid(), "mul": ops.Mul(), "silu": ops.SiLU(), "scale": ops.Scale(),
        "avg": ops.AvgPool(3, 1, 1), "max": ops.MaxPool(3, 1, 1), "mean": ops.Mean(), "concat": ops.Concat(),
        "drop": ops.Dropout(0.5), "flatten": ops.Flatten(), "norm": ops.BatchNorm(1e-3), "linear": ops.Linear(10),
        "logits": ops.Output(),
    }  # fmt: skip
    edges: list[tuple[str, str] | tuple[str, str, int]] = [
        ("image", "conv"), ("conv", "gelu"), ("gelu", "pool"), ("pool", "squash"), ("gelu", "mul", 0),
        ("squash", "mul", 1), ("mul", "silu"), ("silu", "scale"), ("scale", "avg"), ("scale", "max"),
        ("avg", "mean", 0), ("max", "mean", 1), ("mean", "concat", 0), ("scale", "concat", 1),
        ("concat", "drop"), ("drop", "flatten"), ("flatten", "norm"), ("norm", "linear"), ("linear", "logits"),
    ]  # fmt: skip
    return Genome.of({"net": Module.of(nodes, edges)})


def left(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves ONNX out, which takes seconds."""

    monkeypatch.setattr(exporting, "write_onnx", lambda *_: None)
    monkeypatch.setattr(reload, "run_onnx", lambda _, probes: {size: torch.zeros(1) for size in probes})
    monkeypatch.setattr(reload, "ONNX_TOLERANCE", float("inf"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Returns an export into a directory whose parents did not exist."""
    genome = calling()
    directory = tmp_path_factory.mktemp("export") / "new" / "network"
    return export(genome, messy(genome), directory, **NORMAL, error=0.0831)


def test_an_export_holds_its_files_and_nothing_else(exported: Exported) -> None:
    assert {file.name for file in exported.directory.iterdir()} == FILES
    paths = {value for value in dataclasses.astuple(exported) if isinstance(value, Path)}
    assert paths == {exported.directory, *(exported.directory / name for name in FILES)}
    assert left(exported.directory.parent.parent) == [
        "new",
        "new/network",
        *sorted(f"new/network/{name}" for name in FILES),
    ]


def test_source_and_onnx_are_measured_to_compute_the_same(exported: Exported) -> None:
    assert 0 <= exported.source_error <= 1e-5
    assert 0 < exported.onnx_error <= 1e-4


def test_the_genome_comes_back(exported: Exported) -> None:
    assert load_genome(exported.genome.read_bytes()) == calling()


def test_the_weights_come_back_bit_for_bit(exported: Exported) -> None:
    keys = source(calling(), 0.25, 0.5, "weights.safetensors").keys
    with safe_open(exported.weights, "pt") as file:
        for name, tensor in messy(calling()).items():
            assert torch.equal(file.get_tensor(keys[name]), tensor), name


def test_the_readme_says_how_to_use_the_network(exported: Exported) -> None:
    text = exported.readme.read_text()
    for part in (
        "[N, 1, 8, 8]",
        "mean 0.25 and std 0.5",
        "8.31 %",
        f"| {cost(calling()).parameters:,} |",
        "from network import load",
        "onnxruntime",
    ):
        assert part in text
    assert f"{exported.onnx_error:.1e} for ONNX" in text


def test_onnx_keeps_the_batch_free_and_no_path_of_this_machine(exported: Exported) -> None:
    model = onnx.load(exported.onnx)
    assert model.graph.input[0].name == "images"
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert b".py" not in exported.onnx.read_bytes()


def test_the_code_of_the_readme_runs_where_the_export_lies(exported: Exported) -> None:
    first = exported.readme.read_text().split("```python\n")[1].split("```")[0]
    program = f"import torch\nimages = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)\n{first}\nprint(list(logits.shape))"
    ended = subprocess.run(
        [sys.executable, "-B", "-c", program], cwd=exported.directory, capture_output=True, text=True, check=False
    )
    assert ended.stdout == "[2, 10]\n", ended.stderr


def test_every_operation_survives_onnx(tmp_path: Path) -> None:
    genome = zoo()
    made = export(genome, messy(genome), tmp_path / "zoo", mean=0.25, std=0.5, classes=5)
    assert made.source_error <= 1e-5
    assert 0 < made.onnx_error <= 1e-4
    assert "| error | not given |" in made.readme.read_text()


@pytest.mark.usefixtures("quick")
def test_weights_in_double_precision_are_exported_in_single(tmp_path: Path) -> None:
    genome = varied()
    doubles = messy_weights(genome, 0)
    made = export(genome, doubles, tmp_path, **NORMAL)  # empty, so not in use
    with safe_open(made.weights, "pt") as file:
        assert file.get_tensor("linear.weight").dtype == torch.float32
    assert all(tensor.dtype == torch.float64 for tensor in doubles.values())


def sabotaged(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    def wrong(*arguments: Any) -> Source:
        made = source(*arguments)
        assert old in made.text
        return Source(made.text.replace(old, new, 1), made.keys)

    monkeypatch.setattr(exporting, "source", wrong)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("F.relu(batch_norm_2)", "F.gelu(batch_norm_2)", "reproduce the network to 1e-05, but differs by"),
        ("conv_1(image)", "conv_1(pixels)", "by itself: NameError: name 'pixels' is not defined"),
        ("from torch import", "import genomes\nfrom torch import", r"imports \['genomes'\] of Morphogen"),
        ("nn.Linear(", "nn.Linear(3 + ", "by itself"),
    ],
)
def test_a_wrong_source_is_refused_and_leaves_nothing(
    old: str, new: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotaged(monkeypatch, old, new)
    with pytest.raises(ExportError, match=reason):
        export(calling(), messy(calling()), tmp_path / "a" / "b", **NORMAL)
    assert left(tmp_path) == []


def test_a_wrong_onnx_file_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genome = calling()
    other = build(genome, messy(genome, seed=1)).eval()
    write = exporting.write_onnx
    monkeypatch.setattr(exporting, "write_onnx", lambda file, _, shape: write(file, other, shape))
    with pytest.raises(ExportError, match="the ONNX file must reproduce the network to 1e-04, but differs by"):
        export(genome, messy(genome), tmp_path / "network", **NORMAL)
    assert left(tmp_path) == []


@pytest.mark.usefixtures("quick")
def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    weights = {name: tensor * float("nan") for name, tensor in messy(calling()).items()}
    with pytest.raises(ExportError, match="differs by nan"):
        export(calling(), weights, tmp_path / "network", **NORMAL)
    assert left(tmp_path) == []


def test_a_directory_in_use_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(ExportError, match="must be new or an empty directory: choose another"):
        export(calling(), messy(calling()), tmp_path, **NORMAL)
    with pytest.raises(ExportError, match="must be new or an empty directory"):
        export(calling(), messy(calling()), tmp_path / "mine", **NORMAL)
    assert (tmp_path / "mine").read_text() == "kept"


@pytest.mark.usefixtures("quick")
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ExportError, match=r"network must be a directory that can be written, with room: .*No space"):
        export(calling(), messy(calling()), tmp_path / "network", **NORMAL)
    assert left(tmp_path) == []


def test_a_file_among_the_parents_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "write_onnx", lambda *_: None)
    monkeypatch.setattr(reload, "errors", lambda *_: (0.0, 0.0))
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="must be a directory that can be written"):
        export(calling(), messy(calling()), tmp_path / "file" / "network", **NORMAL)
    assert left(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"std": 0.0}, "std above 0"),
        ({"mean": float("nan")}, "mean must be finite"),
        ({"classes": 7}, r"must return logits \[7\], got \[10\]"),
    ],
)
def test_numbers_without_a_sense_are_refused(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=reason):
        export(calling(), messy(calling()), tmp_path / "network", **{**NORMAL, **change})
    assert left(tmp_path) == []


def test_weights_of_another_genome_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError):
        export(calling(), messy(varied()), tmp_path / "network", **NORMAL)
    assert left(tmp_path) == []


def test_the_relative_error_is_that_of_the_largest_output() -> None:
    assert reload.relative(torch.tensor([1.0, 4.5]), torch.tensor([1.0, 4.0])) == 0.125
    assert reload.relative(torch.zeros(2), torch.zeros(2)) == 0


def test_a_folded_network_has_no_norm_behind_a_layer_and_computes_the_same(tmp_path: Path) -> None:
    genome = calling()
    weights = messy(genome)
    folded, state, count = fold(genome, weights)
    norms = [p for p in expand(genome).primitives.values() if isinstance(p.operation, ops.BatchNorm)]
    assert not any(isinstance(p.operation, ops.BatchNorm) for p in expand(folded).primitives.values())
    assert count == len(norms) > 0
    images = torch.randn(16, *expand(genome).shape(genome["net"].inputs[0]), generator=torch.Generator().manual_seed(1))
    assert relative_error(run(genome, weights, images), run(folded, state, images)) <= 1e-5
    made = export(folded, state, tmp_path / "folded", **NORMAL, folded=count)
    assert made.source_error <= 1e-5
    assert f"{count} batch norms are folded" in made.readme.read_text()
