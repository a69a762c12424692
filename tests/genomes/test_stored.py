"""A stored genome is equal to what was stored, and is read when somebody looks into it."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given, settings

from genomes import Genome, InvalidGenome, Stored, expand, fingerprint
from tests.drawing import genomes

SETTINGS = settings(deadline=None, max_examples=40)


@SETTINGS
@given(genomes())
def test_it_is_equal_to_what_was_stored_and_hashed_alike(genome: Genome) -> None:
    stored = Stored(genome.to_json())
    assert (stored, genome) == (genome, stored)
    assert hash(stored) == hash(genome)
    assert stored.digest == genome.digest
    assert stored.to_json() == genome.to_json()


@SETTINGS
@given(genomes())
def test_all_that_is_asked_of_a_genome_is_answered_alike(genome: Genome) -> None:
    stored = Stored(genome.to_json())
    assert (stored.modules, stored.root) == (genome.modules, genome.root)
    assert all(name in stored and stored[name] == module for name, module in genome.modules)
    assert stored.changed({}) == stored.reachable() == genome
    assert fingerprint.__wrapped__(stored) == fingerprint(genome)
    assert expand.__wrapped__(stored) == expand(genome)
    assert repr(stored.modules) in repr(stored)


def test_a_kept_fingerprint_is_taken_and_nothing_read() -> None:
    assert fingerprint(Stored(b"no genome", "kept")) == "kept"
    assert Stored(b"no genome", "kept") == Stored(b"no genome")


def test_nothing_is_read_until_somebody_looks_into_it() -> None:
    stored = Stored(b"no genome")
    assert stored == Stored(b"no genome")
    with pytest.raises(InvalidGenome, match="genome must be UTF-8 JSON"):
        _ = stored.modules


@SETTINGS
@given(genomes())
def test_json_that_is_not_canonical_is_refused_on_the_first_look(genome: Genome) -> None:
    stored = Stored(json.dumps(json.loads(genome.to_json())).encode())
    for _ in range(2):
        with pytest.raises(InvalidGenome, match=f"must be canonical JSON, of digest {genome.digest}"):
            _ = stored.root


@SETTINGS
@given(genomes())
def test_it_can_be_copied_before_and_after_it_was_read(genome: Genome) -> None:
    stored = Stored(genome.to_json())
    before = copy.deepcopy(stored)
    assert stored.modules == genome.modules
    for again in (before, copy.deepcopy(stored)):
        assert again == genome
        assert again.modules == genome.modules
