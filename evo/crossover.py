"""Crossover: a child of two parents. What led to one is done to the other; else it takes over tensors or a region."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from itertools import takewhile

from evo.attempt import attempt, sound
from evo.disruptions import DISRUPTIONS
from evo.donor import donated
from evo.region import swapped
from genomes import Genome, Limits
from genomes.operations import Operation
from morphism import CATALOGUE, Edit, Morphism
from search import Candidate

MOST = 8  # edits of one child
DRAWS = 8  # of one replayed edit, of which the one most alike is taken
KINDS: Mapping[str, Morphism] = {kind.name: kind for kind in (*CATALOGUE, *DISRUPTIONS)}

Known = Mapping[int, Candidate]
Fresh = Callable[[Genome], bool]


def mate(
    receiver: Candidate, giver: Candidate, known: Known, fresh: Fresh, rng: random.Random, limits: Limits
) -> tuple[Edit, ...]:
    """Returns edits that lead from the receiver's genome to a new one with something of the giver; none if none does.

    In order of preference: the giver's edits are replayed on the receiver, which keeps the receiver's function as far
    as they do; operations with their tensors are taken over where both have a node of the same name (`cross.donor`); a
    region of the receiver is replaced by one of the giver (`cross.region`). Only the last two read the giver's weights.

    Args:
        receiver: the first parent, whose weights are inherited.
        giver: the second parent.
        known: all candidates by number, at least the ancestors of both.
        fresh: says whether a genome was not asked before and is neither parent's.
        rng: of all draws but the replayed ones, which are drawn from the digest of what is replayed.
        limits: of the child.
    """
    edits = replayed(receiver, giver, known, limits)
    if edits and fresh(edits[-1].genome) and sound(edits):
        return edits
    for kind in (donated, swapped):
        if edit := kind(receiver.genome, giver.genome, fresh, rng, limits):
            return (edit,)
    return ()


def replayed(receiver: Candidate, giver: Candidate, known: Known, limits: Limits) -> tuple[Edit, ...]:
    """Returns the edits of the giver since the last common ancestor, planned anew on the receiver's genome.

    What cannot be done there, and what the receiver's own ancestors did at the same site, is left out. Without a common
    ancestor all edits of the giver count.
    """
    done = {_place(edit) for _, edit in since(receiver, giver, known)}
    genome, edits = receiver.genome, list[Edit]()
    for before, edit in since(giver, receiver, known):
        if len(edits) < MOST and _place(edit) not in done and (again := _again(edit, before, genome, limits)):
            edits.append(again)
            genome = again.genome
    return tuple(edits)


def since(one: Candidate, other: Candidate, known: Known) -> list[tuple[Genome, Edit]]:
    """Returns what led to `one` since its last common ancestor with `other`, in order: a genome and its edit."""
    shared = {ancestor.number for ancestor in lineage(other, known)}
    own = list(takewhile(lambda ancestor: ancestor.number not in shared, lineage(one, known)))
    steps = []
    for candidate in reversed(own):
        if candidate.parents:
            genome = known[candidate.parents[0]].genome
            for edit in candidate.edits:
                steps.append((genome, edit))
                genome = edit.genome
    return steps


def lineage(candidate: Candidate, known: Known) -> Iterator[Candidate]:
    """Yields a candidate and the ancestors whose weights it continues, back to the founder."""
    yield candidate
    while candidate.parents:
        candidate = known[candidate.parents[0]]
        yield candidate


def _again(edit: Edit, before: Genome, genome: Genome, limits: Limits) -> Edit | None:
    """Returns the edit planned anew: of several draws, the one that changes most nodes to what they became before."""
    kind, wanted = KINDS.get(edit.rule), _changed(before, edit.genome)
    best, most = None, -1
    for draw in range(DRAWS if kind else 0):
        assert kind
        again = attempt(kind, genome, edit.site, random.Random(f"{edit.digest}:{draw}"), limits)
        alike = len(wanted & _changed(genome, again.genome)) if again else -1
        if alike > most:
            best, most = again, alike
        if alike == len(wanted):
            break
    return best


def _changed(before: Genome, after: Genome) -> set[tuple[str, str, Operation]]:
    return _contents(after) - _contents(before)


def _contents(genome: Genome) -> set[tuple[str, str, Operation]]:
    return {(name, node, operation) for name, module in genome.modules for node, operation in module.nodes}


def _place(edit: Edit) -> str:
    return json.dumps([edit.rule, dict(edit.site)], sort_keys=True)
