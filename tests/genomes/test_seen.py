"""What was seen is found again by what it computes, whenever it was taken in."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genomes import Genome, InvalidGenome, Module, Seen, Stored, equivalent
from genomes.operations import Flatten, Identity, Input, Linear, Operation, Output
from tests.drawing import genomes


@settings(deadline=None, max_examples=30)
@given(st.lists(genomes(), max_size=4), st.lists(genomes(), max_size=4), genomes())
def test_it_says_what_comparing_with_each_would_say(first: list[Genome], then: list[Genome], asked: Genome) -> None:
    seen, taken = Seen(), list[Genome]()
    for lot in (first, then):
        for genome in lot:
            seen.add(genome)
        taken += lot
        for one in (asked, *taken):
            assert (one in seen) == any(equivalent(one, other) for other in taken)


def classifier(*names: str, classes: int = 2) -> Genome:
    """Returns a linear classifier with these names of its nodes; a fifth one is of an identity."""
    image, flat, head, out, *same = names
    nodes: dict[str, Operation] = {image: Input(0, (1, 4, 4)), flat: Flatten(), head: Linear(classes), out: Output()}
    nodes |= {name: Identity() for name in same}
    way = [image, *same, flat, head, out]
    return Genome.of({"net": Module.of(nodes, list(pairwise(way)))})


def test_names_and_identities_do_not_hide_what_was_seen() -> None:
    seen = Seen()
    seen.add(classifier("a", "b", "c", "d"))
    assert classifier("e", "f", "g", "h", "same") in seen
    assert classifier("a", "b", "c", "d", classes=3) not in seen


def test_what_is_taken_in_is_looked_into_only_when_something_is_asked() -> None:
    seen = Seen()
    seen.add(Stored(b"no genome"))
    with pytest.raises(InvalidGenome):
        _ = Genome.of({"net": Module.of({}, [])}) in seen
