"""Each trap is shown to be one by the gradients that it gets, and is found by the lint before that."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch

from genomes import Genome, Module, expand
from genomes.operations import (
    GELU,
    Add,
    Attention,
    BatchNorm,
    Blend,
    Concat,
    Conv,
    Flatten,
    GlobalPool,
    GroupNorm,
    Input,
    LayerNorm,
    Linear,
    MaxPool,
    Mul,
    Operation,
    Output,
    PReLU,
    ReLU,
    ReLU6,
    Scale,
    Sigmoid,
)
from morphism import CATALOGUE, EXACT, Edit, Inapplicable, Morphism, compose
from morphism.fresh import complete
from morphism.interpreter import run
from morphism.lint import lint
from morphism.planning import finish
from morphism.realise import realise
from morphism.tensors import Constant, Gather, Source, TensorExpr
from tests.morphism.samples import SHAPE, drawn, messy, probes

WIDTH = 4
STEMS: dict[str, Operation] = {"x": Input(0, SHAPE), "a": Conv.same(WIDTH, 3), "r": ReLU()}
ENDS: dict[str, Operation] = {"s": Add(), "g": GlobalPool(), "f": Flatten(), "h": Linear(3), "y": Output()}
STEPS = 6


def network(**branch: Operation) -> Genome:
    """Returns a network that adds to a value what the chain `branch` makes of it."""
    nodes = {**STEMS, **branch, **ENDS}
    edges = [(*pair, 0) for pair in pairwise([*STEMS, *branch, *ENDS])]
    return Genome.of({"net": Module.of(nodes, [*edges, ("r", "s", 1)])})


PARENT = network()


def zeros(genome: Genome, *names: str) -> dict[str, TensorExpr]:
    shapes = expand(genome).tensor_shapes()
    return {f"{name}.weight": Constant(shapes[f"{name}.weight"], 0.0) for name in names}


def planted(child: Genome, *names: str) -> Edit:
    """Returns the edit that adds a branch whose weights `names` are zero."""
    return Edit("plant", {}, child, complete(PARENT, child, zeros(child, *names), 7), EXACT)


def gradients(edit: Edit, steps: int = STEPS) -> list[dict[str, torch.Tensor]]:
    """Returns the gradients of each of several steps of gradient descent."""
    current = {name: tensor.clone() for name, tensor in realise(edit, messy(PARENT, 1)).items()}
    names, found = [name for name in current if "running" not in name], list[dict[str, torch.Tensor]]()
    for _ in range(steps):
        for name in names:
            current[name].requires_grad_(True)
        made = run(edit.genome, current, probes(2), train=True)
        loss = torch.nn.functional.cross_entropy(made, torch.arange(len(made)) % 3)
        found.append(dict(zip(names, torch.autograd.grad(loss, [current[n] for n in names]), strict=True)))
        for name in names:
            current[name] = (current[name] - 0.05 * found[-1][name]).detach()
    return found


def largest(step: dict[str, torch.Tensor], name: str) -> float:
    return float(step[f"{name}.weight"].abs().max())


def test_two_zeros_in_series_never_learn_and_are_found() -> None:
    edit = planted(network(b=Conv(WIDTH, 1), c=Conv(WIDTH, 1)), "b", "c")
    assert all(largest(step, name) == 0 for step in gradients(edit) for name in "bc")
    assert lint(edit) == ("c: two zeros in series",)


def test_a_zero_convolution_before_a_norm_learns_hundreds_of_times_too_fast_and_is_found() -> None:
    child = network(b=Conv(WIDTH, 1), n=BatchNorm())
    fresh, edit = Edit("plant", {}, child, complete(PARENT, child, {}, 7)), planted(child, "b")
    assert largest(gradients(edit, 1)[0], "b") > 100 * largest(gradients(fresh, 1)[0], "b")
    assert lint(edit) == ("n: zeros before a norm",)
    assert lint(fresh) == ()


def test_a_zero_fan_in_before_relu_never_learns_and_is_found() -> None:
    edit = planted(network(b=Conv(WIDTH, 1), k=ReLU(), c=Conv(WIDTH, 1)), "b")
    assert all(largest(step, name) == 0 for step in gradients(edit) for name in "bc")
    assert lint(edit) == ("k: zeros before an activation without a slope at 0",)


@pytest.mark.parametrize(
    ("branch", "zero"),
    [
        ({"b": Conv(WIDTH, 1)}, "b"),
        ({"b": Conv(WIDTH, 1), "n": BatchNorm()}, "n"),
        ({"b": Conv(WIDTH, 1), "k": GELU(), "c": Conv(WIDTH, 1)}, "b"),
        ({"b": Conv(WIDTH, 1), "k": Sigmoid(), "c": Conv(WIDTH, 1)}, "b"),
        ({"b": Conv(WIDTH, 1), "k": Conv(WIDTH, 1), "c": GELU()}, "k"),
    ],
    ids=["zero conv", "zero gamma", "gelu", "sigmoid", "zero last"],
)
def test_one_zero_before_a_sum_or_a_slope_learns_at_once_and_is_allowed(
    branch: dict[str, Operation], zero: str
) -> None:
    edit = planted(network(**branch), zero)
    assert largest(gradients(edit, 1)[0], zero) > 0
    assert lint(edit) == ()


@pytest.mark.parametrize(
    ("branch", "zero", "fault"),
    [
        ({"b": Conv(WIDTH, 1), "k": ReLU6()}, ["b"], "slope"),
        ({"b": Conv(WIDTH, 1), "n": BatchNorm(), "k": ReLU()}, ["n"], "slope"),
        ({"b": Conv(WIDTH, 1), "k": GELU(), "n": BatchNorm()}, ["b"], "norm"),
        ({"b": Conv(WIDTH, 1), "n": GroupNorm(2)}, ["b"], "norm"),
        ({"b": Conv(WIDTH, 1), "c": Conv(WIDTH, 1, groups=WIDTH)}, ["b", "c"], "series"),
        ({"b": Conv(WIDTH, 1), "k": Conv(WIDTH, 1), "n": BatchNorm()}, ["b"], "norm"),
        ({"b": Conv(WIDTH, 1), "n": LayerNorm()}, ["b"], "norm"),
        ({"b": Conv(WIDTH, 1), "q": Scale()}, ["b", "q"], "series"),
        ({"b": Conv(WIDTH, 1), "q": PReLU(), "n": BatchNorm()}, ["b"], "norm"),
        ({"b": Conv(WIDTH, 1), "q": MaxPool(3, 1, 1), "n": BatchNorm()}, ["b"], "norm"),
    ],
    ids=[
        *("relu6", "gamma before relu", "norm behind gelu", "group norm", "depthwise", "a starved convolution"),
        *("layer norm", "scale", "prelu", "pool"),
    ],
)
def test_zeros_are_followed_through_what_keeps_them(branch: dict[str, Operation], zero: list[str], fault: str) -> None:
    (found,) = lint(planted(network(**branch), *zero))
    assert fault in found


def test_a_bias_or_half_of_a_group_absorbs_a_zero() -> None:
    biased = network(b=Conv(WIDTH, 1, bias=True), n=ReLU())
    edit = planted(biased, "b")
    assert lint(edit) != ()
    ones = {"b.bias": Constant((WIDTH,), 1.0)}
    assert lint(Edit("plant", {}, biased, {**edit.tensors, **ones}, EXACT)) == ()
    halves = {"b.weight": Gather(Source("b.weight"), 0, (0, -1, 1, -1))}
    assert lint(Edit("plant", {}, network(b=Conv(WIDTH, 1), n=GroupNorm(2)), halves, EXACT)) == ()


def test_a_blend_is_as_flat_as_the_function_that_it_is_at_first() -> None:
    child = network(b=Conv(WIDTH, 1), k=Blend("relu", "silu"))
    for share, flat in ((1.0, True), (0.0, False), (0.5, False)):
        made = {**planted(child, "b").tensors, "k.weight": Constant((1,), share)}
        assert bool(lint(Edit("plant", {}, child, made, EXACT))) == flat


def test_channels_with_zero_rows_and_zero_columns_are_found_one_by_one() -> None:
    child = network(b=Conv(6, 1), k=GELU(), c=Conv(WIDTH, 1))
    rows, columns = (Gather(Source(f"{name}.weight"), axis, (0, -1, 1, 2, 3, -1)) for axis, name in enumerate("bc"))
    random_rows = Gather(rows.of, 0, rows.index, new="random")
    assert lint(Edit("plant", {}, child, {"b.weight": random_rows, "c.weight": columns}, EXACT)) == ()
    assert lint(Edit("plant", {}, child, {"b.weight": rows}, EXACT)) == ()
    both = Edit("plant", {}, child, {"b.weight": rows, "c.weight": columns}, EXACT)
    assert lint(both) == ("c: two zeros in series",)


def test_products_of_two_zeros_are_found() -> None:
    convs = {name: Conv(WIDTH, 1) for name in "qkv"}
    nodes = {**STEMS, **convs, "t": Attention(2), "m": Mul(), "j": Concat(), "c": Conv(WIDTH, 1), **ENDS}
    edges = [*((*p, 0) for p in pairwise(STEMS)), *(("r", name, 0) for name in "qkv")]
    edges += [(name, "t", port) for port, name in enumerate("qkv")] + [("q", "m", 0), ("k", "m", 1)]
    edges += [("t", "j", 0), ("m", "j", 1), ("j", "c", 0), *((*p, 0) for p in pairwise(["c", *ENDS])), ("r", "s", 1)]
    child = Genome.of({"net": Module.of(nodes, edges)})
    assert lint(planted(child, "q")) == ()
    edit = planted(child, "q", "k")
    assert all(largest(step, name) == 0 for step in gradients(edit) for name in "qk")
    assert set(lint(edit)) == {"t: a product of two zeros", "m: a product of two zeros"}


def test_an_edit_that_would_not_train_is_refused_when_it_is_planned() -> None:
    child = network(b=Conv(WIDTH, 1), n=BatchNorm())
    with pytest.raises(Inapplicable, match="zeros before a norm"):
        finish("plant", {}, PARENT, child, zeros(child, "b"), random.Random(0))
    assert finish("plant", {}, PARENT, child, zeros(child, "b"), random.Random(0), frozenset()).modes == frozenset()


def test_edits_that_are_harmless_alone_are_found_together() -> None:
    first = planted(network(b=Conv(WIDTH, 1)), "b")
    child = network(b=Conv(WIDTH, 1), n=BatchNorm())
    second = Edit("norm", {}, child, complete(first.genome, child, {}, 7), EXACT)
    assert lint(first) == lint(second) == ()
    assert any("norm" in fault for fault in lint(compose(first, second)))


@pytest.mark.parametrize("morphism", CATALOGUE, ids=lambda morphism: morphism.name)
def test_nothing_of_the_catalogue_is_a_trap(morphism: Morphism) -> None:
    planned, refused = 0, list[str]()
    for seed in range(60):
        genome, rng = drawn(seed), random.Random(seed)
        for site in rng.sample(sites := list(morphism.sites(genome)), min(2, len(sites))):
            try:
                assert lint(morphism.plan(genome, site, rng)) == ()
                planned += 1
            except Inapplicable as error:
                refused.append(str(error))
    assert planned >= 8
    assert not [reason for reason in refused if "would not train" in reason]
