"""Population: what every evolutionary strategy of this package needs: founders, children, and who was asked."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

from evo.individual import Individual, individual
from evo.randomness import generator
from evo.variation import Barren, VariationSettings, toolbox
from genomes import Genome, Limits, equivalent, fingerprint
from morphism import Edit
from search import Candidate, Evaluation, Fidelity

Select = Callable[[random.Random], Individual]
PARENTS = 4  # tried for one child, if no new genome is found around the first


class Population:
    """The memory of one search; a function of what was proposed.

    A parent that is chosen a second time gets its no-op control, a continuation without change: what it reaches is
    what its children have to beat, since an inherited child mostly reports its parent's accuracy at first.

    Attributes:
        asked: how many candidates were proposed.
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
        """Takes the founders' genomes, the limits of all genomes, and how children are made.

        Raises:
            ValueError: there is no starter.
        """
        if not starters:
            raise ValueError("a search must have one starter genome or more, got none")
        self.starters, self.objectives, self.fidelity, self.seed = tuple(starters), tuple(objectives), fidelity, seed
        self.box = toolbox(variation, limits)
        self.asked = 0
        self._founders = 0
        self._children: Counter[int] = Counter()
        self._seen: dict[tuple[str, float], list[Genome]] = {}

    def founder(self) -> Candidate | None:
        """Returns the next founder, to be trained from scratch: each starter once, then new mutants of starters.

        None if no new mutant is found.
        """
        rng = generator(self.seed, self.asked, "founder")
        if self._founders < len(self.starters):
            return self._propose(Candidate(self.asked, self.starters[self._founders], fidelity=self.fidelity))
        for _ in range(PARENTS):
            starter = rng.choice(self.starters)
            if edits := self._edits(starter, 0.0, rng):
                return self._propose(Candidate(self.asked, edits[-1].genome, fidelity=self.fidelity))
        return None

    def child(self, select: Select) -> Candidate | None:
        """Returns a child of the individual that `select` picks, or its no-op control.

        If nothing new is found around several parents: a founder, or None.
        """
        rng = generator(self.seed, self.asked, "child")
        for _ in range(PARENTS):
            parent = select(rng)
            genome, age = parent.candidate.genome, _age(parent)
            if self._children[parent.number] == 1:
                return self._propose(Candidate(self.asked, genome, (parent.number,), (), self.fidelity), age)
            if edits := self._edits(genome, age, rng):
                child = Candidate(self.asked, edits[-1].genome, (parent.number,), edits, self.fidelity)
                return self._propose(child, age)
        return self.founder()

    def member(self, candidate: Candidate, evaluation: Evaluation) -> Individual | None:
        """Returns what a result makes of a candidate: an individual, or None if it can be no parent.

        Raises:
            ValueError: the evaluator does not measure an objective.
        """
        return individual(candidate, evaluation, self.objectives)

    def _propose(self, candidate: Candidate, age: float = 0.0) -> Candidate:
        """Takes note of a proposal: all that changes here changes now, so that a replay needs nothing else."""
        self.asked += 1
        self._founders += not candidate.parents
        self._children.update(candidate.parents)
        self._seen.setdefault((fingerprint(candidate.genome), age), []).append(candidate.genome)
        return candidate

    def _edits(self, genome: Genome, age: float, rng: random.Random) -> tuple[Edit, ...]:
        """Returns edits to a genome that computes something new at its age of training; none if none is found."""

        def fresh(other: Genome) -> bool:
            before = self._seen.get((fingerprint(other), age), ())
            return not any(equivalent(other, known) for known in (genome, *before))

        try:
            edits: tuple[Edit, ...] = self.box.mutate(genome, fresh, rng)
        except Barren:
            return ()
        return edits


def _age(parent: Individual) -> float:
    """Returns the training examples seen in the whole lineage, which a child continues from."""
    return parent.evaluation.cost.get("lineage_examples", 0.0)


def proposals(one: Callable[[], Candidate | None], n: int) -> list[Candidate]:
    """Returns at most `n` candidates, until `one` has nothing to propose."""
    found: list[Candidate] = []
    while len(found) < n and (candidate := one()):
        found.append(candidate)
    return found
