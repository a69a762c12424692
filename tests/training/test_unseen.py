"""Taps of a kernel that see nothing but padding have the gradient zero, whatever memory held before."""

from __future__ import annotations

import hashlib
from itertools import pairwise, product

import pytest
import torch
from torch import nn

from genomes import Genome, Module
from genomes.operations import BatchNorm, Conv, Flatten, GlobalPool, Input, Linear, Operation, Output, ReLU
from morphism.realise import initial
from search import Fidelity
from training import Recipe, build, state
from training.devices import fast_bfloat16
from training.loop import train
from training.vectorised.unseen import taps, zeroed


def chain(*layers: Operation) -> Genome:
    nodes = {f"n{i}": layer for i, layer in enumerate((*layers, GlobalPool(), Flatten(), Linear(10), Output()))}
    return Genome.of({"net": Module.of(nodes, pairwise(nodes))})


@pytest.mark.parametrize(("kernel", "stride", "padding"), [*product((2, 3, 5), (1, 2, 3), (0, 1, 2))])
def test_taps_are_seen_where_a_gradient_reaches_them(kernel: int, stride: int, padding: int) -> None:
    for size, dilation in product(range(1, 7), (1, 2)):
        if size + 2 * padding < dilation * (kernel - 1) + 1:
            continue
        conv = nn.Conv2d(1, 1, kernel, stride, padding, dilation, bias=False, dtype=torch.float64)
        x = torch.ones(1, 1, size, size + 1, dtype=torch.float64)
        conv(x).sum().backward()
        assert conv.weight.grad is not None
        assert torch.equal(conv.weight.grad[0, 0] != 0, taps(conv, x.shape[2:]))


@pytest.mark.parametrize("sizes", [(1, 3), (3, 1)])
def test_a_convolution_that_is_called_twice_keeps_what_one_call_sees(sizes: tuple[int, int]) -> None:
    conv = nn.Conv2d(1, 1, 3, 2, 1, bias=False)
    with zeroed(conv):
        torch.stack([conv(torch.ones(1, 1, size, size)).sum() for size in sizes]).sum().backward()
    assert conv.weight.grad is not None
    assert bool((conv.weight.grad != 0).all())
    assert not conv._forward_pre_hooks
    assert not conv.weight._backward_hooks


@pytest.mark.skipif(not fast_bfloat16(torch.device("cpu")), reason="this processor has no bfloat16")
@pytest.mark.parametrize("width", [8, 16])
def test_a_seed_repeats_bit_for_bit_on_images_as_small_as_one_pixel(width: int) -> None:
    layers = [layer for _ in range(4) for layer in (Conv.same(width, 3, stride=2), BatchNorm(), ReLU())]
    genome = chain(Input(shape=(1, 8, 8)), *layers)
    drawn = torch.Generator().manual_seed(0)
    images = torch.randint(256, (512, 1, 8, 8), generator=drawn, dtype=torch.uint8)
    labels = torch.randint(10, (512,), generator=drawn)
    digests = set()
    for left in (0.0, 1e30, torch.nan):
        memory = [torch.full((50 * 10**power,), left) for power in range(4) for _ in range(40)]
        del memory  # as another child leaves it
        network = build(genome, initial(genome, 0))
        recipe = Recipe(batch_size=64, precision="bfloat16")
        train(network, images, labels, recipe, Fidelity(1_500), torch.Generator().manual_seed(5), (0.5, 0.25))
        tensors = state(network)
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
        digests.add(hashlib.sha256(b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))).hexdigest())
    assert len(digests) == 1
