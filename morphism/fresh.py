"""Initial values of tensors that are inherited from nobody."""

from __future__ import annotations

import math
from collections.abc import Mapping

from genomes import Genome, expand
from genomes.operations import Shape
from morphism.names import derived_seed
from morphism.tensors import Constant, Random, TensorExpr

ONES = frozenset({"running_var", "weight"})  # of what is stored for each channel


def fresh(genome: Genome, seed: int) -> dict[str, TensorExpr]:
    """Returns an expression for every tensor of `genome`, drawn from `seed` and the tensor's name."""
    return {name: initial_value(name, shape, seed) for name, shape in expand(genome).tensor_shapes().items()}


def complete(parent: Genome, child: Genome, tensors: Mapping[str, TensorExpr], seed: int) -> dict[str, TensorExpr]:
    """Returns `tensors` and fresh values for child tensors that have no expression and no equal in the parent.

    Equal is a parent tensor of the same name and shape; what has one is left out, for it is inherited as it is.

    Raises:
        InvalidGenome: the child does not expand.
    """
    own, made = expand(parent).primitives, dict(tensors)
    for path, primitive in expand(child).primitives.items():
        before = own.get(path)
        if before is primitive:
            continue  # as most are
        given = before.tensor_shapes() if before else {}
        for name, shape in primitive.tensor_shapes().items():
            if name not in tensors and given.get(name) != shape:
                made[name] = initial_value(name, shape, seed)
    return made


def initial_value(name: str, shape: Shape, seed: int) -> TensorExpr:
    """Returns the initial value of the tensor `path.parameter`.

    Weights of convolutions and linear maps are normal with variance 2 / fan-in (He et al. 2015, equation 10); norms
    start as the identity on standardised values; biases start at zero.
    """
    if len(shape) > 1:
        return Random(shape, math.sqrt(2 / math.prod(shape[1:])), derived_seed(seed, name))
    return Constant(shape, float(name.rpartition(".")[2] in ONES))
