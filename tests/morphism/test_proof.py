"""The static proof refuses what is wrong, whatever probes say; test_contract shows that it accepts the catalogue."""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import pytest

from genomes import Genome, expand
from genomes.operations import Add, AvgPool, BatchNorm, Conv, Flatten, GlobalPool, LayerNorm, Linear, Mean, ReLU
from morphism import CATALOGUE, EXACT, Edit, Inapplicable
from morphism.certificate import TOLERANCES, certify, relative_error
from morphism.interpreter import run
from morphism.proof import doubt, proves
from morphism.realise import realise
from morphism.tensors import Constant, Gather, Pad, Part, Random, Source, TensorExpr, Times
from tests.morphism.samples import drawn, messy, probes
from tests.morphism.test_channels import chain

GENOME = chain(
    a=Conv.same(4, 3), n=BatchNorm(), r=ReLU(), b=Conv.same(4, 3), s=ReLU(), g=GlobalPool(), f=Flatten(), h=Linear(3)
)


def planned(name: str, genome: Genome = GENOME, **site: str) -> Edit:
    (morphism,) = (morphism for morphism in CATALOGUE if morphism.name == name)
    return morphism.plan(genome, {"module": "net", **site}, random.Random(0))


def wrong(edit: Edit, tensors: Mapping[str, TensorExpr]) -> Edit:
    return replace(edit, tensors={**edit.tensors, **tensors})


def columns(edit: Edit) -> Gather:
    found = edit.tensors["b.weight"]
    assert isinstance(found, Gather)
    return found


@pytest.mark.parametrize("name", ["widen.split", "widen.zero_fanout", "widen.pair", "widen.replicate"])
def test_widening_is_proven(name: str) -> None:
    edit = planned(name, node="a")
    assert proves(GENOME, edit, "eval")
    assert proves(GENOME, edit, "train")
    assert doubt(GENOME, edit, "eval") == ""


def test_a_forgotten_share_is_refused() -> None:
    edit = planned("widen.split", node="a")
    assert not proves(GENOME, wrong(edit, {"b.weight": replace(columns(edit), share="copy")}), "eval")


def test_columns_in_another_place_are_refused() -> None:
    edit = planned("widen.split", node="a")
    index = columns(edit).index
    moved = replace(columns(edit), index=(*index[1:], index[0]))
    assert not proves(GENOME, wrong(edit, {"b.weight": moved}), "eval")


def test_new_columns_that_are_not_zero_are_refused() -> None:
    edit = planned("widen.zero_fanout", node="a")
    assert not proves(GENOME, wrong(edit, {"b.weight": replace(columns(edit), new="random")}), "eval")


def test_statistics_of_another_channel_are_refused_in_eval_mode() -> None:
    edit = planned("widen.split", node="a")
    rows = edit.tensors["n.running_mean"]
    assert isinstance(rows, Gather)
    other = replace(rows, index=tuple((k + 1) % 4 for k in rows.index))
    assert not proves(GENOME, wrong(edit, {"n.running_mean": other}), "eval")


def test_a_branch_that_does_not_end_in_zero_is_refused() -> None:
    edit = planned("deepen.residual", node="r")
    (gamma,) = (n for n, e in edit.tensors.items() if isinstance(e, Constant) and not e.value and n.endswith("weight"))
    shape = edit.tensors[gamma].shape  # type: ignore[attr-defined]
    assert proves(GENOME, edit, "train")
    assert not proves(GENOME, wrong(edit, {gamma: Constant(shape, 1.0)}), "train")


def test_a_kernel_that_grows_without_its_padding_is_refused() -> None:
    edit = planned("kernel.grow", node="b")
    assert edit.tensors["b.weight"] == Pad(Source("b.weight"), 1)
    assert proves(GENOME, edit, "eval")
    shifted = GENOME.changed({"net": GENOME["net"].changed({"b": Conv(4, 5, padding=1)})})
    assert not proves(GENOME, replace(edit, genome=shifted), "eval")


def test_a_variance_that_may_be_negative_is_refused_even_behind_a_zero() -> None:
    edit = planned("deepen.residual", node="r")
    for name in (n for n in edit.tensors if n.endswith("running_var")):
        broken = wrong(edit, {name: Random((edit.tensors[name].shape[0],), 1.0, 0)})  # type: ignore[attr-defined]
        assert "may be negative" in doubt(GENOME, broken, "eval")
        assert proves(GENOME, broken, "train")


def test_parts_that_are_not_of_one_whole_are_refused() -> None:
    edit = planned("branch.replicate", node="b")
    name, part = min((name, e) for name, e in edit.tensors.items() if isinstance(e, Part))
    assert proves(GENOME, edit, "eval")
    assert not proves(GENOME, wrong(edit, {name: replace(part, seed=part.seed + 1)}), "eval")
    assert not proves(GENOME, wrong(edit, {name: replace(part, number=1 - part.number)}), "eval")


def test_what_the_probes_refute_is_never_proven() -> None:
    refuted = 0
    for seed in range(24):
        genome, rng, morphism = drawn(seed), random.Random(seed), CATALOGUE[seed % len(CATALOGUE)]
        weights, images = messy(genome, seed), probes(seed)
        for site in rng.sample(sites := list(morphism.sites(genome)), min(2, len(sites))):
            with suppress(Inapplicable):
                edit = morphism.plan(genome, site, rng)
                name = rng.choice(sorted(edit.tensors) or ["none"])
                broken = wrong(edit, {n: spoilt(e, rng) for n, e in edit.tensors.items() if n == name})
                child = realise(broken, weights)
                for mode in edit.modes:
                    outputs = (run(g, w, images, mode == "train") for g, w in ((genome, weights), (edit.genome, child)))
                    if relative_error(*outputs) > TOLERANCES[mode]:
                        refuted += 1
                        assert not proves(genome, broken, mode), f"genome {seed}: {edit.rule} at {edit.site}: {name}"
    assert refuted >= 12


def spoilt(expression: TensorExpr, rng: random.Random) -> TensorExpr:
    """Returns an expression of the same shape with something changed."""
    if not isinstance(expression, Gather):
        return Times(expression, 2.0) if not isinstance(expression, Constant) else replace(expression, value=0.5)
    index, (one, other) = list(expression.index), (rng.randrange(len(expression.index)) for _ in range(2))
    index[one], index[other] = index[other], index[one]
    return rng.choice(
        (
            replace(expression, index=tuple(index)),
            replace(expression, index=(*index[:one], -1, *index[one + 1 :])),
            replace(expression, share=rng.choice(("copy", "split", "equal"))),
            replace(expression, new=rng.choice(("zero", "one", "random"))),
        )
    )


def test_small_numbers_are_not_nothing() -> None:
    pools = {f"p{i}": AvgPool(31, 1, 15) for i in range(4)}  # 1 / 961^4 of what is summed
    genome = chain(a=Conv.same(4, 3), **pools, n=BatchNorm(), g=GlobalPool(), f=Flatten(), h=Linear(3))
    weight = Constant(expand(genome).tensor_shapes()["a.weight"], 0.5)
    assert not proves(genome, Edit("bad", {}, genome, {"a.weight": weight}, EXACT), "eval")


@pytest.mark.parametrize("zeros", [(), (Constant((1,), 0.0),), (Times(Source("a.weight"), 0.0),)])
def test_a_branch_that_no_probe_reaches_is_refused(zeros: tuple[TensorExpr, ...]) -> None:
    genome = chain(a=Conv.same(4, 3), g=GlobalPool(), f=Flatten(), h=Linear(3))
    added = {"c": Conv(4, 1, bias=True), "r": ReLU(), "d": Conv(4, 1), "s": Add()}
    edges = [("a", "c"), ("c", "r"), ("r", "d"), ("a", "s", 0), ("d", "s", 1), ("s", "g")]
    child = genome.changed({"net": genome["net"].changed(added, edges, [("a", "g")])})
    tensors = {
        "c.weight": Random((4, 4, 1, 1), 1.0, 1),
        "c.bias": Constant((4,), -50.0),
        "d.weight": Times(Times(Random((4, 4, 1, 1), 1.0, 2), 1e-13), 1e13),
    }
    edit, weights = Edit("trojan", {}, child, tensors, EXACT, zeros), messy(genome, 0)
    certificate = certify(genome, edit, weights, realise(edit, weights), 0)
    assert (certificate.proved, certificate.verdict) == ((), False)


def test_factors_in_another_order_are_the_same_number() -> None:
    # 1/2 · 1/9 rounds otherwise than 1/9 · 1/2 if either is cut to some digits on the way
    genome = chain(c=Conv.same(3, 3), r=ReLU(), p=AvgPool(3, 2, 1), g=GlobalPool(), f=Flatten(), h=Linear(3))
    joined = genome.changed(
        {"net": genome["net"].changed({"m": Mean()}, [("r", "m", 0), ("c", "m", 1), ("m", "p")], [("r", "p")])}
    )
    edit = planned("pool.depthwise", joined, node="p")
    assert proves(joined, edit, "eval")
    assert proves(joined, edit, "train")


def test_a_norm_over_channels_sees_how_often_each_of_them_occurs() -> None:
    genome = chain(a=Conv(4, 1), n=LayerNorm(), g=GlobalPool(), f=Flatten(), h=Linear(3))
    child = genome.changed({"net": genome["net"].changed({"a": Conv(5, 1)})})
    rows = {name: Gather(Source(name), 0, (0, 0, 1, 2, 3)) for name in ("a.weight", "n.weight", "n.bias")}
    columns = Gather(Source("h.weight"), 1, (0, 0, 1, 2, 3), "equal")
    assert not proves(genome, Edit("uneven", {}, child, {**rows, "h.weight": columns}, EXACT), "eval")


def test_a_product_that_lacks_a_factor_is_refused() -> None:
    edit = planned("deepen.factorise", node="b")
    rank = edit.site["channels"]
    assert proves(GENOME, edit, "eval")
    lacking = Gather(edit.tensors["b.weight"], 1, (*range(rank - 1), -1))
    assert not proves(GENOME, wrong(edit, {"b.weight": lacking}), "eval")
