from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from genomes import Genome, InvalidGenome, Module, check, expand
from genomes import operations as ops
from genomes.spaces.residual import ResidualSpace
from morphism.interpreter import run
from tests.drawing import messy_weights, seeded_genome
from training.source import RESERVED, batched, names, source

IMAGES = (3, 12, 12)
# loads each folder's network.py and weights, and writes its outputs; imports what a user without Morphogen has
RUN = """
import importlib.util, sys, torch
from pathlib import Path
from safetensors.torch import load_file, save_file
for folder in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location("network", Path(folder, "network.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = module.load().double()
    with torch.inference_mode():
        save_file({"logits": network(load_file(Path(folder, "images"))["images"])}, Path(folder, "logits"))
    Path(folder, "keys").write_text("\\n".join(sorted(network.state_dict())))
assert not {"genomes", "morphism", "training"} & set(sys.modules)
"""


def chained(*operations: ops.Operation, start: ops.Input | None = None, prefix: str = "n") -> Module:
    ids = ["x", *(f"{prefix}{k}" for k in range(len(operations))), "y"]
    nodes = dict(zip(ids, [start or ops.Input(), *operations, ops.Output()], strict=True))
    return Module.of(nodes, list(pairwise(ids)))


def zoo() -> Genome:
    """Returns a genome with every kind of operation, and modules called with the same and with other shapes."""
    gate = Module.of(
        {"a": ops.Input(0), "b": ops.Input(1), "pool": ops.GlobalPool(), "squash": ops.Sigmoid(),
        "mul": ops.Mul(), "y": ops.Output()},
        [("b", "pool"), ("pool", "squash"), ("a", "mul", 0), ("squash", "mul", 1), ("mul", "y")],
    )  # fmt: skip
    block = chained(ops.Conv.same(8, 3, groups=2, bias=True), ops.BatchNorm(1e-3), ops.GELU(), ops.Scale())
    outer = chained(ops.Call("block"), ops.Identity(), ops.Call("block"), ops.Dropout(0.25))
    net = {
        "image": ops.Input(0, IMAGES), "stem": ops.Conv(8, 3, 2, 2, 2), "norm": ops.BatchNorm(), "relu": ops.ReLU(),
        "first": ops.Call("outer"), "second": ops.Call("block"), "gated": ops.Call("gate"), "silu": ops.SiLU(),
        "max": ops.MaxPool(3, 1, 1), "avg": ops.AvgPool(3, 1, 1), "add": ops.Add(), "mean": ops.Mean(),
        "concat": ops.Concat(),
        "group": ops.GroupNorm(4, 1e-4), "layer": ops.LayerNorm(1e-6), "place": ops.Position(), "relu6": ops.ReLU6(),
        "swish": ops.Hardswish(), "hard": ops.Hardsigmoid(), "slopes": ops.PReLU(),
        "blend": ops.Blend("gelu", "identity"),
        "shuffle": ops.ChannelShuffle(4), "left": ops.Slice(0, 8), "right": ops.Slice(8, 16), "gate": ops.Gate(),
        "tokens": ops.ClassToken(), "heads": ops.Attention(2), "selected": ops.Select(3), "mixed": ops.Mul(),
        "spread": ops.Mul(),
        "wide": ops.Conv.same(8, 1), "deep": ops.Conv.same(8, 3, groups=8), "wider": ops.Call("outer"),
        "halved": ops.MaxPool(3, 2, ceil=True), "averaged": ops.AvgPool(2, 1, 1, ceil=True),
        "small": ops.Call("block"), "global": ops.GlobalPool(), "flatten": ops.Flatten(), "scale": ops.Scale(),
        "vector_norm": ops.BatchNorm(), "vector_layer": ops.LayerNorm(), "hidden": ops.Linear(6, bias=False),
        "twice": ops.Mul(),
        "linear": ops.Linear(5), "y": ops.Output(),
    }  # fmt: skip
    edges: list[tuple[str, str] | tuple[str, str, int]] = [
        ("image", "stem"), ("stem", "norm"), ("norm", "relu"), ("relu", "first"), ("relu", "second"),
        ("first", "gated", 0), ("second", "gated", 1), ("gated", "silu"), ("silu", "max"), ("silu", "avg"),
        ("max", "add", 0), ("avg", "add", 1), ("silu", "add", 2), ("add", "mean", 0), ("relu", "mean", 1),
        ("mean", "concat", 0),
        ("stem", "concat", 1), ("concat", "group"), ("group", "layer"), ("layer", "place"), ("place", "relu6"),
        ("place", "swish"), ("relu6", "gate", 0), ("swish", "gate", 1), ("gate", "hard"), ("gate", "slopes"),
        ("hard", "mixed", 0), ("slopes", "mixed", 1), ("mixed", "blend"), ("blend", "shuffle"), ("shuffle", "left"),
        ("shuffle", "right"), ("right", "tokens"), ("left", "heads", 0), ("tokens", "heads", 1), ("tokens", "heads", 2),
        ("heads", "selected"), ("heads", "spread", 0), ("selected", "spread", 1), ("spread", "wide"),
        ("wide", "deep"), ("deep", "wider"), ("wider", "halved"),
        ("halved", "averaged"), ("averaged", "small"),
        ("small", "global"), ("global", "flatten"), ("flatten", "scale"), ("scale", "vector_norm"),
        ("vector_norm", "vector_layer"), ("vector_layer", "hidden"),
        ("hidden", "twice", 0), ("hidden", "twice", 1), ("twice", "linear"), ("linear", "y"),
    ]  # fmt: skip
    return Genome.of({"net": Module.of(net, edges), "gate": gate, "block": block, "outer": outer})


def hostile() -> Genome:
    """Returns a genome whose names mean something in Python, in torch or in the source itself, or are very long."""
    long = "a" * 48
    modules = {
        "none": chained(ops.Conv.same(3, 1), prefix="class"),
        "network": chained(ops.Call("none"), prefix="forward"),
        "scale": chained(ops.Scale(), prefix="torch"),
        "tensor": chained(ops.Call("scale"), ops.Call("network")),
        "value_error": chained(ops.Dropout()),
        "b" * 48: chained(ops.Conv(3, 5, 2, 2, 2, 3), ops.MaxPool(3, 1, 1)),
    }
    nodes: dict[str, ops.Operation] = {
        "self": ops.Input(0, IMAGES), "class": ops.Call("none"), "forward": ops.Call("network"),
        "train": ops.Call("tensor"),
        "train1": ops.Call("value_error"), "torch": ops.Conv.same(3, 3), "half": ops.ReLU(),
        f"{long[:-2]}_1": ops.Call("b" * 48),
        long: ops.AvgPool(3, 1, 1), f"{long[:-1]}c": ops.Concat(), f"{long[:-1]}d": ops.Add(),
        f"{long[:-1]}e": ops.Mean(),
        f"{long[:-1]}f": ops.Mul(), f"{long[:-1]}g": ops.BatchNorm(), "lambda": ops.GlobalPool(), "nn": ops.Flatten(),
        "import": ops.Linear(4), "return": ops.Output(),
    }  # fmt: skip
    line = ["self", "class", "forward", "train", "train1", "torch", "half", f"{long[:-2]}_1", long]
    after = [f"{long[:-1]}c", f"{long[:-1]}g", "lambda", "nn", "import", "return"]
    joins = [f"{long[:-1]}d", f"{long[:-1]}e", f"{long[:-1]}f"]
    edges: list[tuple[str, str, int]] = [
        *((a, b, 0) for a, b in pairwise(line)),
        *((a, b, 0) for a, b in pairwise(after)),
        *((long, join, 0) for join in joins),
        *((f"{long[:-2]}_1", join, port) for join in joins for port in (1, 2)),
        *((join, f"{long[:-1]}c", port) for port, join in enumerate(joins)),
    ]
    return Genome.of({"net": Module.of(nodes, edges), **modules})


def messy(genome: Genome, seed: int) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in messy_weights(genome, seed).items()}


def corpus() -> dict[str, Genome]:
    starters = {f"starter_{k}": genome for k, genome in enumerate(ResidualSpace((1, 8, 8), 10).starters())}
    return {"zoo": zoo(), "hostile": hostile(), **starters, **{f"drawn_{k}": seeded_genome(k) for k in range(30)}}


def written(genome: Genome, folder: Path, weights: Mapping[str, Tensor]) -> str:
    made = source(genome, 0.25, 0.5, "weights.safetensors")
    folder.mkdir()
    (folder / "network.py").write_text(made.text)
    tensors = {made.keys[name]: tensor for name, tensor in weights.items()}
    norms = [key.removesuffix("running_mean") for key in tensors if key.endswith("running_mean")]
    save_file(
        {**tensors, **{f"{norm}num_batches_tracked": torch.tensor(0) for norm in norms}}, folder / "weights.safetensors"
    )
    return made.text


@pytest.fixture(scope="module")
def genomes() -> dict[str, Genome]:
    return corpus()


@pytest.fixture(scope="module")
def folder(genomes: dict[str, Genome], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with one folder a genome: its source, weights, probes, and the outputs of the source."""
    folder = tmp_path_factory.mktemp("sources")
    for seed, (name, genome) in enumerate(genomes.items()):
        check(genome)
        written(genome, folder / name, messy(genome, seed))
        shape = expand(genome).shape(genome[genome.root].inputs[0])
        images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        save_file({"images": images}, folder / name / "images")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    command = [sys.executable, "-I", "-B", "-c", RUN, *(str(folder / name) for name in genomes)]
    ended = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return folder


def test_the_zoo_holds_every_kind_of_operation() -> None:
    used = {op.kind for _, module in zoo().modules for _, op in module.nodes}
    assert used == set(ops.OPERATIONS)


def test_sources_compute_what_their_genomes_compute_without_morphogen(genomes: dict[str, Genome], folder: Path) -> None:
    for seed, (name, genome) in enumerate(genomes.items()):
        weights = {path: tensor.double() for path, tensor in messy(genome, seed).items()}
        wanted = run(genome, weights, load_file(folder / name / "images")["images"])
        found = load_file(folder / name / "logits")["logits"]
        assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-12, name


def test_tensors_are_named_as_in_the_state_dict(folder: Path, genomes: dict[str, Genome]) -> None:
    for name in genomes:
        with safe_open(folder / name / "weights.safetensors", "pt") as file:
            assert sorted(file.keys()) == (folder / name / "keys").read_text().splitlines()


def test_sources_are_formatted_and_lint_clean(folder: Path) -> None:
    files = [str(file) for file in folder.glob("*/network.py")]
    for arguments in (["format", "--diff"], ["check", "--select", "E4,E7,E9,F,I,B"]):
        ended = subprocess.run(
            [sys.executable, "-m", "ruff", *arguments, "--isolated", "--no-cache", *files],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr


def test_equal_genomes_give_equal_text() -> None:
    copy = Genome.from_json(zoo().to_json())
    assert source(copy, 0.25, 0.5, "w") == source(zoo(), 0.25, 0.5, "w")


def test_a_module_is_one_class_for_each_set_of_shapes() -> None:
    text = source(zoo(), 0.0, 1.0, "w").text
    assert text.count("class Block(nn.Module):") == 1
    assert text.count("class Block_2(nn.Module):") == 1  # called with another extent
    assert text.count("class Outer(nn.Module):") == 1  # called twice with one
    assert "self.first = Outer()" in text
    assert "self.wider = Outer()" in text
    assert "class Block_3" not in text


def test_lines_carry_the_shapes_of_their_values() -> None:
    text = source(zoo(), 0.0, 1.0, "w").text
    assert "stem = self.stem(image)  # [N, 8, 6, 6]" in text
    assert "self.stem = nn.Conv2d(" in text
    assert "linear = self.linear(twice)  # [N, 5]" in text


def test_dropout_rates_are_kept() -> None:
    assert "= nn.Dropout(0.25)" in source(zoo(), 0.0, 1.0, "w").text


def test_names_that_mean_something_else_are_changed_and_stay_apart() -> None:
    table = names(hostile()["net"])
    assert len(set(table.values())) == len(table)
    assert not set(table.values()) & RESERVED
    assert table["train"] == "train_"
    assert table["train1"] == "train1"
    assert table["lambda"] == "lambda_"


def test_no_code_comes_in_by_a_name() -> None:
    net = chained(ops.Flatten(), ops.Linear(2), start=ops.Input(0, (4,)), prefix="n = print('hello')\n        n")
    with pytest.raises(InvalidGenome, match="id must"):
        source(Genome.of({"net": net}), 0.0, 1.0, "w")


def test_mean_and_deviation_are_numbers_in_the_source() -> None:
    text = source(zoo(), 0.1307, 0.3081, "w").text
    assert "MEAN = 0.1307\nSTD = 0.3081\n" in text


def test_no_module_takes_the_name_of_a_constant() -> None:
    net = chained(ops.Call("m_e_a_n"), ops.Flatten(), ops.Linear(2), start=ops.Input(0, (1, 2, 2)))
    text = source(Genome.of({"net": net, "m_e_a_n": chained(ops.ReLU())}), 0.1, 0.3, "w").text
    assert "class MEAN_2(" in text
    assert "class MEAN(" not in text


def test_a_shape_is_written_with_its_batch() -> None:
    assert batched((3, 32, 32)) == "[N, 3, 32, 32]"
