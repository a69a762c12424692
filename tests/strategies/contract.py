"""What the tests of all strategies share: the strategies, a toy evaluator, and a search in memory.

A new strategy joins every test of `tests/strategies` by one line in `STRATEGIES`.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from evo import NSGA2, AgingEvolution, AgingSettings, NSGA2Settings, VariationSettings
from genomes import Genome, cost, expand, features
from genomes.operations import GELU, Concat
from genomes.spaces.residual import ResidualSpace
from search import Candidate, Evaluation, Fidelity, Status, Strategy
from strategies import ASHA, LadderSettings, RandomSearch, Screened, SuccessiveHalving

SPACE = ResidualSpace((1, 16, 16), 4)
LIMITS = SPACE.limits.budgets
STARTERS = SPACE.starters()
VARIED = VariationSettings(disruptions=0.4, edits=3)
FAILURES: tuple[Status, ...] = ("build_error", "non_finite", "over_budget", "killed", "timeout", "out_of_memory")

Make = Callable[[int], Strategy]
Evaluate = Callable[[Candidate, Mapping[int, Evaluation]], Evaluation]

FULL = Fidelity(180_000)
FOUR = AgingSettings(founders=4), NSGA2Settings(founders=4)  # so that a game of a few dozens is one of children
RUNGS = (Fidelity().examples, 60_000)
RETRAINED = LadderSettings(rungs=RUNGS, promotion="retrain")
CONTINUED = LadderSettings(rungs=RUNGS, promotion="continue", reduction=2)
PAIRED = LadderSettings("halving", RUNGS[:1], reduction=2, bracket=4)

PLAIN: dict[str, Make] = {
    "aging": lambda seed: AgingEvolution(STARTERS, LIMITS, seed, FOUR[0], VARIED),
    "aging of two, from one starter": lambda seed: AgingEvolution(
        STARTERS[:1], LIMITS, seed, AgingSettings(population=2, tournament=1, founders=3)
    ),
    "nsga2": lambda seed: NSGA2(STARTERS, LIMITS, seed, FOUR[1], VARIED),
    "nsga2 with three objectives": lambda seed: NSGA2(
        STARTERS, LIMITS, seed, NSGA2Settings(population=6, founders=4, objectives=("error", "parameters", "macs"))
    ),
    "nsga2 with crossover": lambda seed: NSGA2(
        STARTERS, LIMITS, seed, FOUR[1], VariationSettings(disruptions=0.3, crossover=0.6)
    ),
    "aging by measured errors": lambda seed: AgingEvolution(STARTERS, LIMITS, seed, FOUR[0], judgement="raw"),
    "nsga2 by measured errors": lambda seed: NSGA2(STARTERS, LIMITS, seed, FOUR[1], VARIED, judgement="raw"),
    "random": lambda seed: RandomSearch(SPACE, LIMITS, seed),
    "nsga2, screened": lambda seed: Screened(NSGA2(STARTERS, LIMITS, seed, FOUR[1], VARIED), size, 3),
    "random, screened": lambda seed: Screened(RandomSearch(SPACE, LIMITS, seed), size, 2, founders=True),
}
EVOLVING = [name for name in PLAIN if not name.endswith("screened") and name != "random"]
AXES = ("error", "parameters")
LADDERS: dict[str, Make] = {
    "asha of aging": lambda seed: ASHA(PLAIN["aging"](seed), CONTINUED, FULL),
    "asha of nsga2 with crossover": lambda seed: ASHA(PLAIN["nsga2 with crossover"](seed), RETRAINED, FULL, AXES),
    "halving of nsga2": lambda seed: SuccessiveHalving(PLAIN["nsga2"](seed), RETRAINED, FULL, AXES),
    "halving of aging, in pairs": lambda seed: SuccessiveHalving(PLAIN["aging"](seed), PAIRED, FULL),
}
STRATEGIES = {**PLAIN, **LADDERS}


def evolving(strategy: type[AgingEvolution | NSGA2], seed: int, variation: VariationSettings) -> Strategy:
    """Returns an evolution that begins with few founders."""
    if strategy is NSGA2:
        return NSGA2(STARTERS, LIMITS, seed, FOUR[1], variation)
    return AgingEvolution(STARTERS, LIMITS, seed, FOUR[0], variation)


def size(genome: Genome) -> float:
    """Returns what screened strategies are screened by."""
    return float(cost(genome).parameters)


def toy(candidate: Candidate, parents: Mapping[int, Evaluation]) -> Evaluation:
    """Returns an evaluation that rewards GELUs and joins: no member of the space has any, edits have to find them."""
    spent, age, shown = cost(candidate.genome), 0.0, float(candidate.fidelity.examples)
    if candidate.parents:
        age = parents[candidate.parents[0]].cost["lineage_examples"]
    return Evaluation(
        candidate.number,
        "ok",
        {"error": 1 / (1 + merit(candidate.genome)), "parameters": spent.parameters, "macs": spent.macs},
        {"examples": shown, "lineage_examples": shown + age},
        weights=hashlib.sha256(f"{candidate.number}".encode()).hexdigest(),
        features=features(candidate.genome),
    )


def merit(genome: Genome) -> int:
    """Returns how many GELUs and joins a genome has."""
    return sum(isinstance(primitive.operation, (GELU, Concat)) for primitive in expand(genome).primitives.values())


def flaky(candidate: Candidate, parents: Mapping[int, Evaluation]) -> Evaluation:
    """Returns a failure for every third candidate, of every kind in turn."""
    if candidate.number % 3:
        return toy(candidate, parents)
    return failed(candidate, FAILURES[candidate.number // 3 % len(FAILURES)])


def failed(candidate: Candidate, status: Status = "build_error") -> Evaluation:
    """Returns a failure."""
    return Evaluation(candidate.number, status, reason="as the test wants it")


@dataclass
class Game:
    """A search in memory: what was asked and told so far, in one sequence."""

    strategy: Strategy
    evaluate: Evaluate = toy
    order: random.Random = field(default_factory=lambda: random.Random(0))
    asked: list[Candidate] = field(default_factory=list)
    told: dict[int, Evaluation] = field(default_factory=dict)
    events: list[tuple[Candidate, Evaluation | None]] = field(default_factory=list)
    flying: list[Candidate] = field(default_factory=list)

    def ask(self, n: int = 1) -> list[Candidate]:
        """Asks for candidates, which are in flight then."""
        found = list(self.strategy.ask(n))
        for candidate in found:
            assert all(self.told[parent].ok and self.told[parent].weights for parent in candidate.parents)
            self.events.append((candidate, None))
        self.asked += found
        self.flying += found
        return found

    def land(self) -> None:
        """Tells the result of any one of the candidates in flight."""
        candidate = self.flying.pop(self.order.randrange(len(self.flying)))
        self.told[candidate.number] = self.evaluate(candidate, self.told)
        self.events.append((candidate, self.told[candidate.number]))
        self.strategy.tell(candidate, self.told[candidate.number])

    def play(self, count: int, slots: int = 3) -> Game:
        """Evaluates `count` candidates in all, `slots` at a time, landing in any order; stops if none is proposed."""
        while len(self.asked) < count or self.flying:
            if len(self.asked) < count and len(self.flying) < slots and self.ask():
                continue
            if not self.flying:
                break
            self.land()
        return self

    def children(self) -> Iterator[tuple[Candidate, Candidate]]:
        """Yields the candidates that have a parent, with the first one, whose weights they inherit."""
        for candidate in self.asked:
            for parent in candidate.parents[:1]:
                yield candidate, self.asked[parent]


def identity(candidate: Candidate) -> tuple[object, ...]:
    """Returns what two equal proposals have in common."""
    edits = tuple(edit.digest for edit in candidate.edits)
    return candidate.number, candidate.genome.digest, candidate.parents, edits, candidate.fidelity, candidate.promotes
