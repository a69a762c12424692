"""Proxies on networks whose scores are worked out by hand, and what all of them promise."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from genomes import cost
from genomes.spaces.residual import ResidualSpace
from morphism.realise import initial
from tests.training.samples import SHAPE
from training import DataSpec, Prepared, build, prepare
from training.proxies import PROXIES, grad_norm, naswot, scorer, snip, synflow

SPACE = ResidualSpace(SHAPE, 4)
GENOME = SPACE.member(4, [1, 1])
IMAGES = torch.randn(12, *SHAPE, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(12) % 4


def linear(*rows: list[float], bias: list[float] | None = None) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows), bias=bias is not None)
    layer.weight = nn.Parameter(torch.tensor(rows))
    if bias is not None:
        layer.bias = nn.Parameter(torch.tensor(bias))
    return layer


def normed(gamma: float, mean: float, variance: float) -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(1, eps=0.0)
    norm.weight = nn.Parameter(torch.tensor([gamma]))
    norm.running_mean, norm.running_var = torch.tensor([mean]), torch.tensor([variance])
    return norm


def test_snip_and_grad_norm_of_one_layer() -> None:
    # equal logits: p = (1/2, 1/2), so the gradient of the weights is (p - onehot) x = (-1, 1) for x = 2 and class 0
    network, images, labels = nn.Sequential(linear([0.5], [0.5])), torch.tensor([[2.0]]), torch.tensor([0])
    assert snip(network, images, labels) == pytest.approx(0.5 * 1 + 0.5 * 1)
    assert grad_norm(network, images, labels) == pytest.approx(math.sqrt(2))


def test_the_loss_is_the_mean_over_the_batch_and_biases_do_not_count() -> None:
    network = nn.Sequential(linear([0.5], [0.5], bias=[0.0, 0.0]))
    images, labels = torch.tensor([[2.0], [2.0]]), torch.tensor([0, 1])
    assert snip(network, images, labels) == pytest.approx(0.0, abs=1e-7), "the two gradients cancel"
    assert snip(network, images, torch.tensor([0, 0])) == pytest.approx(1.0)
    assert grad_norm(network, images, torch.tensor([0, 0])) == pytest.approx(math.sqrt(2))


def test_grad_norm_adds_up_layers_and_not_squares() -> None:
    # logits = w2 (w1 x) with x = 1, w1 = 2, w2 = (1, 1): p = 1/2; dL/dw2 = (-1/2, 1/2) 2, dL/dw1 = -1/2 + 1/2 = 0
    network = nn.Sequential(linear([2.0]), linear([1.0], [1.0]))
    assert grad_norm(network, torch.tensor([[1.0]]), torch.tensor([0])) == pytest.approx(math.sqrt(2) + 0.0)
    # with w2 = (1, -1): p = sigmoid(4), e = 1 - p; dL/dw2 = (-e, e) 2, dL/dw1 = -2 e
    network, missing = nn.Sequential(linear([2.0]), linear([1.0], [-1.0])), 1 / (1 + math.exp(4))
    wanted = 2 * math.sqrt(2) * missing + 2 * missing
    assert grad_norm(network, torch.tensor([[1.0]]), torch.tensor([0])) == pytest.approx(wanted, rel=1e-5)


def test_synflow_of_two_layers_is_twice_the_flow_of_magnitudes() -> None:
    # R = (|3| + |-4|) (|1| + |-2|) = 21 is of degree one in each layer, so that each layer's sum is R (Euler)
    network = nn.Sequential(linear([1.0, -2.0]), nn.ReLU(), linear([3.0], [-4.0]))
    assert synflow(network, torch.zeros(1, 2), LABELS) == pytest.approx(42.0)


def test_synflow_does_not_see_images_labels_or_statistics() -> None:
    network = nn.Sequential(linear([1.0, -2.0]), normed(-0.5, mean=7.0, variance=9.0), linear([3.0], [-4.0]))
    assert synflow(network, torch.randn(3, 2), LABELS) == pytest.approx(0.5 * 42.0)


def test_naswot_of_two_units() -> None:
    # codes (1, 0) and (1, 1): they agree in one of two activations, K = [[2, 1], [1, 2]], det K = 3
    network, images = nn.Sequential(linear([1.0, 0.0], [0.0, 1.0]), nn.ReLU()), torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    assert naswot(network, images, LABELS) == pytest.approx(math.log(3))


def test_naswot_of_images_that_look_alike_is_minus_infinity() -> None:
    network = nn.Sequential(linear([1.0, 0.0], [0.0, 1.0]), nn.ReLU())
    assert naswot(network, torch.tensor([[1.0, 1.0], [2.0, 3.0]]), LABELS) == -math.inf


def fresh() -> nn.Module:
    return build(GENOME, initial(GENOME, 0))


@pytest.mark.parametrize("name", PROXIES)
def test_a_proxy_leaves_the_network_and_chance_alone_and_repeats_itself(name: str) -> None:
    network, dropping = (
        fresh(),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 4)),
    )
    before, state = copy.deepcopy(network.state_dict()), torch.random.get_rng_state()
    assert PROXIES[name](network, IMAGES, LABELS) == PROXIES[name](network, IMAGES, LABELS)
    assert PROXIES[name](dropping, IMAGES, LABELS) == PROXIES[name](dropping, IMAGES, LABELS)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("name", ["snip", "grad_norm"])
def test_gradients_equal_those_of_backward(name: str) -> None:
    network = fresh()
    nn.functional.cross_entropy(network(IMAGES), LABELS).backward()  # type: ignore[no-untyped-call]
    weights = [(p, p.grad) for p in network.parameters() if p.dim() > 1 and p.grad is not None]
    wanted = {
        "snip": sum(float((p.detach() * g).abs().sum()) for p, g in weights),
        "grad_norm": sum(float(g.norm()) for _, g in weights),
    }
    assert PROXIES[name](fresh(), IMAGES, LABELS) == pytest.approx(wanted[name], rel=1e-4)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(DataSpec("tests.training.samples:blobs"), tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("name", [*PROXIES, "parameters"])
def test_a_scorer_is_a_function_of_the_genome_and_tells_genomes_apart(name: str, prepared: Prepared) -> None:
    members = [SPACE.member(width, [1, 1]) for width in (4, 8, 16)]
    first, second = ([scorer(name, prepared, 3)(genome) for genome in members] for _ in range(2))
    assert first == second
    assert len(set(first)) == 3
    assert all(math.isfinite(score) for score in first)


def test_the_count_and_the_summed_saliencies_grow_with_size(prepared: Prepared) -> None:
    members = [SPACE.member(width, [1, 1]) for width in (4, 8, 16)]
    for name in ("parameters", "naswot", "synflow"):
        scores = [scorer(name, prepared, 0)(genome) for genome in members]
        assert all(a < b for a, b in itertools.pairwise(scores)), name
    assert [scorer("parameters", prepared, 0)(genome) for genome in members] == [cost(g).parameters for g in members]


def test_what_is_not_a_number_scores_worst(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: nn.Module, images: Tensor, labels: Tensor) -> float:
        return math.nan

    monkeypatch.setattr("training.proxies.PROXIES", {"snip": broken})
    assert scorer("snip", prepared, 0)(GENOME) == -math.inf


def test_a_score_keeps_six_digits_so_that_a_replay_elsewhere_ranks_alike(prepared: Prepared, tmp_path: Path) -> None:
    score = scorer("snip", prepared, 0)(GENOME)
    assert score == float(f"{score:.6g}")
