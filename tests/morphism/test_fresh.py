from __future__ import annotations

import math
from itertools import pairwise

import torch

from genomes import Genome, Module, expand
from genomes.operations import BatchNorm, Conv, Flatten, Input, Linear, Output, Scale
from morphism.fresh import complete, fresh
from morphism.realise import initial
from morphism.tensors import Constant, Random


def net(width: int = 64) -> Genome:
    nodes = {
        "x": Input(0, (16, 4, 4)),
        "conv": Conv.same(width, 3, groups=4, bias=True),
        "norm": BatchNorm(),
        "scale": Scale(),
        "flat": Flatten(),
        "head": Linear(10),
        "y": Output(),
    }
    chain = list(nodes)
    return Genome.of({"net": Module.of(nodes, pairwise(chain))})


def test_weights_have_the_deviation_of_he_and_norms_are_the_identity() -> None:
    weights = initial(net(), 0)
    assert torch.isclose(weights["conv.weight"].std(), torch.tensor(math.sqrt(2 / (4 * 9))), rtol=0.05)
    assert torch.isclose(weights["head.weight"].std(), torch.tensor(math.sqrt(2 / 1024)), rtol=0.05)
    ones = ("norm.weight", "norm.running_var", "scale.weight")
    assert all(weights[name].eq(1).all() for name in ones)
    assert all(not weights[name].any() for name in ("conv.bias", "head.bias", "norm.bias", "norm.running_mean"))


def test_each_tensor_has_a_seed_of_its_own_that_outlives_changes_elsewhere() -> None:
    small, large = fresh(net(64), 3), fresh(net(32), 3)
    seeds = [expression.seed for expression in small.values() if isinstance(expression, Random)]
    assert len(set(seeds)) == len(seeds) == 2
    assert [e.seed for e in large.values() if isinstance(e, Random)] == seeds
    assert fresh(net(), 3) == small
    assert fresh(net(), 4) != small


def test_complete_adds_only_what_cannot_be_inherited() -> None:
    given = {"norm.weight": Constant((32,), 0.0)}
    made = complete(net(64), net(32), given, 0)
    assert made["norm.weight"] == Constant((32,), 0.0)
    assert set(made) == {name for name in expand(net()).tensor_shapes() if name != "head.bias"}
    assert complete(net(), net(), {}, 0) == {}
