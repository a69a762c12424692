from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genomes import Genome, cost, features
from genomes.spaces.residual import ResidualSpace
from tests.drawing import seeded_genome

SPACE = ResidualSpace((1, 16, 16), 4)


@given(st.integers(0, 200))
def test_features_are_finite_and_not_below_zero(seed: int) -> None:
    found = features(seeded_genome(seed, (2, 12, 12), 3))
    assert all(math.isfinite(value) and value >= 0 for value in found.values())
    assert json.loads(json.dumps(found)) == found


@given(st.integers(0, 200))
def test_names_are_no_feature(seed: int) -> None:
    genome = seeded_genome(seed, (2, 12, 12), 3)
    modules = {name: json.loads(genome.to_json())["modules"][name] for name, _ in genome.modules}
    for module in modules.values():
        names = {node["id"]: f"n{number}" for number, node in enumerate(module["nodes"])}
        module["nodes"] = sorted(({**n, "id": names[n["id"]]} for n in module["nodes"]), key=lambda node: node["id"])
        module["edges"] = sorted([names[source], names[target], port] for source, target, port in module["edges"])
    document = {"schema": 1, "root": genome.root, "modules": modules}
    other = Genome.from_json(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())
    assert features(other) == pytest.approx(features(genome))


def test_costs_are_logarithms() -> None:
    genome = SPACE.member(6, [1, 1])
    found, counted = features(genome), cost(genome)
    assert {name: found[name] for name in vars(counted)} == {n: math.log1p(c) for n, c in vars(counted).items()}


def test_depth_counts_the_layers_that_mix_channels_on_the_longest_way() -> None:
    """Stem, two in the block, which has a way around it, and the head."""
    assert features(SPACE.member(6, [1]))["depth"] == pytest.approx(math.log1p(4))
    assert features(SPACE.member(6, [0]))["depth"] == pytest.approx(math.log1p(2))


def test_pointwise_and_grouped_convolutions_are_kinds_of_their_own() -> None:
    found = features(SPACE.member(6, [1], separable=True))
    assert [found[name] for name in ("conv", "grouped conv", "pointwise conv")] == pytest.approx(
        [math.log1p(count) for count in (1, 2, 2)]
    )
    assert "grouped conv" not in features(SPACE.member(6, [1]))


def test_the_smallest_image_that_is_one_says_where_the_network_ends() -> None:
    assert features(SPACE.member(6, [0, 0]))["pixels"] == pytest.approx(math.log1p(8 * 8))
