"""Realises edits: computes the child's tensors from the parent's. With `values`, all that touches inherited tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from genomes import Genome, expand
from morphism.edit import Edit
from morphism.errors import Inapplicable
from morphism.fresh import fresh
from morphism.interpreter import values
from morphism.tensors import Measured, Source, within
from morphism.values import Origin, value


def realise(
    edit: Edit, weights: Mapping[str, Tensor], donor: Mapping[str, Tensor] | None = None, batch: Tensor | None = None
) -> dict[str, Tensor]:
    """Returns the child's tensors by name, with the dtype and on the device of the parent's `weights`.

    Tensors that the edit does not touch are the same objects: clone before training.

    Args:
        edit: what is done.
        weights: the parent's tensors.
        donor: those of the second parent, for a crossover.
        batch: training examples `[N, C, H, W]`, normalised, on which statistics of new norms are measured, in float64;
            without it they are those of standardised values.

    Raises:
        Inapplicable: a source is missing, a tensor has not the shape that the child genome asks for, or what must be
            zero is not.
    """
    shapes = expand(edit.genome).tensor_shapes()
    if unknown := sorted(set(edit.tensors) - set(shapes)):
        raise Inapplicable(f"{edit.rule}: the child genome has no tensor {', '.join(unknown)[:200]}")
    origin = Origin(weights, donor or {}, edit.genome)
    with torch.no_grad():
        if any(value(expression, origin).any() for expression in edit.zeros):
            raise Inapplicable(f"{edit.rule} needs numbers that are zero, and they are not: it would lose something")
        child = {name: _made(edit, name, shape, origin) for name, shape in shapes.items()}
        if batch is not None:
            _measure(edit, child, batch, origin)
    return child


def initial(genome: Genome, seed: int) -> dict[str, Tensor]:
    """Returns the tensors of a network that inherits nothing, in float32 on the CPU."""
    return realise(Edit("fresh", {}, genome, fresh(genome, seed)), {})


def _made(edit: Edit, name: str, shape: tuple[int, ...], origin: Origin) -> Tensor:
    expression = edit.tensors.get(name, Source(name))
    tensor = value(expression, origin)
    if tuple(tensor.shape) != shape:
        raise Inapplicable(f"{edit.rule}: {name} must be {list(shape)}, got {list(tensor.shape)}")
    # under another name it is a second tensor, not the same one
    renamed = isinstance(expression, Source) and expression.name != name
    return tensor.clone() if renamed else tensor


def _measure(edit: Edit, child: dict[str, Tensor], batch: Tensor, origin: Origin) -> None:
    """Replaces, in place, what stands for statistics of new norms by what these norms read."""
    norms = {name: {e.norm for e in within(edit.tensors[name]) if isinstance(e, Measured)} for name in edit.tensors}
    if not any(norms.values()):
        return
    precise = {name: tensor.double() for name, tensor in child.items()}
    seen = values(edit.genome, precise, batch.double())
    for norm in set().union(*norms.values()):
        (read,) = expand(edit.genome).primitives[norm].inputs
        origin.measured[norm] = seen[read]
    for name in filter(norms.get, norms):
        child[name] = value(edit.tensors[name], origin)
