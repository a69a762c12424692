"""What is particular to squeeze-excite and attention; what they share with all morphisms is in test_contract."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from torch import Tensor

from genomes import Genome, cost, expand
from genomes.operations import (
    Add,
    Attention,
    BatchNorm,
    Conv,
    Flatten,
    GlobalPool,
    Input,
    Linear,
    MaxPool,
    Mul,
    Operation,
    ReLU,
    Scale,
    Sigmoid,
)
from morphism import Edit, Inapplicable, Morphism
from morphism.attention import GrowHeads, InsertAttention, InsertExcitation
from morphism.interpreter import run
from morphism.realise import realise
from tests.morphism.samples import SHAPE, messy, probes
from tests.morphism.test_channels import chain, net

PLAIN = chain(c=Conv(8, 1), b=BatchNorm(), r=ReLU(), d=Conv(8, 1), g=GlobalPool(), f=Flatten(), h=Linear(3))
PLAIN = PLAIN.changed({"net": PLAIN["net"].changed({"x": Input(0, SHAPE)})})


def attending(query: Operation | None = None, key: Operation | None = None, heads: int = 2) -> Genome:
    """Returns a network with attention of two heads of dimension 3, whose queries and keys have a bias."""
    conv = Conv(6, 1, bias=True)
    genome = net(
        {"c": Conv(8, 1), "q": query or conv, "k": key or conv, "v": Conv(4, 1), "a": Attention(heads), "o": Conv(8, 1),
         "s": Add(), "g": GlobalPool(), "f": Flatten(), "h": Linear(3)},
        [("x", "c"), ("c", "q"), ("c", "k"), ("c", "v"), ("q", "a", 0), ("k", "a", 1), ("v", "a", 2), ("a", "o"),
         ("c", "s", 0), ("o", "s", 1), ("s", "g"), ("g", "f"), ("f", "h"), ("h", "y")],
    )  # fmt: skip
    return genome.changed({"net": genome["net"].changed({"x": Input(0, SHAPE)})})


def plan(rule: Morphism, genome: Genome, node: str, seed: int = 0) -> Edit:
    return rule.plan(genome, {"module": "net", "node": node}, random.Random(seed))


def added(edit: Edit, genome: Genome) -> list[Operation]:
    return [op for node, op in edit.genome["net"].nodes if node not in genome["net"].operations]


def gradients(edit: Edit, weights: dict[str, Tensor], steps: int) -> list[dict[str, Tensor]]:
    """Returns the gradients of each step of gradient descent."""
    current, found = {name: tensor.clone() for name, tensor in weights.items()}, []
    names = [name for name in current if "running" not in name]
    for _ in range(steps):
        for name in names:
            current[name].requires_grad_(True)
        loss = torch.nn.functional.cross_entropy(run(edit.genome, current, probes(0), train=True), torch.arange(8) % 3)
        found.append(dict(zip(names, torch.autograd.grad(loss, [current[n] for n in names]), strict=True)))
        for name in names:
            current[name] = (current[name] - 0.1 * found[-1][name]).detach()
    return found


@pytest.mark.parametrize("rule", [InsertExcitation(), InsertAttention()], ids=lambda rule: rule.name)
def test_what_is_inserted_changes_no_bit_and_learns_within_two_steps(rule: Morphism) -> None:
    for seed in range(6):
        edit, weights = plan(rule, PLAIN, "r", seed), messy(PLAIN, seed)
        child = realise(edit, weights)
        for train in (False, True):
            assert torch.equal(run(PLAIN, weights, probes(0), train), run(edit.genome, child, probes(0), train))
        first, second = gradients(edit, child, 2)
        zeros = [name for name in edit.tensors if not child[name].any() and name.endswith("weight")]
        assert len(zeros) == 1
        assert first[zeros[0]].abs().max() > 0
        for name in edit.tensors:
            assert second[name].abs().max() > 0, name


def test_squeeze_excite_has_a_quarter_of_the_channels_and_a_factor_of_two() -> None:
    wide = PLAIN.changed({"net": PLAIN["net"].changed({"c": Conv(64, 1)})})
    for genome, squeezed in ((PLAIN, 8), (wide, 16)):
        edit = plan(InsertExcitation(), genome, "r")
        width = expand(genome).shape("r")[0]
        operations = [
            GlobalPool(), Conv(squeezed, 1, bias=True), ReLU(), Conv(width, 1, bias=True), Sigmoid(), Scale(), Mul()
        ]  # fmt: skip
        assert Counter(added(edit, genome)) == Counter(operations)
        child = realise(edit, messy(genome, 0))
        (scale,) = (name for name in edit.tensors if name.startswith("scale"))
        assert child[scale].unique().tolist() == [2.0]


def test_attention_is_as_wide_as_its_value_or_half_as_wide_and_heads_divide_it() -> None:
    wide, seen = PLAIN.changed({"net": PLAIN["net"].changed({"c": Conv(24, 1)})}), set()
    for seed in range(40):
        operations = added(plan(InsertAttention(), wide, "r", seed), wide)
        (attention,) = (op for op in operations if isinstance(op, Attention))
        widths = Counter(op.out_channels for op in operations if isinstance(op, Conv))
        inner = 12 if 12 in widths else 24
        assert widths == Counter({inner: 3}) + Counter({24: 1})
        seen.add((inner, attention.heads))
    assert seen == {(12, 1), (12, 2), (24, 1), (24, 2), (24, 4)}


def test_attention_is_not_inserted_where_there_are_many_positions() -> None:
    large = PLAIN.changed({"net": PLAIN["net"].changed({"x": Input(0, (2, 20, 20)), "d": MaxPool(), "p": MaxPool()})})
    large = large.changed({"net": large["net"].changed({}, [("d", "p"), ("p", "g")], [("d", "g")])})
    assert [site["node"] for site in InsertAttention().sites(large)] == ["d", "p"]
    with pytest.raises(Inapplicable, match="256 positions"):
        plan(InsertAttention(), large, "r")


@pytest.mark.parametrize("rule", [InsertExcitation(), InsertAttention()], ids=lambda rule: rule.name)
def test_only_images_look_at_themselves_and_they_may_do_it_often(rule: Morphism) -> None:
    for node in ("g", "f", "h"):
        with pytest.raises(Inapplicable, match="image"):
            plan(rule, PLAIN, node)
    genome = PLAIN
    for times in range(1, 7):
        genome = plan(rule, genome, "r").genome
        grown = len(genome["net"].nodes) - len(PLAIN["net"].nodes)
        assert grown == times * len(added(plan(rule, PLAIN, "r"), PLAIN))
        cost(genome)


def test_larger_heads_compute_the_same_and_all_of_them_learns() -> None:
    genome = attending()
    for seed in range(10):
        edit, weights = plan(GrowHeads(), genome, "a", seed), messy(genome, seed)
        child = realise(edit, weights)
        for train in (False, True):
            before, after = run(genome, weights, probes(0), train), run(edit.genome, child, probes(0), train)
            assert (before - after).abs().max() <= 4e-15 * before.abs().max()
        keys, queries = edit.genome["net"].operations["k"], edit.genome["net"].operations["q"]
        assert isinstance(keys, Conv)
        assert keys == queries
        assert keys.out_channels == 2 * edit.site["dimension"]
        assert 3 < edit.site["dimension"] <= 6
        first, second = gradients(edit, child, 2)
        assert (first["k.weight"].abs().sum((1, 2, 3)) > 0).all()
        assert (second["q.weight"].abs().sum((1, 2, 3)) > 0).all()


def test_new_rows_stand_at_the_end_of_each_head() -> None:
    genome = attending()
    edit, weights = plan(GrowHeads(), genome, "a"), messy(genome, 0)
    child, new = realise(edit, weights), edit.site["dimension"]
    for parameter in ("weight", "bias"):
        heads = child[f"k.{parameter}"].reshape(2, new, -1)
        assert torch.equal(heads[:, :3].reshape(6, -1), weights[f"k.{parameter}"].reshape(6, -1))
        assert not heads[:, 3:].any()
        rows = child[f"q.{parameter}"].reshape(2, new, -1)[:, :3].reshape(6, -1)
        assert torch.equal(rows, weights[f"q.{parameter}"].reshape(6, -1))
    assert child["q.weight"].reshape(2, new, -1)[:, 3:].abs().min() > 0


def test_without_the_dimension_that_it_had_the_function_is_lost() -> None:
    genome = attending()
    edit, weights = plan(GrowHeads(), genome, "a"), messy(genome, 0)
    module = edit.genome["net"]
    forgetful = edit.genome.changed({"net": module.changed({"a": Attention(2)})})
    before, after = run(genome, weights, probes(0)), run(forgetful, realise(edit, weights), probes(0))
    assert (before - after).abs().max() > 1e-3 * before.abs().max()


def test_heads_that_are_grown_again_keep_the_first_dimension() -> None:
    genome = attending()
    edit = plan(GrowHeads(), genome, "a")
    again = plan(GrowHeads(), edit.genome, "a", 1)
    assert [g["net"].operations["a"] for g in (edit.genome, again.genome)] == [Attention(2, dimension=3)] * 2


def test_large_logits_do_not_spoil_it_in_float32() -> None:
    genome = attending()
    for seed in range(10):
        edit = plan(GrowHeads(), genome, "a", seed)
        weights = {name: tensor.float() for name, tensor in messy(genome, seed).items()}
        weights = {n: 300 * t if n.startswith(("q.", "k.")) else t for n, t in weights.items()}
        before, after = (
            run(g, w, probes(0).float()) for g, w in ((genome, weights), (edit.genome, realise(edit, weights)))
        )
        assert (before - after).abs().max() <= 1e-5 * before.abs().max()


def test_heads_grow_only_where_queries_and_keys_are_their_own_dense_convolutions() -> None:
    assert [site["node"] for site in GrowHeads().sites(attending())] == ["a"]
    grouped, normed = attending(key=Conv(6, 1, groups=2)), attending()
    normed = normed.changed(
        {"net": normed["net"].changed({"n": BatchNorm()}, [("q", "n"), ("n", "a", 0)], [("q", "a", 0)])}
    )
    shared = attending()
    shared = shared.changed({"net": shared["net"].changed({"k": None}, [("q", "a", 1)], [("c", "k"), ("k", "a", 1)])})
    for genome in (grouped, normed, shared):
        expand(genome)
        assert not GrowHeads().sites(genome)
        with pytest.raises(Inapplicable, match="convolutions of its own"):
            plan(GrowHeads(), genome, "a")
    with pytest.raises(Inapplicable, match="attention"):
        plan(GrowHeads(), attending(), "q")
