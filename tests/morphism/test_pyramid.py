"""What is particular to the pyramid head; what all morphisms share is in test_contract."""

from __future__ import annotations

from itertools import pairwise

import pytest

from genomes import Genome, expand
from genomes.operations import AvgPool, Conv, Flatten, GlobalPool, Linear, MaxPool, Operation, ReLU
from morphism import Inapplicable
from tests.morphism.test_channels import net
from tests.morphism.test_families import TABLE, kinds, plan

PYRAMID = TABLE["head.pyramid"]
HEAD: dict[str, Operation] = {"r": ReLU(), "g": GlobalPool(), "f": Flatten(), "h": Linear(4)}


def over(side: int) -> Genome:
    """Returns a network that pools five channels of an image of so many pixels each way."""
    nodes = {"c": Conv(5, 3), **HEAD}
    return net(nodes, list(pairwise(["x", *nodes, "y"])), (2, side + 2, side + 2))


@pytest.mark.parametrize("side", [6, 7])
def test_the_head_reads_the_whole_image_on_each_grid_beside_its_mean(side: int) -> None:
    found = set()
    for seed in range(60):
        grown = plan("head.pyramid", over(side), seed, node="h").genome
        (pool,) = (op for op in grown["net"].operations.values() if isinstance(op, MaxPool))
        cells = -(-side // pool.kernel)
        assert expand(grown).primitives["h"].in_shapes[0] == (5 + 5 * cells**2,)
        found.add((type(pool), cells))
    assert found == {(MaxPool, 1), (AvgPool, 2), (MaxPool, 2), (AvgPool, 3), (MaxPool, 3)}


@pytest.mark.parametrize(("side", "grids"), [(4, {1, 2}), (32, {2, 3}), (64, {3})])
def test_a_grid_has_just_so_many_cells_and_no_pool_is_too_large(side: int, grids: set[int]) -> None:
    found = {
        expand(plan("head.pyramid", over(side), s, node="h").genome).primitives["h"].in_shapes[0] for s in range(20)
    }
    assert found == {(5 + 5 * grid**2,) for grid in grids}


def test_no_grid_is_as_fine_as_the_image() -> None:
    reads = {expand(plan("head.pyramid", over(2), s, node="h").genome).primitives["h"].in_shapes[0] for s in range(20)}
    assert reads == {(10,)}


def test_only_a_linear_map_right_behind_a_global_pool_over_an_image_has_a_site() -> None:
    assert [site["node"] for site in PYRAMID.sites(over(6))] == ["h"]
    assert not PYRAMID.sites(over(1))
    assert not PYRAMID.sites(over(94))  # no pool is so large
    nodes = {"c": Conv(5, 3), **HEAD, "s": ReLU(), "l": Linear(3)}
    deeper = net(nodes, list(pairwise(["x", *nodes, "y"])), (2, 8, 8))
    assert [site["node"] for site in PYRAMID.sites(deeper)] == ["h"]
    for genome, node in ((deeper, "l"), (over(1), "h"), (over(6), "r")):
        with pytest.raises(Inapplicable, match="global pool"):
            plan("head.pyramid", genome, node=node)


def test_a_head_is_given_one_grid() -> None:
    grown = plan("head.pyramid", over(6), node="h").genome
    assert not PYRAMID.sites(grown)
    added = kinds(grown) - kinds(over(6))
    assert added["flatten"] == added["concat"] == 1
    assert added.total() == 3
