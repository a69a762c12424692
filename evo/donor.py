"""Donor: crossover of two genomes node by node: what has one name in both is homologous."""

from __future__ import annotations

import random
from collections.abc import Callable

from genomes import Genome, Limits, allowed, expand
from genomes.operations import Call, Input, Operation
from morphism import INEXACT, Edit
from morphism.channels import channels
from morphism.planning import finish, nodes
from morphism.tensors import Source, TensorExpr

RULE = "cross.donor"
TRIES = 8  # of sets of nodes

Node = tuple[str, str]  # module, id


def donated(
    receiver: Genome, giver: Genome, fresh: Callable[[Genome], bool], rng: random.Random, limits: Limits
) -> Edit | None:
    """Returns an edit after which some nodes of the receiver have the giver's operation and, with it, its tensors.

    Half of the nodes that differ are taken over; what shares its channels goes together, since it must stay equally
    wide. Every other tensor stays the receiver's where its shape does, else it is the giver's where name, operation and
    shape agree, else it starts anew.

    Preserves: nothing.
    Source: Stanley & Miikkulainen 2002, NEAT, section 3.2 (matching genes); EENA (Zhu et al. 2019) has weights too.

    Returns:
        None if nothing differs, or no set of nodes leads to a genome that is fresh and allowed.
    """
    groups = _groups(receiver, giver)
    for _ in range(TRIES if groups else 0):
        chosen = {node: operation for group in groups if rng.random() < 1 / 2 for node, operation in group.items()}
        child = _replaced(receiver, chosen)
        if chosen and allowed(child, limits) and fresh(child):
            tensors = _tensors(receiver, giver, child, set(chosen))
            if given := sum(isinstance(value, Source) for value in tensors.values()):
                site = {"nodes": [f"{module}.{node}" for module, node in sorted(chosen)], "tensors": given}
                return finish(RULE, site, receiver, child, tensors, rng, INEXACT)
    return None


def _groups(receiver: Genome, giver: Genome) -> list[dict[Node, Operation]]:
    """Returns the giver's operations at nodes that both have, if they differ, grouped by the channels they make."""
    made, groups = channels(receiver).made, dict[object, dict[Node, Operation]]()
    used = expand(giver).instances
    for module, node, operation in nodes(receiver):
        other = giver[module].operations[node] if (module, node) in used else operation
        if other != operation and not isinstance(operation, Input) and not isinstance(other, (Call, Input)):
            symbols = made.get((module, node))
            key = min(symbols) if symbols else (module, node)
            groups.setdefault(key, {})[module, node] = other
    return list(groups.values())


def _replaced(genome: Genome, chosen: dict[Node, Operation]) -> Genome:
    for (module, node), operation in chosen.items():
        genome = genome.changed({module: genome[module].changed({node: operation})})
    return genome


def _tensors(receiver: Genome, giver: Genome, child: Genome, chosen: set[Node]) -> dict[str, TensorExpr]:
    """Returns the giver's tensors that the child takes over, by name."""
    own, theirs = expand(receiver).tensor_shapes(), expand(giver).primitives
    found: dict[str, TensorExpr] = {}
    for path, primitive in expand(child).primitives.items():
        if path in theirs and theirs[path].operation == primitive.operation:
            given = theirs[path].tensor_shapes()
            for name, shape in primitive.tensor_shapes().items():
                taken = (primitive.module, primitive.id) in chosen or own.get(name) != shape
                if taken and given[name] == shape:
                    found[name] = Source(name, 1)
    return found
