"""What every disruption promises; a newcomer joins by being in `DISRUPTIONS`."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
import torch

from evo import DISRUPTIONS
from genomes import Genome, InvalidGenome, check, expand
from morphism import Edit, Inapplicable, Morphism
from morphism.interpreter import run
from morphism.realise import realise
from tests.evo.disruptions.samples import GENOMES, example, planned
from tests.morphism.samples import drawn, messy, probes

LEAST_APPLICATIONS = 25  # of each disruption, else a test proves nothing
REFUSED = {"change.stride": 0.5}  # of the sites, at most: strides inside of sums; elsewhere the last channel of a group

each = pytest.mark.parametrize("disruption", DISRUPTIONS, ids=lambda disruption: disruption.name)


@each
def test_a_child_is_valid_and_gets_every_tensor_in_its_shape(disruption: Morphism) -> None:
    applied = 0
    for seed, genome, edit in planned(disruption):
        check(edit.genome)
        assert edit.rule == disruption.name
        assert (edit.genome == genome) == (disruption.name == "widen.noise")
        weights = realise(edit, messy(genome, seed))
        shapes = expand(edit.genome).tensor_shapes()
        assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == shapes
        assert run(edit.genome, weights, probes(seed)).isfinite().all()
        applied += 1
    assert applied >= LEAST_APPLICATIONS


@each
def test_no_promise_is_made(disruption: Morphism) -> None:
    assert disruption.modes == frozenset()
    assert (disruption.weight > 0) == (disruption.name != "widen.noise")
    assert all(edit.modes == frozenset() for _, _, edit in planned(disruption))


@each
def test_edits_survive_json(disruption: Morphism) -> None:
    for _, _, edit in planned(disruption):
        again = Edit.from_json(json.loads(json.dumps(edit.to_json())))
        assert again == edit
        assert again.digest == edit.digest


@each
def test_the_same_generator_plans_the_same_edit(disruption: Morphism) -> None:
    assert [edit.digest for _, _, edit in planned(disruption)] == [edit.digest for _, _, edit in planned(disruption)]


@each
def test_most_offered_sites_can_be_planned(disruption: Morphism) -> None:
    outcomes: Counter[bool] = Counter()
    for seed in range(GENOMES):
        genome = drawn(seed)
        for site in disruption.sites(genome):
            try:
                check(disruption.plan(genome, site, random.Random(seed)).genome)
            except (Inapplicable, InvalidGenome):
                outcomes[False] += 1
            else:
                outcomes[True] += 1
    assert outcomes[False] <= REFUSED.get(disruption.name, 0.15) * outcomes[True]


@each
def test_a_site_that_does_not_exist_is_refused(disruption: Morphism) -> None:
    genome = example()
    for site in ({"module": "net", "node": "nowhere", "port": 0}, {"module": "net", "node": "image", "port": 0}, {}):
        with pytest.raises(Inapplicable):
            disruption.plan(genome, site, random.Random(0))


@each
def test_parents_and_their_weights_stay_as_they_are(disruption: Morphism) -> None:
    for seed, genome, edit in planned(disruption):
        weights, digest = messy(genome, seed), genome.digest
        copies = {name: tensor.clone() for name, tensor in weights.items()}
        child = realise(edit, weights)
        assert all(torch.equal(weights[name], copies[name]) for name in copies)
        kept = [name for name in child if name not in edit.tensors]
        assert all(child[name] is weights[name] for name in kept)
        assert Genome.from_json(genome.to_json()).digest == digest
