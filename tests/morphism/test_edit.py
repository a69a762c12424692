from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from morphism import EXACT, INEXACT, Edit, Inapplicable, compose
from morphism.tensors import Constant, Gather, Source, Times
from tests.morphism.samples import drawn


def edit(**changes: Any) -> Edit:
    tensors = {"n1.weight": Gather(Source("n1.weight"), 0, (0,))}
    return Edit(**{"rule": "r", "site": {"module": "net"}, "genome": drawn(0), "tensors": tensors, **changes})


def test_the_digest_tells_edits_apart() -> None:
    same, others = edit(), (edit(rule="s"), edit(site={}), edit(genome=drawn(1)), edit(tensors={}), edit(modes=EXACT))
    assert same.digest == edit().digest
    assert len({e.digest for e in (same, *others)}) == 6


def test_the_digest_is_that_of_the_canonical_json() -> None:
    for made in (edit(), edit(modes=EXACT, zeros=(Source("n1.weight"),)), edit(tensors={}, site={"a": "é"})):
        text = json.dumps(made.to_json(), sort_keys=True, separators=(",", ":"))
        assert made.text(made.genome.to_json().decode()) == text
        assert made.digest == hashlib.sha256(text.encode()).hexdigest()


def test_the_json_is_read_back_from_text() -> None:
    made = edit(modes=EXACT)
    assert Edit.from_json(json.loads(json.dumps(made.to_json()))) == made


@pytest.mark.parametrize(
    "change",
    [
        {"rule": 1},
        {"site": []},
        {"tensors": []},
        {"tensors": {"x": {}}},
        {"modes": ["train", "test"]},
        {"modes": "eval"},
        {"modes": [["eval"]]},
        {"genome": {"schema": 2}},
        {"genome": None},
        {"more": 1},
    ],
    ids=str,
)
def test_a_malformed_edit_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Inapplicable):
        Edit.from_json({**edit().to_json(), **change})


@pytest.mark.parametrize("document", [None, [], {}, "edit"])
def test_what_is_no_edit_is_refused(document: Any) -> None:
    with pytest.raises(Inapplicable):
        Edit.from_json(document)


def test_composing_substitutes_and_claims_what_both_claim() -> None:
    scaled, zero = "conv1.weight", "batch_norm2.bias"
    first = edit(tensors={scaled: Times(Source(scaled), 2.0), zero: Constant((6,), 0.0)}, modes=EXACT)
    second = edit(tensors={scaled: Times(Source(scaled), 3.0), "batch_norm2.weight": Source(zero)}, modes=INEXACT)
    both = compose(first, second)
    assert both.tensors[scaled] == Times(Source(scaled), 6.0)
    assert both.tensors["batch_norm2.weight"] == both.tensors[zero] == Constant((6,), 0.0)
    assert both.modes == INEXACT
    assert compose(first, first).modes == EXACT
    assert both.genome == second.genome
    assert both.site == {"edits": [{"module": "net"}, {"module": "net"}]}
