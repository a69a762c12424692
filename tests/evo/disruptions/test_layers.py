"""What the disruptions of single layers do."""

from __future__ import annotations

import random

import pytest
import torch

from genomes import cost, expand
from genomes.operations import Conv
from morphism import Inapplicable
from morphism.interpreter import run
from morphism.realise import realise
from tests.evo.disruptions.samples import example, named
from tests.morphism.samples import messy, probes


def test_a_smaller_kernel_inherits_the_inner_taps_in_every_call() -> None:
    genome = example()
    edit = named("shrink.kernel").plan(genome, {"module": "block", "node": "conv"}, random.Random(0))
    weights = messy(genome, 0)
    child = realise(edit, weights)
    for call in ("one", "two"):
        assert torch.equal(child[f"{call}/conv.weight"], weights[f"{call}/conv.weight"][:, :, 1:-1, 1:-1])
    assert expand(edit.genome).shape("two/conv") == expand(genome).shape("two/conv")


@pytest.mark.parametrize("node", ["conv", "mix"])
def test_what_is_separable_is_replaced_exactly(node: str) -> None:
    genome = example()
    weights = messy(genome, 0)
    for call in ("one", "two"):
        window, mix = weights[f"{call}/{node}.weight"][0].clone(), weights[f"{call}/{node}.weight"][:, :, 0, 0].clone()
        weights[f"{call}/{node}.weight"] = mix[:, :, None, None] * window
    edit = named("replace.separable").plan(genome, {"module": "block", "node": node}, random.Random(0))
    before, after = run(genome, weights, probes(0)), run(edit.genome, realise(edit, weights), probes(0))
    torch.testing.assert_close(before, after, rtol=1e-12, atol=1e-12)
    assert cost(edit.genome).macs < cost(genome).macs


def test_the_window_takes_stride_and_dilation_and_the_mix_takes_the_bias() -> None:
    genome = example()
    conv = Conv(6, 3, 2, 2, 2, bias=True)
    genome = genome.changed({"net": genome["net"].changed({"stem": conv, "wide": Conv(4, 1)}, [("stem", "wide"),
        ("wide", "one")], [("stem", "one")])})  # fmt: skip
    edit = named("replace.separable").plan(genome, {"module": "net", "node": "stem"}, random.Random(0))
    net = edit.genome["net"]
    assert net.operations["stem"] == Conv(6, 1, bias=True)
    assert net.operations[net.sources["stem"][0]] == Conv(2, 3, 2, 2, 2, groups=2)
    assert expand(edit.genome).shape("stem") == expand(genome).shape("stem")
    weights = messy(genome, 0)
    assert realise(edit, weights)["stem.bias"] is weights["stem.bias"]


def test_only_dense_windows_are_replaced() -> None:
    genome = example()
    for operation in (Conv.same(4, 3, groups=2), Conv(4, 1)):
        other = genome.changed({"block": genome["block"].changed({"mix": operation})})
        with pytest.raises(Inapplicable, match="dense"):
            named("replace.separable").plan(other, {"module": "block", "node": "mix"}, random.Random(0))


def test_noise_is_small_differs_between_calls_and_leaves_the_genome() -> None:
    genome = example()
    weights = messy(genome, 0)
    weights["two/mix.weight"] = weights["one/mix.weight"].clone()
    edit = named("widen.noise").plan(genome, {"module": "block", "node": "mix"}, random.Random(0))
    child = realise(edit, weights)
    assert edit.genome == genome
    assert set(edit.tensors) == {"one/mix.weight", "two/mix.weight"}
    noise = [child[name] - weights[name] for name in edit.tensors]
    for part, name in zip(noise, edit.tensors, strict=True):
        assert 0.005 < part.square().mean().sqrt() / weights[name].square().mean().sqrt() < 0.02
    assert not torch.equal(*noise)


def test_noise_parts_replicas() -> None:
    genome = example()
    weights = messy(genome, 0)
    for call in ("one", "two"):
        weights[f"{call}/conv.weight"][1] = weights[f"{call}/conv.weight"][0]
    edit = named("widen.noise").plan(genome, {"module": "block", "node": "conv"}, random.Random(0))
    rows = realise(edit, weights)["one/conv.weight"]
    assert not torch.equal(rows[0], rows[1])
