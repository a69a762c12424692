from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from genomes import Genome
from genomes.spaces.residual import ResidualSpace
from morphism import Edit
from morphism.channels import channels
from morphism.realise import initial, realise
from morphism.rewire import balanced, rewire
from search import Fidelity
from training import BuildError, DataSpec, Recipe, build, load, prepare, state
from training.data import Prepared, Split
from training.evaluate import error
from training.loop import normalised, train
from training.norms import BATCHES, SIZE, batches
from training.statistics import reestimate

FOUNDER = ResidualSpace((1, 8, 8), 10).starters()[0]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(DataSpec("digits"), tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def split(prepared: Prepared) -> Split:
    return load(prepared)


def trained(split: Split, prepared: Prepared, seed: int) -> dict[str, Tensor]:
    network = build(FOUNDER, initial(FOUNDER, seed))
    generator = torch.Generator().manual_seed(seed)
    train(network, *split.train, Recipe(batch_size=64), Fidelity(6_000), generator, prepared.normal)
    return state(network)


def pruned(weights: dict[str, Tensor], seed: int) -> tuple[Genome, dict[str, Tensor]]:
    """Returns the founder without a random quarter of its channels."""
    table = channels(FOUNDER)
    free = sorted(symbol for symbol in table.classes if symbol not in table.frozen)
    gone = random.Random(seed).sample(free, len(free) // 4)
    genome, tensors = rewire(FOUNDER, balanced(FOUNDER, dict.fromkeys(gone, ()), None))
    return genome, realise(Edit("prune", {}, genome, tensors), weights)


def test_statistics_measured_anew_help_a_pruned_network(prepared: Prepared, split: Split) -> None:
    before, after = list[float](), list[float]()
    for seed in range(12):
        genome, weights = pruned(trained(split, prepared, seed), seed)
        measured = reestimate(genome, weights, split.train.images, prepared.normal)
        for errors, tensors in ((before, weights), (after, measured)):
            errors.append(error(build(genome, tensors), *split.validation, prepared.normal))
    assert sum(after) / 12 < sum(before) / 12 - 0.05
    assert sum(b > a for b, a in zip(before, after, strict=True)) >= 8  # 10, where it was written


def test_only_statistics_change_and_the_given_tensors_do_not(prepared: Prepared, split: Split) -> None:
    weights = initial(FOUNDER, 0)
    kept = {name: tensor.clone() for name, tensor in weights.items()}
    got = reestimate(FOUNDER, weights, split.train.images, prepared.normal)
    changed = {name for name in got if not torch.equal(got[name], kept[name])}
    assert changed == {name for name in got if "running" in name}
    assert all(torch.equal(weights[name], kept[name]) for name in kept)


def test_the_statistics_are_the_means_over_the_batches() -> None:
    images = torch.randint(0, 255, (600, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    got = reestimate(FOUNDER, initial(FOUNDER, 0), images, (0.4, 0.3))
    network, means, sizes = build(FOUNDER, initial(FOUNDER, 0)).train(), list[Tensor](), (256, 256, 88)
    path, norm = next(
        (network.meta["paths"][n], m) for n, m in network.named_children() if isinstance(m, nn.BatchNorm2d)
    )
    norm.register_forward_pre_hook(lambda _, inputs: means.append(inputs[0].detach().mean((0, 2, 3))))
    for batch in torch.split(images, 256):
        network(normalised(batch, (0.4, 0.3)))
    wanted = sum(mean * size for mean, size in zip(means, sizes, strict=True)) / 600
    assert torch.allclose(got[f"{path}.running_mean"], torch.as_tensor(wanted), atol=1e-6)


@pytest.mark.parametrize(("count", "sizes"), [(600, [256, 256, 88]), (513, [256, 256]), (1, [1]), (2_817, [256] * 11)])
def test_a_single_image_is_no_batch_beside_others(count: int, sizes: list[int]) -> None:
    assert [len(batch) for batch in batches(torch.zeros(count, 1))] == sizes


def test_statistics_are_the_same_each_time_and_need_only_the_first_batches(prepared: Prepared) -> None:
    count = BATCHES * SIZE
    images = torch.randint(0, 255, (count + 50, 1, 8, 8), dtype=torch.uint8)
    first = reestimate(FOUNDER, initial(FOUNDER, 0), images, prepared.normal)
    again = reestimate(FOUNDER, first, images[:count], prepared.normal)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_weights_that_do_not_fit_are_refused(prepared: Prepared, split: Split) -> None:
    with pytest.raises(BuildError, match="missing"):
        reestimate(FOUNDER, {}, split.train.images, prepared.normal)
