"""Population: what every evolutionary strategy of this package needs: founders, children, and who was asked."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from evo.individual import Individual, individual, rejudged
from evo.judgement import Judgement, Judging
from evo.randomness import generator
from evo.variation import Barren, VariationSettings, toolbox
from genomes import Genome, Limits, Seen, equivalent
from morphism import Edit
from search import Candidate, Evaluation, Fidelity, Past, proposals

MOST_FOUNDERS = 10_000

PARENTS = 4  # tried for one child, if no new genome is found around the first


class Population(ABC):
    """What every strategy that evolves is, but for who lives and who becomes a parent; a function of what it was told.

    A parent that is chosen a second time gets its no-op control, a continuation without change: what it reaches is
    what its children have to beat, since an inherited child mostly reports its parent's accuracy at first. A control
    gets none of its own, or the best would be trained on and on in place of children.

    Attributes:
        known: all candidates that were proposed, by number.
        living: those who can become parents.
        judgement: what selection takes the error of each to be.
        past: what was proposed in earlier sessions.
    """

    living: Sequence[Individual]

    def __init__(
        self,
        starters: Sequence[Genome],
        limits: Limits,
        seed: int,
        founders: int,
        objectives: Sequence[str],
        variation: VariationSettings | None,
        fidelity: Fidelity | None,
        mutants: bool,
        judgement: Judging,
    ) -> None:
        """Takes the founders' genomes, the limits of all genomes, and how children are made and judged.

        Without `mutants` there is no founder but the starters, and nothing is proposed until one of them is a parent.

        Raises:
            ValueError: there is no starter.
        """
        if not starters:
            raise ValueError("a search must have one starter genome or more, got none")
        varied = variation or VariationSettings()
        self.starters, self.seed, self.fidelity = tuple(starters), seed, fidelity or Fidelity()
        self.founders, self.objectives = founders, tuple(objectives)
        self.box, self.crossover, self.mutants = toolbox(varied, limits), varied.crossover, mutants
        self.judgement = Judgement(judgement)
        self.known: dict[int, Candidate] = {}
        self.past = Past()
        self._judged: dict[int, Individual] = {}  # by number, as of the regression on so many results
        self._regressed = 0
        self._founders = 0
        self._children: Counter[int] = Counter()
        self._seen: defaultdict[float, Seen] = defaultdict(Seen)  # by age of training

    @property
    def asked(self) -> int:
        """How many candidates were proposed."""
        return len(self.known)

    @abstractmethod
    def selected(self, rng: random.Random) -> Individual:
        """Returns one of the living, to be a parent."""

    def ask(self, n: int) -> list[Candidate]:
        """Returns `n` candidates: founders, then children of those who are selected; fewer if nothing new is found."""
        return proposals(self._one, n)

    def remind(self, past: Past) -> None:
        """Takes what it proposed before: children on record are not searched for again."""
        self.past = past

    def _one(self) -> Candidate | None:
        """Returns one of the first founders, then children of the living; None while there can be neither."""
        if remembered := self._remembered():
            return remembered
        some_left = self.mutants or self._founders < len(self.starters)
        if not self.living or (self.asked < self.founders and some_left):
            return self.founder()
        return self.child()

    def founder(self) -> Candidate | None:
        """Returns the next founder, to be trained from scratch: each starter once, then new mutants of starters.

        None if no new mutant is found, or none is wanted.
        """
        rng = generator(self.seed, self.asked, "founder")
        if self._founders < len(self.starters):
            return self._propose(Candidate(self.asked, self.starters[self._founders], fidelity=self.fidelity))
        for _ in range(PARENTS if self.mutants else 0):
            starter = rng.choice(self.starters)
            if edits := self._edits(starter, 0.0, {}, rng):
                return self._propose(Candidate(self.asked, edits[-1].genome, fidelity=self.fidelity))
        return None

    def child(self) -> Candidate | None:
        """Returns a child of an individual that is selected, or its no-op control.

        If nothing new is found around several parents: a founder, or None.
        """
        rng = generator(self.seed, self.asked, "child")
        for _ in range(PARENTS):
            parent = self.selected(rng)
            genome, age = parent.candidate.genome, _age(parent)
            if self._children[parent.number] == 1 and not parent.candidate.control:
                return self._propose(Candidate(self.asked, genome, (parent.number,), (), self.fidelity), age)
            parents, edits = self._crossed(parent)
            if edits := edits or self._edits(genome, age, parent.evaluation.gradients, rng):
                return self._propose(Candidate(self.asked, edits[-1].genome, parents, edits, self.fidelity), age)
        return self.founder()

    def member(self, candidate: Candidate, evaluation: Evaluation) -> Individual | None:
        """Returns what a result makes of a candidate: an individual, or None if it can be no parent.

        Raises:
            ValueError: the evaluator does not measure an objective.
        """
        self.judgement.note(evaluation)
        return individual(candidate, evaluation, self.objectives)

    def judged(self, members: Iterable[Individual]) -> list[Individual]:
        """Returns the members as selection sees them now: each regression changes what all of them are worth."""
        if self.judgement.kind == "raw":
            return list(members)
        if self._regressed != self.judgement.fitted:
            self._regressed = self.judgement.fitted
            self._judged.clear()
        return [self._seen_as(member) for member in members]

    def _seen_as(self, member: Individual) -> Individual:
        """Returns a member as selection sees it by the last regression."""
        if member.number not in self._judged:
            objectives = self.judgement.objectives(member.evaluation)
            self._judged[member.number] = rejudged(member, objectives, self.objectives)
        return self._judged[member.number]

    def _propose(self, candidate: Candidate, age: float = 0.0) -> Candidate:
        """Takes note of a proposal: all that changes here changes now, so that a replay needs nothing else."""
        self.known[self.asked] = candidate
        self._founders += not candidate.parents
        self._children.update(candidate.parents[:1])
        self._seen[age].add(candidate.genome)
        return candidate

    def _remembered(self) -> Candidate | None:
        """Returns what was proposed at this point in an earlier session; None if it is to be searched for.

        So it is if its parent is not among the living, which shows that it was proposed by other rules.
        """
        if (candidate := self.past.at(self.asked)) is None:
            return None
        if not candidate.parents:
            return self._propose(candidate)
        parent = next((one for one in self.living if one.number == candidate.parents[0]), None)
        return self._propose(candidate, _age(parent)) if parent else None

    def _edits(
        self, genome: Genome, age: float, gradients: Mapping[str, float], rng: random.Random
    ) -> tuple[Edit, ...]:
        """Returns edits to a genome that computes something new at its age of training; none if none is found."""
        try:
            edits: tuple[Edit, ...] = self.box.mutate(genome, self._fresh(age, genome), gradients, rng)
        except Barren:
            return ()
        return edits

    def _crossed(self, parent: Individual) -> tuple[tuple[int, ...], tuple[Edit, ...]]:
        """Returns both parents and the edits of their child; one parent and none where there is to be no second one."""
        rng = generator(self.seed, self.asked, "crossover")
        if rng.random() < self.crossover and (other := self.selected(rng)) is not parent:
            one, two = parent.candidate, other.candidate
            edits = self.box.mate(one, two, self.known, self._fresh(_age(parent), one.genome, two.genome), rng)
            if edits:
                return (one.number, two.number), edits
        return (parent.number,), ()

    def _fresh(self, age: float, *parents: Genome) -> Callable[[Genome], bool]:
        """Returns the question whether a genome was not asked at an age, and computes what no parent computes."""

        def fresh(genome: Genome) -> bool:
            return not any(equivalent(genome, parent) for parent in parents) and genome not in self._seen[age]

        return fresh


def _age(parent: Individual) -> float:
    """Returns the training examples seen in the whole lineage, which a child continues from."""
    return parent.evaluation.cost.get("lineage_examples", 0.0)
