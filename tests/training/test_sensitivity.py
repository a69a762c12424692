from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from genomes import Genome, cost
from genomes.spaces.residual import ResidualSpace
from morphism import CATALOGUE, ZERO_INITIALISED, place
from morphism.interpreter import run
from morphism.realise import realise
from search import Candidate, Fidelity, WeightStore
from tests.morphism import samples
from tests.training.samples import SHAPE
from training import DataSpec, Recipe, Trainer, prepare
from training.loop import normalised
from training.sensitivity import EXAMPLES, SITES, _Layer, added, norm, sensitivities

NORMAL = (0.45, 0.25)
SPACE = ResidualSpace((1, 8, 8), 10)
GENOMES = (SPACE.member(8, [0, 1]), SPACE.member(4, [1, 1]), SPACE.starters()[-1])
TABLE = {kind.name: kind for kind in CATALOGUE}


def messy(genome: Genome, seed: int) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in samples.messy(genome, seed).items()}


def data(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 255, (300, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 10, (300,), generator=generator)


def alone(genome: Genome, weights: dict[str, Tensor], key: str, images: Tensor, labels: Tensor) -> float:
    """Returns what one edit, inserted alone, gets."""
    layer = _Layer(genome, dict(weights))
    sites = {place(kind.name, site): (kind, site) for kind in CATALOGUE for site in kind.sites(genome)}
    assert layer.insert(sites[key])
    return layer.measured(normalised(images[:EXAMPLES], NORMAL), labels[:EXAMPLES])[key]


@pytest.mark.parametrize("number", range(len(GENOMES)))
def test_what_shares_a_backward_pass_gets_what_it_would_get_alone(number: int) -> None:
    genome, weights, (images, labels) = GENOMES[number], messy(GENOMES[number], number), data(number)
    kept = {name: tensor.clone() for name, tensor in weights.items()}
    together = sensitivities(genome, weights, images, labels, NORMAL)
    assert len(together) > 20
    assert {key.split()[0] for key in together} <= ZERO_INITIALISED
    for key, found in sorted(together.items())[::4]:
        assert found == pytest.approx(alone(genome, weights, key, images, labels), rel=1e-3, abs=1e-7), key
    assert all(torch.equal(weights[name], kept[name]) for name in kept)


def test_every_kind_is_measured_somewhere_and_none_at_more_sites_than_allowed() -> None:
    found = [key.split()[0] for n, g in enumerate(GENOMES) for key in sensitivities(g, messy(g, n), *data(n), NORMAL)]
    assert set(found) == ZERO_INITIALISED
    per_genome = [key.split()[0] for key in sensitivities(GENOMES[0], messy(GENOMES[0], 0), *data(0), NORMAL)]
    assert max(per_genome.count(rule) for rule in ZERO_INITIALISED) == SITES


@pytest.mark.parametrize("rule", sorted(ZERO_INITIALISED))
def test_it_is_the_gradient_of_what_is_new_as_the_interpreter_finds_it(rule: str) -> None:
    checked = 0
    for number, genome in enumerate(GENOMES):
        weights, (images, labels) = messy(genome, number), data(number)
        batch, wanted = normalised(images[:EXAMPLES], NORMAL), labels[:EXAMPLES]
        for site in TABLE[rule].sites(genome)[:2]:
            key = place(rule, site)
            edit = TABLE[rule].plan(genome, site, random.Random(key))
            child = {name: tensor.clone().requires_grad_() for name, tensor in realise(edit, weights).items()}
            functional.cross_entropy(run(edit.genome, child, batch, train=True), wanted).backward()  # type: ignore[no-untyped-call]
            expected = norm([(child[name].grad, where) for name, where in added(edit, weights).items()])
            count = cost(edit.genome).parameters - cost(genome).parameters
            found = alone(genome, weights, key, images, labels)
            assert found == pytest.approx(expected / count**0.5, rel=1e-3, abs=1e-7)
            checked += found > 0
    assert checked >= 3


def test_what_the_parent_gave_is_not_new() -> None:
    genome, weights = GENOMES[0], messy(GENOMES[0], 0)
    grow, split = TABLE["kernel.grow"], TABLE["widen.zero_fanout"]
    edit = grow.plan(genome, grow.sites(genome)[0], random.Random(0))
    (new,) = added(edit, weights).values()
    assert not new[..., 1:-1, 1:-1].any()
    assert new[..., 0, :].all()
    assert new[..., :, -1].all()
    edit = split.plan(genome, split.sites(genome)[0], random.Random(0))
    new = added(edit, weights)
    read = [name for name, where in new.items() if where.any()]  # the new channels' own weights are copies
    assert read
    for name in read:
        assert int((~new[name]).sum()) == weights[name].numel()


def test_all_that_an_edit_adds_divides_the_gradient() -> None:
    genome, weights, kind = GENOMES[0], messy(GENOMES[0], 0), TABLE["widen.zero_fanout"]
    layer, site = _Layer(genome, dict(weights)), kind.sites(genome)[0]
    assert layer.insert((kind, site))
    (key,) = layer.new
    assert layer.size[key] == cost(layer.genome).parameters - cost(genome).parameters
    assert layer.size[key] > sum(int(where.sum()) for where in layer.new[key].values())


def test_gradients_of_statistics_and_of_nothing_count_for_nothing() -> None:
    assert norm([(None, torch.ones(3, dtype=torch.bool))]) == 0.0
    got = norm([(torch.tensor([3.0, 4.0, 9.0]), torch.tensor([True, True, False])), (None, torch.tensor([True]))])
    assert got == 5.0


def test_an_evaluation_says_what_the_loss_wants_only_if_asked(tmp_path: Path) -> None:
    prepared = prepare(DataSpec("tests.training.samples:blobs"), tmp_path / "data")
    founder, store = ResidualSpace(SHAPE, 4).starters()[0], WeightStore(tmp_path / "weights")
    for gradients in (True, False):
        trainer = Trainer(store, prepared, Recipe(batch_size=32), 7, 60.0, tmp_path / "scratch", gradients=gradients)
        got = trainer(Candidate(0, founder, fidelity=Fidelity(640)), {})
        assert got.ok, got.reason
        assert bool(got.gradients) == gradients
        assert all(value >= 0 for value in got.gradients.values())
