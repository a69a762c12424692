"""Origin: the user's own network as the ancestor of a search, converted to a genome and its weights."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flows.config import OriginSpec
from flows.home import BadInput, line
from genomes import Genome, Limits, cost, expand

if TYPE_CHECKING:
    from torch import Tensor, nn

PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl")


class Origin(NamedTuple):
    """A genome, and its weights by `path.parameter`."""

    genome: Genome
    weights: "dict[str, Tensor]"


def origin(spec: OriginSpec, shape: tuple[int, ...], classes: int, limits: Limits) -> Origin:
    """Returns the user's network as a genome, with its weights in float32.

    Args:
        spec: what builds it, and its weights.
        shape: of the data's images.
        classes: of the data.
        limits: of the search.

    Raises:
        BadInput: the function or its weights cannot be used, the network is no genome, does not map the data's images
            to the data's classes, or is over a limit.
    """
    from training.convert import convert
    from training.errors import ConversionError

    model = _built(spec)
    if spec.weights:
        _load(model, Path(spec.weights))
    try:
        genome, weights = convert(model, shape)
    except ConversionError as error:
        raise BadInput(f"origin.model {spec.model} cannot be converted: {error}") from None
    if (given := expand(genome).shape(genome[genome.root].output)) != (classes,):
        raise BadInput(
            f"origin.model {spec.model} must map {list(shape)} to {classes} classes, as the data does; it maps to "
            f"{list(given)}"
        )
    _within(genome, limits, spec)
    return Origin(genome, {name: tensor.float() for name, tensor in weights.items()})


def _built(spec: OriginSpec) -> "nn.Module":
    from torch import nn

    from training.own import function

    try:
        model = function(spec.model, Path())()
    except Exception as error:  # it is the user's code
        raise BadInput(
            f"origin.model {spec.model!r} must name a function that builds the network, without arguments: "
            f"{line(error)}"
        ) from None
    if not isinstance(model, nn.Module):
        raise BadInput(f"origin.model {spec.model} must return a torch.nn.Module, got {type(model).__name__}")
    return model


def _load(model: "nn.Module", file: Path) -> None:
    """Gives a model the values of a file, which must hold all of them and nothing else."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if file.suffix in PICKLED:
        raise BadInput(
            f"origin.weights {file} must be safetensors, since nothing is unpickled: save them with "
            'safetensors.torch.save_file(model.state_dict(), "weights.safetensors")'
        )
    try:
        given = load_file(file)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"origin.weights {file} must be a safetensors file: {line(error)}") from None
    wanted = model.state_dict()
    faults = [f"{name} is missing" for name in wanted if name not in given and not name.endswith("num_batches_tracked")]
    faults += [f"{name} is unknown" for name in given if name not in wanted]
    faults += [
        f"{name} must have shape {list(wanted[name].shape)}, got {list(tensor.shape)}"
        for name, tensor in given.items()
        if name in wanted and wanted[name].shape != tensor.shape
    ]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise BadInput(f"origin.weights {file} must hold the state_dict of the model: {faults[0]}{more}")
    model.load_state_dict(given, strict=False)


def _within(genome: Genome, limits: Limits, spec: OriginSpec) -> None:
    counted = vars(cost(genome))
    for name, limit in vars(limits).items():
        if limit is not None and counted[name] > limit:
            raise BadInput(
                f"space.{name} must be at least {counted[name]} for the network of {spec.model}, and more for children "
                f"that grow; it is {limit}"
            )
