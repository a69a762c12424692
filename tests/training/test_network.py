from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genomes import Genome, Module, canonical, cost
from genomes import operations as ops
from genomes.spaces.residual import ResidualSpace
from morphism.interpreter import run
from morphism.realise import initial
from tests.drawing import messy_weights
from tests.morphism.samples import drawn, messy, probes
from tests.training.test_source import IMAGES, zoo
from training.errors import BuildError
from training.network import attributes, build, state

SMALL = ResidualSpace((1, 8, 8), 10).starters()[0]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6))
def test_a_network_computes_what_its_genome_says(seed: int) -> None:
    genome = drawn(seed)
    weights, images = messy(genome, seed), probes(seed)
    network = build(genome, weights)
    torch.testing.assert_close(network.eval()(images), run(genome, weights, images), rtol=1e-11, atol=1e-11)
    without_dropout = build(genome, weights)
    for module in without_dropout.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    got, wanted = without_dropout.train()(images), run(genome, weights, images, train=True)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


def test_every_operation_computes_what_the_interpreter_says() -> None:
    weights = messy_weights(zoo(), 5)
    images = torch.randn(4, *IMAGES, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    network = build(zoo(), weights)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for train in (False, True):
        got, wanted = network.train(train)(images).detach(), run(zoo(), weights, images, train)
        assert float((got - wanted).abs().max() / wanted.abs().max()) < 1e-12, train


def test_every_operation_trains_in_half_precision_and_reaches_every_parameter() -> None:
    network = build(zoo(), {name: tensor.float() for name, tensor in messy_weights(zoo(), 5).items()}).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(torch.randn(8, *IMAGES, generator=torch.Generator().manual_seed(5)))
    logits.float().square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6))
def test_the_state_is_what_the_network_was_built_from(seed: int) -> None:
    genome = drawn(seed)
    weights = messy(genome, seed)
    got = state(build(genome, weights))
    assert set(got) == set(weights)
    assert all(torch.equal(got[name], weights[name]) for name in weights)
    assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in got.values())


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6))
def test_counted_parameters_are_those_of_the_network(seed: int) -> None:
    genome = drawn(seed)
    network = build(genome, messy(genome, seed))
    assert cost(genome).parameters == sum(parameter.numel() for parameter in network.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_training_a_child_never_changes_the_parents_tensors() -> None:
    weights = initial(SMALL, 0)
    before = {name: tensor.clone() for name, tensor in weights.items()}
    network = build(SMALL, weights)
    optimizer = torch.optim.SGD(network.parameters(), 1.0)
    network.train()(torch.randn(4, 1, 8, 8)).square().sum().backward()
    optimizer.step()
    after = state(network)
    assert all(torch.equal(weights[name], before[name]) for name in weights)
    assert sorted(name for name in after if torch.equal(after[name], before[name])) == []


def test_each_primitive_is_a_node_with_a_readable_name() -> None:
    names = {node.name for node in build(SMALL, initial(SMALL, 0)).graph.nodes}
    assert names == {*canonical(SMALL).primitives, "output"}


def test_each_call_has_modules_of_its_own() -> None:
    genome = ResidualSpace((1, 8, 8), 10).starters()[3]
    network = build(genome, initial(genome, 0))
    convs = {name for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)}
    inner = [name for name in convs if "__" in name]
    assert len(inner) == 2 * len({name.split("__")[1] for name in inner}) == 4
    assert network.meta["paths"][inner[0]] == inner[0].replace("__", "/")


def test_awkward_names_are_kept_apart() -> None:
    paths = ["train", "if", "a/b", "a__b", "forward", "training", "meta", "conv"]
    names = attributes(paths)
    assert len(set(names.values())) == len(paths)
    assert names["conv"] == "conv"
    nodes: dict[str, ops.Operation] = {"self": ops.Input(0, (2, 4, 4)), "return": ops.Output()}
    nodes |= {name: ops.Conv.same(2, 3, bias=True) for name in ("train", "if", "forward", "training", "meta", "class")}
    order = [*nodes]
    order.append(order.pop(1))
    genome = Genome.of({"net": Module.of(nodes, list(pairwise(order)))})
    weights, images = messy(genome, 1), torch.randn(2, 2, 4, 4, dtype=torch.float64)
    network = build(genome, weights).eval()
    torch.testing.assert_close(network(images), run(genome, weights, images))
    assert set(state(network)) == set(weights)


def test_sums_products_and_means_of_three_are_what_they_say() -> None:
    for operation in (ops.Add(), ops.Mean(), ops.Mul(), ops.Concat()):
        nodes: dict[str, ops.Operation] = {"image": ops.Input(0, (2, 4, 4)), "joined": operation, "out": ops.Output()}
        nodes |= {name: ops.Conv.same(2, 3) for name in "abc"}
        edges = [*(("image", name, 0) for name in "abc"), ("joined", "out", 0)]
        edges += [(name, "joined", port) for port, name in enumerate("abc")]
        genome = Genome.of({"net": Module.of(nodes, edges)})
        weights, images = messy(genome, 1), torch.randn(2, 2, 4, 4, dtype=torch.float64)
        network = build(genome, weights)
        torch.testing.assert_close(network(images), run(genome, weights, images))
        assert "joined" in {node.name for node in network.graph.nodes}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"linear_17.bias": None}, r"linear_17.bias \[10\], it is missing"),
        ({"other.weight": torch.zeros(3)}, r"only what the genome names, got other.weight \[3\]"),
        ({"linear_17.bias": torch.zeros(9)}, r"linear_17.bias must have shape \[10\], got \[9\]"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: dict[str, torch.Tensor | None], words: str) -> None:
    changed = {name: tensor for name, tensor in {**initial(SMALL, 0), **change}.items() if tensor is not None}
    with pytest.raises(BuildError, match=words):
        build(SMALL, changed)
