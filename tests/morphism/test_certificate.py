from __future__ import annotations

import json
import math
import random
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from genomes import Genome
from morphism import CATALOGUE, Certificate, Edit, Inapplicable, undo, values
from morphism.certificate import TOLERANCES, certify, relative_error
from morphism.realise import realise
from morphism.tensors import Gather, Pad, Source, Times
from tests.morphism.samples import drawn, messy

CERTIFICATE = Certificate("r", "a", "b", "c", ("eval", "train"), {"eval": 0.0, "train": 1e-16}, ("eval",), 3, True)


def split() -> tuple[Genome, Edit]:
    genome = drawn(0)
    return genome, CATALOGUE[0].plan(genome, CATALOGUE[0].sites(genome)[0], random.Random(0))


def grown() -> tuple[Genome, Edit]:
    genome = drawn(0)
    kind = next(kind for kind in CATALOGUE if kind.name == "kernel.grow")
    return genome, kind.plan(genome, kind.sites(genome)[0], random.Random(0))


def test_a_good_edit_is_certified_with_its_digests() -> None:
    genome, edit = split()
    weights = messy(genome, 0, torch.float32)
    made = certify(genome, edit, weights, realise(edit, weights), 5)
    assert made.verdict
    assert (made.rule, made.parent, made.child, made.edit) == (
        edit.rule,
        genome.digest,
        edit.genome.digest,
        edit.digest,
    )
    assert made.modes == ("eval", "train")
    assert made.seed == 5
    assert made == certify(genome, edit, weights, realise(edit, weights), 5)


def test_forgetting_to_split_a_column_is_found() -> None:
    genome, edit = split()
    broken = {n: replace(e, share="copy") if isinstance(e, Gather) else e for n, e in edit.tensors.items()}
    edit = replace(edit, tensors=broken)
    weights = messy(genome, 0)
    made = certify(genome, edit, weights, realise(edit, weights), 0)
    assert not made.verdict
    assert max(made.errors.values()) > 1e-3


def test_child_tensors_that_are_not_what_the_edit_says_are_found() -> None:
    genome, edit = split()
    for dtype, change in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        weights = messy(genome, 0, dtype)
        child = realise(edit, weights)
        name = next(iter(edit.tensors))
        assert certify(genome, edit, weights, child, 0).verdict
        assert not certify(genome, edit, weights, {**child, name: child[name] * (1 + change)}, 0).verdict
        assert not certify(genome, edit, weights, {k: t for k, t in child.items() if k != name}, 0).verdict


def test_a_mode_that_is_not_claimed_is_not_measured() -> None:
    genome = drawn(0)
    weights = messy(genome, 0)
    name = next(name for name in weights if name.endswith("weight"))
    edit = Edit("disrupt", {}, genome, {name: Times(Source(name), 2.0)})
    made = certify(genome, edit, weights, realise(edit, weights), 0)
    assert made.verdict
    assert made.errors == {}
    assert not certify(genome, replace(edit, modes=frozenset({"eval"})), weights, realise(edit, weights), 0).verdict


def test_weights_that_are_not_finite_are_never_certified() -> None:
    genome, edit = split()
    weights = {name: tensor * math.nan for name, tensor in messy(genome, 0).items()}
    made = certify(genome, edit, weights, realise(edit, weights), 0)
    assert not made.verdict
    assert json.dumps(made.to_json(), allow_nan=False)


def test_the_relative_error_is_relative_to_the_largest_output() -> None:
    wanted = torch.tensor([0.0, 4.0])
    assert relative_error(wanted, torch.tensor([1.0, 4.0])) == 0.25
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0
    for got in (torch.tensor([math.nan, 4.0]), torch.tensor([math.inf, 4.0]), torch.zeros(3)):
        assert relative_error(wanted, got) == sys.float_info.max
    assert relative_error(torch.zeros(2), wanted) == sys.float_info.max


def test_certificates_survive_json() -> None:
    assert Certificate.from_json(json.loads(json.dumps(CERTIFICATE.to_json()))) == CERTIFICATE


@pytest.mark.parametrize(
    "change",
    [
        {"rule": None},
        {"seed": True},
        {"verdict": 1},
        {"modes": "eval"},
        {"modes": ["test"]},
        {"modes": [[]]},
        {"errors": {"test": 1.0}},
        {"errors": {"eval": "small"}},
        {"errors": []},
        {"more": 1},
    ],
    ids=str,
)
def test_a_malformed_certificate_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Inapplicable):
        Certificate.from_json({**CERTIFICATE.to_json(), **change})


def test_what_is_proven_but_measured_otherwise_is_not_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proof reads expressions; that tensors are made as these say is seen by measuring alone."""

    def one_sided(e: Pad, origin: values.Origin) -> Tensor:
        return functional.pad(values.value(e.of, origin), [0, 2 * e.margin] * 2)

    monkeypatch.setattr(values, "VALUES", {**values.VALUES, Pad: one_sided})
    genome, edit = grown()
    weights = messy(genome, 0)
    made = certify(genome, edit, weights, realise(edit, weights), 0)
    assert made.proved == made.modes
    assert any(made.errors[mode] > TOLERANCES[mode] for mode in made.modes)
    assert not made.verdict


def test_an_edit_that_needs_zeros_is_certified_by_measuring_and_not_proven() -> None:
    genome, edit = grown()
    back, child = undo(genome, edit), realise(edit, messy(genome, 0))
    made = certify(edit.genome, back, child, realise(back, child), 0)
    assert back.zeros
    assert (made.proved, made.verdict) == ((), True)
