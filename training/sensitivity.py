"""Sensitivity: what a trained network's loss says of the zero-initialised edits that could be made of it.

Such edits keep the function, so many are inserted at once and share one backward pass: none changes the activations
or the gradients that another one sees. Those that meet in a tensor are put into one pass after the other.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from genomes import Genome, InvalidGenome, cost
from morphism import CATALOGUE, ZERO_INITIALISED, Edit, Inapplicable, Morphism, place
from morphism.edit import Site
from morphism.realise import realise
from training.loop import normalised
from training.network import build

SITES = 8  # of one kind, at most
EXAMPLES = 256  # in the batch
ROUNDS = 8  # backward passes, at most

Opening = tuple[Morphism, Site]


def sensitivities(
    genome: Genome, weights: Mapping[str, Tensor], images: Tensor, labels: Tensor, normal: tuple[float, float]
) -> dict[str, float]:
    """Returns, for edits of each zero-initialised kind, ‖∂loss / ∂new‖ / √(number of new parameters).

    Its square is the decrease of the loss, to first order and by one step of gradient descent on what is new, for each
    new parameter and unit of learning rate. Keys are made by `morphism.place`. Of a kind with more sites than `SITES`,
    only a sample, that depends on nothing but the genome.

    Source: the idea is that of Evci et al. 2022, GradMax, and Wu et al. 2020, Firefly neural architecture descent, who
    compare neurons; here kinds of edits are compared.

    Args:
        genome: the trained network's.
        weights: its tensors; never changed.
        images: to train on, uint8 `[M, C, H, W]`; the first ones are the batch.
        labels: int64 `[M]`.
        normal: as in `training.loop.train`.
    """
    batch, wanted = normalised(images[:EXAMPLES], normal), labels[:EXAMPLES]
    waiting, found = _openings(genome), dict[str, float]()
    for _ in range(ROUNDS):
        layer = _Layer(genome, dict(weights))
        waiting = [opening for opening in waiting if not layer.insert(opening)]
        if not layer.new:
            break
        found.update(layer.measured(batch, wanted))
    return found


def _openings(genome: Genome) -> list[Opening]:
    """Returns kinds and sites; the order is mixed, so that none is always the one that is left over."""
    rng, found = random.Random(genome.digest), list[Opening]()
    for kind in CATALOGUE:
        if kind.name in ZERO_INITIALISED:
            sites = kind.sites(genome)
            found += [(kind, site) for site in rng.sample(list(sites), min(SITES, len(sites)))]
    rng.shuffle(found)
    return found


@dataclass
class _Layer:
    """Edits of one network, inserted together; no two touch one tensor."""

    genome: Genome
    weights: dict[str, Tensor]
    new: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)  # by place: tensors' names and new entries
    size: dict[str, int] = field(default_factory=dict)  # by place: new parameters, copies of old ones among them
    touched: set[str] = field(default_factory=set)

    def insert(self, opening: Opening) -> bool:
        """Inserts an edit, if it can be made beside those that are there."""
        kind, site = opening
        key = place(kind.name, site)
        try:
            edit = kind.plan(self.genome, site, random.Random(key))
            if self.touched & set(edit.tensors):
                return False
            child, new = realise(edit, self.weights), added(edit, self.weights)
        except (Inapplicable, InvalidGenome):
            return False
        self.size[key] = max(1, cost(edit.genome).parameters - cost(self.genome).parameters)
        self.genome, self.weights = edit.genome, child
        self.touched |= set(edit.tensors)
        self.new[key] = new
        return True

    def measured(self, batch: Tensor, wanted: Tensor) -> dict[str, float]:
        """Returns the sensitivity of each edit from one backward pass."""
        network = build(self.genome, self.weights).train()
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
        functional.cross_entropy(network(batch), wanted).backward()  # type: ignore[no-untyped-call]
        paths, gradients = network.meta["paths"], dict[str, Tensor | None]()
        for name, parameter in network.named_parameters():
            attribute, _, own = name.rpartition(".")
            gradients[f"{paths[attribute]}.{own}"] = parameter.grad
        norms = {
            key: norm([(gradients.get(name), where) for name, where in new.items()]) for key, new in self.new.items()
        }
        return {key: value / math.sqrt(self.size[key]) for key, value in norms.items()}


def added(edit: Edit, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns which entries of the tensors that an edit makes come from no tensor of the parent: bool, by name."""
    unknown = {name: torch.full_like(tensor, math.nan) for name, tensor in weights.items()}
    child = realise(edit, unknown)  # what is not a number there has been inherited
    return {name: ~torch.isnan(child[name]) for name in edit.tensors}


def norm(parts: Sequence[tuple[Tensor | None, Tensor]]) -> float:
    """Returns the Euclidean norm of the chosen entries of gradients; statistics have none."""
    chosen = [gradient[where].flatten() for gradient, where in parts if gradient is not None]
    return float(torch.linalg.vector_norm(torch.cat(chosen))) if chosen else 0.0
