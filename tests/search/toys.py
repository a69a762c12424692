"""Toys: strategies over one-parameter networks, and the state of a search as one value to compare."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from genomes import Genome, Module
from genomes.operations import Conv, Flatten, GlobalPool, Input, Linear, Output
from morphism import Edit
from morphism.tensors import Constant, Source
from search import Candidate, Evaluation, Fidelity

CONFIG = {"name": "toy", "seed": 3, "budget": {"candidates": 12}}


def network(width: int) -> Genome:
    """Returns a network with one hidden width."""
    nodes = {
        "image": Input(shape=(1, 8, 8)),
        "conv": Conv(width, padding=1),
        "pool": GlobalPool(),
        "flat": Flatten(),
        "logits": Linear(3),
        "out": Output(),
    }
    edges = [("image", "conv"), ("conv", "pool"), ("pool", "flat"), ("flat", "logits"), ("logits", "out")]
    return Genome.of({"net": Module.of(nodes, edges)})


def widened(width: int) -> Edit:
    """Returns an edit that makes that width, with a tensor expression."""
    return Edit(
        "toy.width",
        {"width": width},
        network(width),
        {"logits.bias": Constant((3,), 0.0)},
        zeros=(Source("conv.bias"),),
    )


@dataclass
class Climber:
    """Never waits: founders of few widths (some are twins), then children of the best, controls among them."""

    seed: int = 0
    founders: int = 4
    asked: int = 0
    told: list[Evaluation] = field(default_factory=list)
    genomes: dict[int, Genome] = field(default_factory=dict)

    def ask(self, n: int) -> Sequence[Candidate]:
        """Returns `n` candidates."""
        return [self.one() for _ in range(n)]

    def one(self) -> Candidate:
        """Returns the next candidate."""
        number, rng = self.asked, random.Random(f"{self.seed}:{self.asked}")
        self.asked += 1
        alive = sorted((e for e in self.told if e.ok and e.weights), key=lambda e: (e.objectives["error"], e.number))
        if number < self.founders or not alive:
            self.genomes[number] = network(rng.randint(1, 3))
            return Candidate(number, self.genomes[number], fidelity=Fidelity(100))
        parents = tuple(e.number for e in rng.sample(alive, min(len(alive), 2)))
        edits = tuple(widened(rng.randint(2, 9)) for _ in range(rng.choice([0, 1, 1, 2])))
        self.genomes[number] = edits[-1].genome if edits else self.genomes[parents[0]]
        return Candidate(number, self.genomes[number], parents, edits, Fidelity(100))

    def tell(self, candidate: Candidate, evaluation: Evaluation) -> None:
        """Takes note of a result."""
        assert candidate.number == evaluation.number
        self.told.append(evaluation)


@dataclass
class Generations(Climber):
    """Waits until all of four are told before it proposes four more; ends after three generations."""

    size: int = 4

    def ask(self, n: int) -> Sequence[Candidate]:
        """Returns at most `n` candidates."""
        found: list[Candidate] = []
        while len(found) < n and self.asked < 3 * self.size and self.asked // self.size <= len(self.told) // self.size:
            found.append(self.one())
        return found


def state(directory: Path) -> list[tuple[object, ...]]:
    """Returns all that a search decided, in order, and what it took: no times of the clock, no attempts."""
    db = sqlite3.connect(directory / "ledger.sqlite")
    try:
        rows: list[tuple[object, ...]] = []
        for query in (
            "SELECT seq, kind, number FROM event ORDER BY seq",
            "SELECT number, identity, twin_key, genome, edits, fidelity FROM candidate ORDER BY number",
            "SELECT * FROM parent ORDER BY child, rank",
            "SELECT * FROM evaluation ORDER BY number",
            "SELECT * FROM objective ORDER BY number, name",
            "SELECT number, external_id FROM outbox ORDER BY number",
            "SELECT * FROM genome ORDER BY digest",
            "SELECT 'seconds', sum(seconds) FROM attempt",
        ):
            rows += db.execute(query).fetchall()
        return rows
    finally:
        db.close()
