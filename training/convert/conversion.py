"""Conversion: a model of torch as a genome and its weights, proven on probes to compute the same function."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn

from genomes import Genome, InvalidGenome, check
from training.convert.tracing import trace, walked
from training.convert.walk import Value
from training.errors import ConversionError, line
from training.network import build
from training.reload import relative
from training.source import batched

TOLERANCE = 1e-10  # relative to the largest output, in float64
PROBES = (3, 1)  # batch sizes


def convert(model: nn.Module, shape: tuple[int, ...]) -> tuple[Genome, dict[str, Tensor]]:
    """Returns the genome of a model, and its weights by `path.parameter` in the model's own precision.

    The model is traced in eval mode and never changed. Stochastic depth is left out, a LeakyReLU becomes a PReLU, a
    constant factor a trained one, and a norm without an affine map gets one. What eval mode never reaches, such as
    auxiliary heads, is left out, and so is the wrapping of data-parallel training.

    Args:
        model: maps images `[N, C, H, W]` to logits `[N, classes]`.
        shape: `[C, H, W]` of one image.

    Raises:
        ConversionError: it cannot be traced, an operation is unknown (the first one is named, with its place), it uses
            weights twice, or the genome does not compute the same on seeded probes: with the model's own weights, or
            with others, which tell apart what weights at their defaults would hide.
    """
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    precision = next((tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()), torch.float32)
    own = runnable(model, shape)
    genome, weights = followed(trace(own, shape), shape)
    proven(own, genome, weights, shape)
    stirred = messy(own)
    again, others = followed(trace(stirred, shape), shape)
    if again != genome:
        raise ConversionError("the genome must not depend on the values of the model's weights, it does")
    proven(stirred, genome, others, shape)
    return genome, {name: tensor.to(precision).contiguous() for name, tensor in weights.items()}


def runnable(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Returns a copy of the model in eval mode and float64.

    Raises:
        ConversionError: it does not run on images of this shape.
    """
    try:
        own = copy.deepcopy(model).cpu().double().eval()
        with torch.no_grad():
            own(torch.zeros(2, *shape, dtype=torch.float64))
    except Exception as error:  # it is the user's code
        raise ConversionError(f"the model must take images {batched(shape)}, it says: {line(error)}") from error
    return own


def followed(traced: fx.GraphModule, shape: tuple[int, ...]) -> tuple[Genome, dict[str, Tensor]]:
    """Returns the genome of a trace and its weights, unproven.

    Raises:
        ConversionError: an operation is unknown, or the genome is over a limit.
    """
    walk, result = walked(traced, shape)
    if not isinstance(result, Value):
        raise ConversionError(f"the model must return one tensor, logits [N, classes], got {type(result).__name__}")
    try:
        genome, weights = walk.flat.genome(walk.result(result).node)
        check(genome)
    except InvalidGenome as error:
        raise ConversionError(f"the model as a genome: {error}") from None
    return genome, weights


def proven(model: nn.Module, genome: Genome, weights: Mapping[str, Tensor], shape: tuple[int, ...]) -> float:
    """Returns the largest difference of a logit over the largest logit, on seeded probes in float64.

    Raises:
        ConversionError: it is above 1e-10.
    """
    network, generator = build(genome, weights).eval(), torch.Generator().manual_seed(0)
    largest = 0.0
    with torch.inference_mode():
        for size in PROBES:
            images = torch.randn(size, *shape, generator=generator, dtype=torch.float64)
            error = relative(network(images), model(images))
            if not error <= TOLERANCE:
                raise ConversionError(
                    f"the genome must compute what the model computes to {TOLERANCE:.0e}, it differs by {error:.1e}"
                )
            largest = max(largest, error)
    return largest


def messy(model: nn.Module) -> nn.Module:
    """Returns a copy in which no parameter and no statistic is at its default."""
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in [*other.named_parameters(), *other.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            drawn = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            spread = (float(tensor.std()) if tensor.numel() > 1 else 0.0) or 1.0
            is_variance = name.endswith("running_var")
            tensor.copy_(tensor * (0.5 * drawn).exp() if is_variance else tensor + 0.3 * spread * drawn)
    return other
