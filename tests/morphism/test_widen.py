"""What is particular to the ways to widen; what all morphisms share is in test_contract."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch

from genomes import Genome, Module, expand
from genomes.operations import (
    Add,
    Attention,
    Conv,
    Flatten,
    GlobalPool,
    GroupNorm,
    Input,
    LayerNorm,
    Linear,
    Output,
    ReLU,
)
from morphism import EXACT, Edit, Inapplicable
from morphism.certificate import certify, relative_error
from morphism.interpreter import run
from morphism.realise import realise
from morphism.tensors import Gather
from tests.morphism.samples import SHAPE, messy
from tests.morphism.test_channels import chain
from tests.morphism.test_families import PLAIN, TABLE, plan

COUPLED = {
    "layer": chain(c=Conv(4, 1), n=LayerNorm(), r=ReLU(), g=GlobalPool(), f=Flatten(), h=Linear(3)),
    "group": chain(c=Conv(4, 1), n=GroupNorm(2), r=ReLU(), g=GlobalPool(), f=Flatten(), h=Linear(3)),
}


def proved(genome: Genome, edit: Edit) -> bool:
    weights = messy(genome, 0)
    return certify(genome, edit, weights, realise(edit, weights), 0).verdict


def test_widening_grows_the_width_by_a_quarter_to_the_double() -> None:
    genome, widths = chain(c=Conv(16, 1), r=ReLU(), g=GlobalPool(), f=Flatten(), h=Linear(4)), set()
    for seed in range(40):
        edit = plan("widen.split", genome, seed, node="c")
        operation = edit.genome["net"].operations["c"]
        assert isinstance(operation, Conv)
        assert edit.site["channels"] == operation.out_channels
        widths.add(operation.out_channels)
    assert min(widths) in (20, 21)
    assert max(widths) in (31, 32)
    assert len(widths) >= 8


def test_one_channel_can_be_widened() -> None:
    genome = chain(c=Conv(1, 1), r=ReLU(), g=GlobalPool(), f=Flatten(), h=Linear(4))
    for name in ("widen.split", "widen.zero_fanout"):
        assert plan(name, genome, node="c").genome["net"].operations["c"] == Conv(2, 1)


def test_the_logits_and_the_input_cannot_be_widened() -> None:
    for name in ("widen.split", "widen.zero_fanout"):
        assert [site["node"] for site in TABLE[name].sites(PLAIN)] == ["c", "d"]
        for node in ("h", "x"):
            with pytest.raises(Inapplicable):
                plan(name, PLAIN, node=node)


def test_channels_that_change_together_are_one_site() -> None:
    for seed in range(40):
        genome = plan("deepen.residual", PLAIN, seed, node="r").genome
        nodes = [site["node"] for site in TABLE["widen.split"].sites(genome)]
        assert len(nodes) == 3  # the stem with the branch's end, the branch's middle, and d


@pytest.mark.parametrize("norm", sorted(COUPLED))
def test_a_norm_over_channels_allows_only_replicas_of_all_in_place(norm: str) -> None:
    genome, widths = COUPLED[norm], set()
    for name in ("widen.split", "widen.replicate"):
        assert {"module": "net", "node": "c"} in TABLE[name].sites(genome)
        for seed in range(12):
            edit = plan(name, genome, seed, node="c")
            widths.add(edit.site["channels"])
            assert proved(genome, edit)
    assert widths == {8, 12}
    for name in ("widen.zero_fanout", "widen.pair"):
        assert not TABLE[name].sites(genome)
        with pytest.raises(Inapplicable, match="norm over the channels"):
            plan(name, genome, node="c")


def test_appended_replicas_would_break_a_group_norm() -> None:
    genome, weights = COUPLED["group"], messy(COUPLED["group"], 0)
    edit = next(e for s in range(9) if (e := plan("widen.split", genome, s, node="c")).site["channels"] == 8)
    rows = edit.tensors["c.weight"]
    assert isinstance(rows, Gather)
    assert rows.index == (0, 0, 1, 1, 2, 2, 3, 3)
    child = realise(edit, weights)
    order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])  # every copy behind all old channels
    appended = {name: tensor[order] if len(tensor) == 8 else tensor for name, tensor in child.items()}
    appended["h.weight"] = child["h.weight"][:, order]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((4, *expand(genome).shape("x")), generator=generator, dtype=torch.float64)
    wanted = run(genome, weights, images)
    assert relative_error(wanted, run(edit.genome, child, images)) <= 1e-12
    assert relative_error(wanted, run(edit.genome, appended, images)) > 1e-3


def test_a_residual_stream_under_layer_norm_grows_as_one() -> None:
    nodes = {
        "x": Input(0, SHAPE), "a": Conv(4, 1), "n": LayerNorm(), "b": Conv(6, 1), "r": ReLU(), "c": Conv(4, 1),
        "s": Add(), "m": LayerNorm(), "g": GlobalPool(), "f": Flatten(), "h": Linear(3), "y": Output(),
    }  # fmt: skip
    genome = Genome.of({"net": Module.of(nodes, [*pairwise(nodes), ("a", "s", 1)])})
    assert [site["node"] for site in TABLE["widen.split"].sites(genome)] == ["a", "b"]
    edit = next(e for s in range(9) if (e := plan("widen.split", genome, s, node="a")).site["channels"] == 8)
    assert edit.genome["net"].operations["c"] == Conv(8, 1)
    assert proved(genome, edit)


def test_what_a_norm_shares_with_frozen_channels_cannot_grow() -> None:
    genome = chain(n=LayerNorm(), c=Conv(4, 1), g=GlobalPool(), f=Flatten(), h=Linear(3), m=LayerNorm())
    assert [site["node"] for site in TABLE["widen.split"].sites(genome)] == ["c"]
    with pytest.raises(Inapplicable, match="norm over the channels"):
        plan("widen.split", genome, node="h")


@pytest.mark.parametrize("name", ["widen.split", "widen.pair", "widen.zero_fanout", "widen.replicate"])
def test_the_values_of_attention_grow_head_by_head_and_queries_not_at_all(name: str) -> None:
    nodes = {
        "x": Input(0, SHAPE), "q": Conv(4, 1), "k": Conv(4, 1), "v": Conv(6, 1), "a": Attention(2), "p": Conv(4, 1),
        "g": GlobalPool(), "f": Flatten(), "h": Linear(3), "y": Output(),
    }  # fmt: skip
    reads = [("x", "q"), ("x", "k"), ("x", "v"), ("q", "a", 0), ("k", "a", 1), ("v", "a", 2)]
    genome = Genome.of({"net": Module.of(nodes, [*reads, *pairwise(list(nodes)[4:])])})
    assert [site["node"] for site in TABLE[name].sites(genome)] == ["p", "v"]
    for seed in range(6):
        edit = plan(name, genome, seed, node="v")
        assert edit.site["channels"] % 2 == 0
        assert proved(genome, edit)


def test_pairs_come_in_even_counts_with_equal_rows_and_opposite_columns() -> None:
    genome = chain(c=Conv(8, 1), r=ReLU(), g=GlobalPool(), f=Flatten(), h=Linear(4))
    for seed in range(8):
        edit = plan("widen.pair", genome, seed, node="c")
        rows, columns = edit.tensors["c.weight"], edit.tensors["h.weight"]
        assert isinstance(rows, Gather)
        assert isinstance(columns, Gather)
        assert edit.modes == EXACT
        new = [k for k, source in enumerate(rows.index) if source == -1]
        child = realise(edit, messy(genome, seed))
        assert len(rows.index) == 8 + 2 * len(new)
        for k in new:
            assert torch.equal(child["c.weight"][k], child["c.weight"][k + 1])
            assert torch.equal(child["h.weight"][:, k], -child["h.weight"][:, k + 1])
            assert child["h.weight"][:, k].any()


def test_the_same_edit_at_a_tripled_width_is_drawn_now_and_then() -> None:
    drawn = [plan("widen.split", COUPLED["layer"], seed, node="c").site["channels"] for seed in range(100)]
    assert 5 <= drawn.count(12) <= 40


def test_planning_draws_from_the_given_generator_alone() -> None:
    state = random.getstate()
    plan("widen.pair", PLAIN, node="c")
    assert random.getstate() == state


@pytest.mark.parametrize("name", ["widen.replicate", "widen.pair", "widen.zero_fanout"])
def test_no_way_to_widen_goes_beyond_the_double(name: str) -> None:
    genome = chain(c=Conv(16, 1), r=ReLU(), g=GlobalPool(), f=Flatten(), h=Linear(4))
    widths = {plan(name, genome, seed, node="c").site["channels"] for seed in range(40)}
    assert 20 <= min(widths) < max(widths) <= 32
