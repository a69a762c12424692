"""Costs are counted from the graph, and are what the built network has."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from torch.utils.flop_counter import FlopCounterMode

from genomes import Cost, Genome, cost, expand
from genomes.operations import Add, BatchNorm, Conv, Flatten, Identity, Linear, MaxPool, ReLU, Scale
from morphism.interpreter import run
from tests.drawing import SHAPE, genomes, messy_weights
from tests.genomes.flat import chain


def test_a_network_counted_by_hand() -> None:
    layers = [Conv.same(4, 3, stride=2, bias=True), BatchNorm(), ReLU(), Conv.same(8, 3, groups=2), Scale()]
    genome = chain(*layers, MaxPool(2, 2), Flatten(), Linear(5), shape=(3, 8, 8))
    parameters = (4 * 3 * 9 + 4) + (4 + 4) + 8 * 2 * 9 + 8 + (5 * 32 + 5)
    macs = 4 * 16 * 3 * 9 + 8 * 16 * 2 * 9 + 5 * 32
    values = 3 * 64 + 3 * 4 * 16 + 2 * 8 * 16 + 2 * 8 * 4 + 5
    assert cost(genome) == Cost(parameters, macs, 4 * values)


def test_what_computes_nothing_costs_nothing() -> None:
    assert cost(chain(Identity(), ReLU(), Identity())) == cost(chain(ReLU()))


@settings(deadline=None, max_examples=40)
@given(genomes())
def test_counts_equal_what_torch_counts(genome: Genome) -> None:
    weights = messy_weights(genome, 0)
    with FlopCounterMode(display=False) as counter:
        run(genome, weights, torch.zeros(3, *SHAPE, dtype=torch.float64))
    assert counter.get_total_flops() == 3 * 2 * cost(genome).macs
    trained = {name: tensor for name, tensor in weights.items() if ".running_" not in name}
    assert cost(genome).parameters == sum(tensor.numel() for tensor in trained.values())


@settings(deadline=None, max_examples=40)
@given(genomes())
def test_activations_are_at_most_those_of_the_expansion(genome: Genome) -> None:
    primitives = expand(genome).primitives.values()
    assert 0 < cost(genome).activation_bytes <= 4 * sum(math.prod(primitive.shape) for primitive in primitives)
    assert not any(isinstance(primitive.operation, Add) and len(primitive.inputs) < 2 for primitive in primitives)
