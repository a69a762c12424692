"""Laws of the average of the weights, and that training ends with it and with the statistics that belong to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from morphism.realise import initial
from search import Fidelity
from tests.training.test_loop import GENOME, NORMAL, stripes, trained
from training import Recipe, build, state
from training.average import Average
from training.loop import normalised, train
from training.norms import remeasure

RECIPE = Recipe(batch_size=32, crop=0, precision="float32")


pytestmark = pytest.mark.usefixtures("one_thread")


def followed(values: list[float], horizon: float) -> float:
    """Returns what the average makes of a weight that takes these values."""
    network = nn.Linear(1, 1, bias=False).double()
    average = Average(network, horizon)
    for value in values:
        with torch.no_grad():
            network.weight.fill_(value)
        average.begin()
        average.update()
    average.install(iter(()))
    return network.weight.item()


VALUES = st.lists(st.floats(-10, 10), min_size=1, max_size=30)


@settings(deadline=None)
@given(VALUES, st.floats(0.01, 100))
def test_the_average_lies_between_the_least_and_the_largest(values: list[float], horizon: float) -> None:
    assert min(values) - 1e-9 <= followed(values, horizon) <= max(values) + 1e-9


@settings(deadline=None)
@given(VALUES)
def test_a_long_horizon_is_the_plain_mean_and_the_start_has_no_part_in_it(values: list[float]) -> None:
    assert followed(values, 1000.0) == pytest.approx(sum(values) / len(values), abs=1e-9)


@settings(deadline=None)
@given(VALUES, st.floats(0.0, 1.0))
def test_a_horizon_of_a_step_or_less_is_the_last_step(values: list[float], horizon: float) -> None:
    assert followed(values, horizon) == values[-1]


def test_beyond_the_horizon_it_forgets_at_a_constant_rate() -> None:
    assert followed([1.0] * 4 + [0.0] * 8, 4.0) == pytest.approx(0.75**8)


def test_the_network_trains_as_without_an_average() -> None:
    _, curve = trained(RECIPE)
    weights, averaged = trained(Recipe(**{**vars(RECIPE), "averaging": 0.3}))
    assert curve == averaged
    assert not torch.equal(weights["head.weight"], trained(RECIPE)[0]["head.weight"])


def test_an_average_over_less_than_a_step_keeps_the_last_weights_and_measures_statistics_only() -> None:
    weights, _ = trained(RECIPE)
    measured, _ = trained(Recipe(**{**vars(RECIPE), "averaging": 1e-9}))
    different = {name for name in weights if not torch.equal(weights[name], measured[name])}
    assert different == {"norm.running_mean", "norm.running_var"}


def test_the_statistics_are_those_of_the_averaged_weights() -> None:
    network, (images, labels) = build(GENOME, initial(GENOME, 0)), stripes(200)
    recipe = Recipe(**{**vars(RECIPE), "averaging": 0.5})
    train(network, images, labels, recipe, Fidelity(1600), torch.Generator().manual_seed(1), NORMAL)
    got = {name: tensor.clone() for name, tensor in state(network).items()}
    maps = nn.functional.conv2d(normalised(images, NORMAL), got["conv.weight"], padding=1)
    torch.testing.assert_close(got["norm.running_mean"], maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got["norm.running_var"], maps.var((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_measuring_anew_changes_statistics_only_and_leaves_the_momentum() -> None:
    network, images = build(GENOME, initial(GENOME, 0)), stripes(64)[0]
    before = {name: tensor.clone() for name, tensor in state(network).items()}
    drawn: list[int] = []

    def batches() -> Iterator[Tensor]:
        for some in torch.split(images, 16):
            drawn.append(len(some))
            yield normalised(some, NORMAL)

    remeasure(network, batches())
    after = state(network)
    assert {name for name in after if not torch.equal(after[name], before[name])} == {
        "norm.running_mean",
        "norm.running_var",
    }
    assert drawn == [16] * 4
    assert not any(module.training for module in network.modules())
    assert network.get_submodule("norm").momentum == 0.1
    remeasure(nn.Sequential(nn.Flatten()), batches())
    assert drawn == [16] * 4  # none is drawn for a network without a norm
