"""Population: what every evolutionary strategy of this package keeps: founders, members, and who was asked."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from evo.individual import Individual
from evo.randomness import generator
from evo.variation import Barren, VariationSettings, toolbox
from genomes import Genome, Limits, equivalent, fingerprint
from search import Candidate, Evaluation, Fidelity


class Population:
    """The memory of one search; a function of what was asked and told.

    A parent that is chosen a second time first gets its no-op control, a continuation without change: what it reaches is
    what its children have to beat, since an inherited child mostly reports its parent's accuracy at first.

    Attributes:
        members: evaluated with success, in the order of telling.
    """

    def __init__(
        self,
        starters: Sequence[Genome],
        limits: Limits,
        variation: VariationSettings,
        objectives: Sequence[str],
        fidelity: Fidelity,
        seed: int,
    ) -> None:
        """Takes the founders' genomes, the limits of all genomes, and how children are made."""
        self.starters, self.objectives, self.fidelity, self.seed = starters, objectives, fidelity, seed
        self.box = toolbox(variation, limits)
        self.members: list[Individual] = []
        self.asked = 0
        self._controlled: dict[int, int] = {}
        self._seen: dict[tuple[str, float], list[Genome]] = {}

    def founder(self) -> Candidate:
        """Returns the next founder: a starter, then mutants of starters, trained from scratch."""
        rng = generator(self.seed, self.asked, "founder")
        genome = self.starters[self.asked % len(self.starters)]
        if self.asked >= len(self.starters):
            genome = self._mutant(genome, rng)
        return self._propose(Candidate(self.asked, genome, fidelity=self.fidelity), 0.0)

    def child(self, select: Callable[[random.Random], Individual]) -> Candidate:
        """Returns a child of the individual that `select` picks, or its no-op control."""
        rng = generator(self.seed, self.asked, "child")
        parent = select(rng)
        age = parent.evaluation.cost.get("lineage_examples", 0.0)
        chosen = self._controlled.get(parent.number, 0)
        self._controlled[parent.number] = chosen + 1
        edits = ()
        if chosen != 1:
            try:
                edits = self.box.mutate(parent.candidate.genome, lambda genome: self._fresh(genome, age), rng)
            except Barren:
                return self.founder()
        genome = edits[-1].genome if edits else parent.candidate.genome
        return self._propose(Candidate(self.asked, genome, (parent.number,), edits, self.fidelity), age)

    def tell(self, candidate: Candidate, evaluation: Evaluation) -> Individual | None:
        """Takes note of a result and returns the new member; None for a failure."""
        if not evaluation.ok:
            return None
        self.members.append(Individual(candidate, evaluation, self.objectives))
        return self.members[-1]

    def _propose(self, candidate: Candidate, age: float) -> Candidate:
        self.asked += 1
        self._seen.setdefault((fingerprint(candidate.genome), age), []).append(candidate.genome)
        return candidate

    def _fresh(self, genome: Genome, age: float) -> bool:
        return not any(equivalent(genome, other) for other in self._seen.get((fingerprint(genome), age), ()))

    def _mutant(self, genome: Genome, rng: random.Random) -> Genome:
        try:
            edits = self.box.mutate(genome, lambda other: self._fresh(other, 0.0), rng)
        except Barren:
            return genome
        return edits[-1].genome
