"""Serving: a network as one ONNX file that takes images as they come and returns probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from genomes import Genome, expand
from training.export import write_onnx
from training.network import build
from training.reload import ONNX_TOLERANCE, PROBES, largest, run_onnx

PROBABILITIES = "probabilities"


class Served(nn.Module):
    """A network with what its users would have to do before and after it."""

    def __init__(self, network: nn.Module, mean: float, std: float) -> None:
        super().__init__()
        self.network, self.mean, self.std = network, mean, std

    def forward(self, images: Tensor) -> Tensor:
        """Returns probabilities `[N, K]` of uint8 images `[N, C, H, W]`."""
        return torch.softmax(self.network((images.to(torch.float32) / 255 - self.mean) / self.std), 1)


def write(genome: Genome, weights: Mapping[str, Tensor], file: Path, normal: tuple[float, float]) -> float:
    """Writes a network as ONNX, `images` to `probabilities`, and returns by how much that differs from it at most.

    Args:
        genome: the architecture.
        weights: all its parameters and buffers, by `path.parameter`.
        file: to write; takes any batch size.
        normal: mean and standard deviation that inputs are normalised by, on the scale 0 to 1.

    Raises:
        ExportError: torch cannot write it, or the file does not compute what the network computes.
        BuildError: the weights do not fit the genome.
    """
    shape = expand(genome).shape(genome[genome.root].inputs[0])
    network = Served(build(genome, {name: tensor.float() for name, tensor in weights.items()}), *normal).eval()
    write_onnx(file, network, torch.zeros(2, *shape, dtype=torch.uint8), PROBABILITIES)
    generator = torch.Generator().manual_seed(0)
    sizes = {str(size): (size, *shape) for size in PROBES}
    probes = {name: torch.randint(256, size, dtype=torch.uint8, generator=generator) for name, size in sizes.items()}
    with torch.inference_mode():
        wanted = {name: network(images) for name, images in probes.items()}
    found = run_onnx(file, probes)
    return largest(file.name, found, wanted, ONNX_TOLERANCE)
