"""Random search in the space that evolution searches: the control arm.

Source: Li & Talwalkar 2019, Random search and reproducibility for neural architecture search, section 3.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from genomes import Bounded, Genome, InvalidGenome, Limits, Seen, allowed
from morphism import CATALOGUE, Inapplicable, Morphism
from search import Candidate, Evaluation, Fidelity, Past, proposals

TRIES = 40


class Space(Protocol):
    """What random members are drawn from."""

    def sample(self, rng: random.Random) -> Genome:
        """Returns a random member."""
        ...


@dataclass(frozen=True)
class RandomSettings:
    """Settings of random search.

    Attributes:
        edits: up to so many random edits on a random member, so that what evolution reaches can be drawn too.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    edits: int = 4

    def __post_init__(self) -> None:
        """Refuses numbers outside their ranges."""
        if not 0 <= self.edits <= 32:
            raise ValueError(f"random.edits must be in [0, 32], got {self.edits}")


class RandomSearch:
    """Draws members of the space at random, edits them at random, and trains each from scratch."""

    def __init__(
        self,
        space: Space,
        limits: Limits,
        seed: int,
        settings: RandomSettings | None = None,
        fidelity: Fidelity | None = None,
        edits: Sequence[Morphism] = CATALOGUE,
    ) -> None:
        """Takes the space, the limits of all genomes, settings, and the edits that may be drawn."""
        self.edits = edits
        self.space, self.limits, self.seed = space, limits, seed
        self.settings, self.fidelity = settings or RandomSettings(), fidelity or Fidelity()
        self.asked = 0
        self.past, self._seen = Past(), Seen()

    def ask(self, n: int) -> list[Candidate]:
        """Returns `n` candidates without parents; fewer if nothing new is found.

        Raises:
            InvalidGenome: the space has no member within the limits.
        """
        return proposals(self._one, n)

    def tell(self, candidate: Candidate, evaluation: Evaluation) -> None:
        """Takes no note: the next draw does not depend on it."""

    def remind(self, past: Past) -> None:
        """Takes what it proposed before: members on record are not drawn again."""
        self.past = past

    def _one(self) -> Candidate | None:
        remembered = self.past.at(self.asked)
        genome = remembered.genome if remembered else self._new(random.Random(f"{self.seed}:{self.asked}:random"))
        if genome is None:
            return None
        self._seen.add(genome)
        self.asked += 1
        return Candidate(self.asked - 1, genome, fidelity=self.fidelity)

    def _new(self, rng: random.Random) -> Genome | None:
        for _ in range(TRIES):
            try:
                genome = self._drawn(rng)
            except InvalidGenome:  # bad luck within narrow limits, unless there is no member at all
                if not self.asked:
                    raise
                continue
            if genome not in self._seen:
                return genome
        return None

    def _drawn(self, rng: random.Random) -> Genome:
        genome = self.space.sample(rng)
        for _ in range(rng.randint(0, self.settings.edits)):
            genome = self._edited(genome, rng)
        return genome

    def _edited(self, genome: Genome, rng: random.Random) -> Genome:
        kind = rng.choices(self.edits, [kind.weight for kind in self.edits])[0]
        if not (sites := kind.sites(genome)):
            return genome
        try:
            child = kind.plan(Bounded(genome, self.limits), rng.choice(sites), rng).genome
        except (Inapplicable, InvalidGenome):
            return genome
        return child if allowed(child, self.limits) else genome
