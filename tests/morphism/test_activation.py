"""What is particular to blended activations; what they share with all morphisms is in test_contract."""

from __future__ import annotations

import random

import pytest
import torch

from genomes import Genome
from genomes.operations import GELU, Blend, Conv, Flatten, GlobalPool, Input, Linear, Operation, ReLU, Sigmoid, SiLU
from morphism import Inapplicable
from morphism.activation import BlendActivation
from morphism.interpreter import run
from morphism.realise import realise
from tests.morphism.samples import messy
from tests.morphism.test_channels import chain

SITE = {"module": "net", "node": "r"}


def genome_of(activation: Operation) -> Genome:
    return chain(c=Conv(4, 1), r=activation, g=GlobalPool(), f=Flatten(), h=Linear(3))


def images(genome: Genome) -> torch.Tensor:
    (shape,) = (op.shape for _, op in genome["net"].nodes if isinstance(op, Input))
    return torch.randn((4, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("activation", [ReLU(), GELU(), SiLU()], ids=lambda op: op.kind)
def test_an_activation_is_blended_with_either_of_the_others_bit_for_bit(activation: Operation) -> None:
    genome, seconds = genome_of(activation), set()
    weights = messy(genome, 0)
    for seed in range(12):
        edit = BlendActivation().plan(genome, SITE, random.Random(seed))
        blend = edit.genome["net"].operations["r"]
        assert isinstance(blend, Blend)
        assert blend.first == activation.kind
        seconds.add(blend.second)
        child = realise(edit, weights)
        for train in (False, True):
            before, after = (run(g, w, images(genome), train) for g, w in ((genome, weights), (edit.genome, child)))
            assert torch.equal(before, after)
    assert seconds == {"relu", "gelu", "silu"} - {activation.kind}


def test_the_share_learns_at_once_and_ends_in_the_other_activation() -> None:
    genome = genome_of(ReLU())
    edit = BlendActivation().plan(genome, SITE, random.Random(0))
    child = realise(edit, messy(genome, 0))
    child["r.weight"].requires_grad_(True)
    run(edit.genome, child, images(genome), train=True).square().sum().backward()
    assert child["r.weight"].grad is not None
    assert child["r.weight"].grad.abs() > 0
    blend = edit.genome["net"].operations["r"]
    assert isinstance(blend, Blend)
    other = genome_of({"gelu": GELU(), "silu": SiLU()}[blend.second])
    closed = {**child, "r.weight": torch.zeros(1, dtype=torch.float64)}
    torch.testing.assert_close(run(other, messy(genome, 0), images(genome)), run(edit.genome, closed, images(genome)))


def test_only_plain_activations_are_blended() -> None:
    for operation in (Sigmoid(), Blend("relu", "gelu")):
        genome = genome_of(operation)
        assert not BlendActivation().sites(genome)
        with pytest.raises(Inapplicable, match="relu, gelu and silu"):
            BlendActivation().plan(genome, SITE, random.Random(0))
