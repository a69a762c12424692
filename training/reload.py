"""Reload: measures whether exported files compute what the network computes, in places that know nothing of it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnxruntime
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.errors import ExportError

SOURCE_TOLERANCE = 1e-5  # float32, the same kernels, sums perhaps in another order
ONNX_TOLERANCE = 1e-4  # float32, other kernels, norms folded into convolutions
PROBES = (5, 1)  # batch sizes
SECONDS = 600  # for the source to load and run


def errors(source: Path, onnx: Path, network: nn.Module, shape: tuple[int, ...]) -> tuple[float, float]:
    """Returns the errors of the source and of the ONNX file on seeded probes in float32.

    Args:
        source: loads its weights by itself, with `load()`.
        onnx: takes `images`, returns `logits`.
        network: the original, in eval mode.
        shape: of one image.

    Raises:
        ExportError: one of them does not run, or differs by more than its tolerance.
    """
    generator = torch.Generator().manual_seed(0)
    probes = {str(size): torch.randn(size, *shape, generator=generator) for size in PROBES}
    with torch.inference_mode():
        wanted = {size: network(images) for size, images in probes.items()}
    return (
        largest("the source", run_source(source, probes), wanted, SOURCE_TOLERANCE),
        largest("the ONNX file", run_onnx(onnx, probes), wanted, ONNX_TOLERANCE),
    )


def relative(found: Tensor, wanted: Tensor) -> float:
    """Returns the largest difference between two tensors over the largest number of `wanted`; NaN if any is."""
    largest = wanted.abs().max().clamp_min(torch.finfo(wanted.dtype).tiny)
    return float((found - wanted).abs().max() / largest)


def largest(what: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], tolerance: float) -> float:
    """Returns the largest relative difference of all probes.

    Raises:
        ExportError: one is above the tolerance, or not a number.
    """
    errors = [relative(found[size], wanted[size]) for size in wanted]
    if broken := [error for error in errors if not error <= tolerance]:
        raise ExportError(f"{what} must reproduce the network to {tolerance:.0e}, but differs by {broken[0]:.1e}")
    return max(errors)


def run_source(source: Path, probes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the source's outputs by probe, computed by an interpreter of its own that imports nothing of Morphogen.

    Raises:
        ExportError: it fails, takes too long, or imports Morphogen.
    """
    with tempfile.TemporaryDirectory() as elsewhere:
        files = [Path(elsewhere) / name for name in ("probes.safetensors", "outputs.safetensors")]
        save_file(dict(probes), files[0])
        command = [sys.executable, "-I", "-B", "-c", CHECK, str(source), *map(str, files)]
        try:
            ended = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise ExportError(f"the source must load and run within {SECONDS} s") from None
        if ended.returncode:
            reason = (ended.stderr.strip() or f"exit code {ended.returncode}").splitlines()[-1]
            raise ExportError(f"the source must load and run by itself: {reason}")
        return load_file(files[1])


def run_onnx(file: Path, probes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the outputs of an ONNX file by probe."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return {size: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]) for size, images in probes.items()}


CHECK = """
import importlib.util
import sys

import torch
from safetensors.torch import load_file, save_file

source, probes, outputs = sys.argv[1:]
spec = importlib.util.spec_from_file_location("network", source)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
network = module.load()
with torch.inference_mode():
    save_file({size: network(images) for size, images in load_file(probes).items()}, outputs)
if found := {"genomes", "morphism", "search", "training"} & set(sys.modules):
    sys.exit(f"the source imports {sorted(found)} of Morphogen")
"""
