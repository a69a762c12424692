"""An edit and what undoes it leave nothing."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress

import torch

from morphism import CATALOGUE, Inapplicable, compose, undo
from morphism.realise import realise
from tests.morphism.samples import drawn, messy

TO_THE_LAST_PLACE = {
    "widen.split",
    "branch.replicate",
    "deepen.factorise",
    "attention.head",
    "widen.replicate",
}


def test_undoing_gives_back_the_genome_and_the_weights() -> None:
    undone: Counter[str] = Counter()
    for seed in range(12):
        genome, rng = drawn(seed), random.Random(seed)
        weights = messy(genome, seed)
        for morphism in CATALOGUE:
            for site in rng.sample(list(morphism.sites(genome)), min(1, len(morphism.sites(genome)))):
                with suppress(Inapplicable):
                    edit = morphism.plan(genome, site, rng)
                    back = undo(genome, edit)
                    again = realise(back, realise(edit, weights))
                    assert back.genome == genome
                    for name, tensor in weights.items():
                        if morphism.name in TO_THE_LAST_PLACE:
                            torch.testing.assert_close(again[name], tensor, rtol=1e-12, atol=1e-12)
                        else:
                            assert torch.equal(again[name], tensor), f"genome {seed}: {edit.rule}: {name}"
                    both = compose(edit, back, parent=genome)
                    assert both.genome == genome
                    undone[morphism.name] += 1
    assert undone["kernel.grow"] >= 2
    assert undone["widen.zero_fanout"] >= 2
    assert undone["deepen.residual"] >= 2
