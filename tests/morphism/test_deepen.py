"""What is particular to the morphisms that add layers; what all share is in test_contract."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch

from genomes import Genome, cost, expand
from genomes.operations import BatchNorm, Blend, Conv, Flatten, GlobalPool, Linear, Operation, PReLU, ReLU
from morphism import Inapplicable, deepen
from morphism.certificate import relative_error
from morphism.deepen import inverted, narrow, plain, separable
from morphism.interpreter import run
from morphism.realise import realise
from tests.morphism.samples import messy
from tests.morphism.test_channels import chain
from tests.morphism.test_families import PLAIN, TABLE, kinds, plan

BARE = chain(c=Conv(4, 3, 2, 1, bias=True), r=ReLU(), g=GlobalPool(), f=Flatten(), l=Linear(6), s=PReLU(), h=Linear(3))


def images_of(genome: Genome) -> torch.Tensor:
    shape = expand(genome).shape("x")
    return torch.randn((8, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("branch", "added"),
    [
        (plain, Counter(conv=2, batch_norm=2, relu=1, add=1)),
        (narrow, Counter(conv=2, batch_norm=2, relu=1, add=1)),
        (separable, Counter(conv=4, batch_norm=2, relu=1, add=1)),
        (inverted, Counter(conv=3, batch_norm=3, relu=2, add=1)),
    ],
)
def test_a_residual_branch_ends_in_a_norm_of_zero_weight_and_may_be_put_in_again(
    branch: Callable[[int], list[Operation]], added: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deepen, "BRANCHES", (branch,))
    once = plan("deepen.residual", PLAIN, node="r")
    assert kinds(once.genome) - kinds(PLAIN) == added
    weights = realise(once, messy(PLAIN, 0))
    zeros = [name for name, tensor in weights.items() if name.endswith("weight") and not tensor.any()]
    assert len(zeros) == 1
    twice = plan("deepen.residual", once.genome, node="r")
    assert len(twice.genome["net"].nodes) == len(PLAIN["net"].nodes) + 2 * added.total()


def test_each_branch_is_drawn_and_the_separable_one_has_the_fewest_parameters() -> None:
    grown = [plan("deepen.residual", PLAIN, seed, node="r").genome for seed in range(40)]
    sizes = {cost(genome).parameters - cost(PLAIN).parameters for genome in grown}
    width, norm = 8, 16
    expected = {
        "plain": 2 * 9 * width**2 + 2 * norm,
        "narrow": 9 * width**2 + norm // 2 + norm,
        "separable": 2 * (9 * width + width**2) + 2 * norm,
        "inverted": 6 * width**2 + 27 * width + 7 * norm,
    }
    assert sizes == set(expected.values())
    assert min(sizes) == expected["separable"]


def test_identity_layers_stand_only_behind_relu() -> None:
    assert [site["node"] for site in TABLE["deepen.identity"].sites(PLAIN)] == ["r"]
    with pytest.raises(Inapplicable):
        plan("deepen.identity", PLAIN, node="s")
    vector = chain(f=Flatten(), l=Linear(6), r=ReLU(), h=Linear(2))
    assert kinds(plan("deepen.identity", vector, node="r").genome)["linear"] == 3


@pytest.mark.parametrize(("name", "kind"), [("deepen.prelu", PReLU), ("deepen.blend", Blend)])
def test_a_parametric_layer_stands_behind_anything_but_the_outputs(name: str, kind: type) -> None:
    sites = [site["node"] for site in TABLE[name].sites(BARE)]
    assert sites == sorted("crgfls")
    for node in sites:
        added = kinds(plan(name, BARE, node=node).genome) - kinds(BARE)
        assert added == Counter({"linear" if node in "fls" else "conv": 1, kind.kind: 1})
    for node in ("y", "nowhere"):
        with pytest.raises(Inapplicable):
            plan(name, BARE, node=node)


def test_a_blend_may_become_each_of_the_usual_activations() -> None:
    grown = [plan("deepen.blend", BARE, seed, node="c").genome["net"].operations.values() for seed in range(20)]
    blends = {op for operations in grown for op in operations if isinstance(op, Blend)}
    assert blends == {Blend("identity", second) for second in ("relu", "silu", "gelu")}


@pytest.mark.parametrize("node", ["c", "l"])
@pytest.mark.parametrize("measured", [False, True])
def test_an_identity_norm_keeps_the_function_in_eval_mode_only(node: str, measured: bool) -> None:
    edit, weights, images = plan("deepen.norm", BARE, node=node), messy(BARE, 0), images_of(BARE)
    assert edit.modes == {"eval"}
    child = realise(edit, weights, batch=images if measured else None)
    wanted, got, trained = (
        run(BARE, weights, images), run(edit.genome, child, images), run(edit.genome, child, images, train=True)
    )  # fmt: skip
    assert relative_error(wanted, got) <= 1e-12
    # on the very batch that was measured, train mode is the same as well; on another one it is not
    assert (relative_error(wanted, trained) <= 1e-10) is measured
    assert relative_error(run(BARE, weights, images[:4]), run(edit.genome, child, images[:4], train=True)) > 1e-3


def test_an_identity_norm_without_epsilon_would_be_seen() -> None:
    edit, weights, images = plan("deepen.norm", BARE, node="c"), messy(BARE, 0), images_of(BARE)
    child = realise(edit, weights)
    (norm,) = (name for name in child if "batch_norm" in name and name.endswith("weight"))
    forgotten = {**child, norm: torch.ones_like(child[norm])}
    assert relative_error(run(BARE, weights, images), run(edit.genome, forgotten, images)) > 1e-7


def test_a_norm_joins_only_what_activations_alone_read() -> None:
    assert [site["node"] for site in TABLE["deepen.norm"].sites(BARE)] == ["c", "l"]
    assert [site["node"] for site in TABLE["deepen.norm"].sites(PLAIN)] == ["d"]  # c has a norm
    joined = plan("skip.add", PLAIN, source="r", node="s").genome  # its convolution is zero
    assert [site["node"] for site in TABLE["deepen.norm"].sites(joined)] == ["d"]
    with pytest.raises(Inapplicable):
        plan("deepen.norm", PLAIN, node="c")


@pytest.mark.parametrize(("node", "rank"), [("c", 4), ("l", 4), ("h", 3)])
def test_the_product_of_the_factors_is_the_old_weight(node: str, rank: int) -> None:
    edit, weights = plan("deepen.factorise", BARE, node=node), messy(BARE, 0)
    (first,) = set(edit.genome["net"].operations) - set(BARE["net"].operations)
    assert edit.site["channels"] == rank
    old, new = BARE["net"].operations[node], edit.genome["net"].operations[first]
    if isinstance(old, Conv):
        assert new == Conv(rank, old.kernel, old.stride, old.padding)
        assert edit.genome["net"].operations[node] == Conv(old.out_channels, 1, bias=True)
    child = realise(edit, weights)
    product = child[f"{node}.weight"].flatten(1) @ child[f"{first}.weight"].flatten(1)
    torch.testing.assert_close(product, weights[f"{node}.weight"].flatten(1), rtol=1e-12, atol=1e-13)
    assert child[f"{node}.bias"] is weights[f"{node}.bias"]


def test_factors_of_a_zero_or_degenerate_weight_are_not_zero_both() -> None:
    edit, weights = plan("deepen.factorise", BARE, node="c"), messy(BARE, 0)
    (first,) = (name for name in edit.tensors if name != "c.weight")
    twice = torch.stack([*weights["c.weight"][:2], *weights["c.weight"][:2]])
    for weight in (torch.zeros_like(twice), twice):
        child = realise(edit, {**weights, "c.weight": weight})
        assert child[first].flatten(1).norm(dim=1).min() > 0.01
        product = child["c.weight"].flatten(1) @ child[first].flatten(1)
        torch.testing.assert_close(product, weight.flatten(1), rtol=1e-12, atol=1e-13)


def test_only_dense_layers_are_factorised() -> None:
    genome = chain(a=Conv(4, 1), c=Conv.same(4, 3, groups=2), n=BatchNorm(), g=GlobalPool(), f=Flatten(), h=Linear(3))
    assert [site["node"] for site in TABLE["deepen.factorise"].sites(genome)] == ["a", "h"]
    for node in ("c", "n", "x"):
        with pytest.raises(Inapplicable):
            plan("deepen.factorise", genome, node=node)
