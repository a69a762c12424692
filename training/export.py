"""Export: a network as files that need nothing of Morphogen, loaded again and compared before they count as done."""

from __future__ import annotations

import math
import random
import shutil
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from genomes import Genome, cost, expand, load_genome
from morphism.realise import realise
from morphism.shrink import FoldNorm
from training import reload
from training.errors import ExportError
from training.network import build
from training.source import Source, batched, source

WEIGHTS, GENOME, SOURCE, ONNX, README = "weights.safetensors", "genome.json", "network.py", "network.onnx", "README.md"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        directory: that holds the files.
        weights: safetensors, under the names of the source's `state_dict`.
        genome: canonical JSON.
        source: PyTorch source that loads the weights.
        onnx: for any batch size, `images` to `logits`.
        readme: how to use them.
        source_error: largest difference from the original over its largest output, on seeded probes in float32.
        onnx_error: the same of the ONNX file.
    """

    directory: Path
    weights: Path
    genome: Path
    source: Path
    onnx: Path
    readme: Path
    source_error: float
    onnx_error: float


def export(
    genome: Genome,
    weights: Mapping[str, Tensor],
    directory: Path,
    *,
    mean: float,
    std: float,
    classes: int,
    error: float | None = None,
    folded: int = 0,
) -> Exported:
    """Writes a network into a new directory, which appears only when all of it has been checked.

    Args:
        genome: the architecture.
        weights: all its parameters and buffers, by `path.parameter`; written in float32.
        directory: new or empty; its parents are made.
        mean: that inputs are normalised by, on the scale 0 to 1.
        std: standard deviation that inputs are normalised by, on the same scale.
        classes: how many logits the network must return.
        error: share of wrongly classified validation images, for the README.
        folded: how many batch norms have been folded, for the README.

    Raises:
        ExportError: the directory is in use or not writable, `mean`, `std` or `classes` make no sense, or a file does
            not compute what the network computes; nothing is left of the export.
        BuildError: the weights do not fit the genome.
        InvalidGenome: the genome does not expand.
    """
    _sensible(genome, mean, std, classes)
    directory = directory.absolute()
    state = {name: tensor.detach().to("cpu", torch.float32, copy=True) for name, tensor in weights.items()}
    network, shape = build(genome, state).eval(), expand(genome).shape(genome[genome.root].inputs[0])
    with _appearing(directory) as partial:
        _write(partial, genome, source(genome, mean, std, WEIGHTS), state)
        write_onnx(partial / ONNX, network, torch.zeros(2, *shape))
        source_error, onnx_error = reload.errors(partial / SOURCE, partial / ONNX, network, shape)
        (partial / README).write_text(_readme(genome, mean, std, error, source_error, onnx_error, folded))
    return Exported(
        directory,
        weights=directory / WEIGHTS,
        genome=directory / GENOME,
        source=directory / SOURCE,
        onnx=directory / ONNX,
        readme=directory / README,
        source_error=source_error,
        onnx_error=onnx_error,
    )


def fold(genome: Genome, weights: Mapping[str, Tensor]) -> tuple[Genome, dict[str, Tensor], int]:
    """Returns the network with every batch norm folded into the layer that it alone reads, and how many these were."""
    rule, count, state = FoldNorm(), 0, dict(weights)
    while sites := rule.sites(genome):
        edit = rule.plan(genome, sites[0], random.Random(0))
        count += len(expand(genome).instances[str(sites[0]["module"]), str(sites[0]["node"])])
        genome, state = edit.genome, realise(edit, state)
    return genome, state, count


def _sensible(genome: Genome, mean: float, std: float, classes: int) -> None:
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise ExportError(f"mean must be finite and std above 0, got {mean} and {std}")
    logits = expand(genome).shape(genome[genome.root].output)
    if logits != (classes,):
        raise ExportError(f"the network must return logits [{classes}], got {list(logits)}")


@contextmanager
def _appearing(directory: Path) -> Iterator[Path]:
    """Yields a directory that takes the place of `directory` if all goes well, and is removed otherwise."""
    with ExitStack() as stack:
        try:
            if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
                raise ExportError(f"{directory} must be new or an empty directory: choose another, or remove it first")
            home = next(parent for parent in directory.parents if parent.is_dir())
            partial = home / f".{directory.name}.{uuid.uuid4().hex[:8]}.partial"
            stack.callback(shutil.rmtree, partial, ignore_errors=True)
            partial.mkdir()
            yield partial
            directory.parent.mkdir(parents=True, exist_ok=True)
            partial.rename(directory)
        except (OSError, SafetensorError) as failure:
            raise ExportError(f"{directory} must be a directory that can be written, with room: {failure}") from failure


def _write(folder: Path, genome: Genome, written: Source, state: Mapping[str, Tensor]) -> None:
    tensors = {written.keys[name]: tensor.contiguous() for name, tensor in state.items()}
    for name in [name for name in tensors if name.endswith(".running_mean")]:
        # part of every norm's state_dict; of no use with a fixed momentum
        tensors[f"{name.removesuffix('running_mean')}num_batches_tracked"] = torch.tensor(0)
    save_file(dict(sorted(tensors.items())), folder / WEIGHTS, {"format": "pt"})
    (folder / GENOME).write_bytes(genome.to_json())
    if load_genome((folder / GENOME).read_bytes()) != genome:
        raise ExportError(f"{GENOME} must read back as the genome that was written")
    (folder / SOURCE).write_text(written.text)


def write_onnx(file: Path, network: nn.Module, example: Tensor, output: str = "logits") -> None:
    """Writes a network as ONNX for any batch size, from `images` to `output`, without what torch notes of this machine.

    Args:
        file: to write.
        network: in eval mode.
        example: images; two or more, since a batch of 1 would be taken for a constant.
        output: the name of what it returns.

    Raises:
        ExportError: torch cannot write it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter deprecates parts of itself
        try:
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=[output],
                dynamic_shapes=({0: "batch"},),
            )
        except torch.onnx.OnnxExporterError as failure:
            raise ExportError(f"torch could not write the network as ONNX: {failure}") from failure
    assert program is not None
    model = program.model_proto
    _anonymous(model)
    onnx.checker.check_model(model)
    onnx.save(model, file)


def _anonymous(model: onnx.ModelProto) -> None:
    """Removes what torch notes about where the export ran, such as paths of files."""
    graph = model.graph
    parts: Iterable[Iterable[onnx.NodeProto | onnx.ValueInfoProto | onnx.TensorProto]] = (
        graph.node,
        graph.input,
        graph.output,
        graph.value_info,
        graph.initializer,
    )
    for part in (model, graph, *(item for items in parts for item in items)):
        del part.metadata_props[:]


def _readme(
    genome: Genome, mean: float, std: float, error: float | None, source_error: float, onnx_error: float, folded: int
) -> str:
    expansion, root, counted = expand(genome), genome[genome.root], cost(genome)
    return TEXT.format(
        folded=FOLDED.format(folded) if folded else "",
        images=batched(expansion.shape(root.inputs[0])),
        logits=batched(expansion.shape(root.output)),
        mean=float(mean),
        std=float(std),
        error="not given" if error is None else f"{100 * error:.2f} % of the validation images",
        parameters=counted.parameters,
        macs=counted.macs,
        source_error=source_error,
        onnx_error=onnx_error,
    )


TEXT = """# A network found by Morphogen

| | |
|---|---|
| input | images `{images}`, float32, normalised: (pixel / 255 - mean) / std with mean {mean!r} and std {std!r} |
| output | logits `{logits}` |
| error | {error} |
| parameters | {parameters:,} |
| MACs | {macs:,} for one image |

## PyTorch

Needs `torch` and `safetensors`. In this directory:

```python
from network import load, normalise

network = load()  # in eval mode, with the weights of weights.safetensors
logits = network(normalise(images))  # images: uint8 {images}
```

## ONNX

Takes any batch size. Needs `onnxruntime`:

```python
import onnxruntime

session = onnxruntime.InferenceSession("network.onnx")
(logits,) = session.run(["logits"], {{"images": images}})  # images: float32 numpy, normalised as above
```

## Files

- `network.py`: the architecture as PyTorch source; `weights.safetensors` holds its `state_dict`.
- `network.onnx`: architecture and weights.
- `genome.json`: the architecture as Morphogen's genome.

{folded}Both forms were loaded again after writing and compared with the network that was trained, on random images.
The largest difference of a logit, relative to the largest logit, was {source_error:.1e} for the source and
{onnx_error:.1e} for ONNX.
"""

FOLDED = """{} batch norms are folded into the layers before them: in eval mode the network computes the same, in
float32 to about 1e-6 of the largest logit. Fine-tune the unfolded network: this one has no batch statistics any more.

"""
