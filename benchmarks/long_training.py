"""One complete schedule that is trained in segments: a session may end between two of them, and the next goes on.

Each segment is a child process. Its learning rate is the part of the one long schedule that it stands for, and its
length is fit to the rate that was measured in the segment before, so that the whole costs the processor seconds that it
may. The momentum begins anew with each segment, which is some 10 of thousands of steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from genomes import Genome
from morphism.realise import initial
from search import Fidelity, WeightStore
from training import Prepared, Recipe, Trainer, build, load, state
from training.loop import train
from training.worker import run_isolated


@dataclass(frozen=True)
class Segment(Recipe):
    """A recipe for a part of a schedule.

    Attributes:
        begins: where in the whole schedule, from 0 to 1.
        ends: there too.
    """

    begins: float = 0.0
    ends: float = 1.0

    def rate(self, progress: float) -> float:
        """Returns the learning rate of the whole schedule at a share of the segment."""
        return super().rate(self.begins + progress * (self.ends - self.begins))


@dataclass(frozen=True)
class Trained:
    """What a segment came to: its processor seconds, the examples it showed, and the digest of its weights."""

    seconds: float
    examples: int
    weights: str


def planned(done: Sequence[Trained], budget: float, segments: int, first: int) -> tuple[int, float, float]:
    """Returns the examples of the next segment, and where it begins and ends in the schedule.

    The first one of `first` examples is a schedule of its own that measures the rate; its weights are not used.
    """
    if not done:
        return first, 0.0, 1.0
    number, left = len(done) - 1, max(0.0, budget - sum(one.seconds for one in done))
    rate = done[-1].examples / done[-1].seconds
    return max(1, round(rate * left / (segments - number))), number / segments, (number + 1) / segments


def trained(trainer: Trainer, genome: Genome, done: Sequence[Trained], next_: tuple[int, float, float]) -> Trained:
    """Trains the next segment.

    Raises:
        RuntimeError: it failed.
    """
    examples, begins, ends = next_
    request = {
        "genome": genome.to_json().decode(),
        "weights": done[-1].weights if len(done) > 1 else None,
        "seed": 1_000 * trainer.seed + len(done),
        "recipe": {**asdict(trainer.recipe), "begins": begins, "ends": ends},
        "examples": examples,
    }
    places = [str(path.absolute()) for path in (trainer.prepared.file, trainer.store.directory)]
    result = trainer.scratch / f"segment-{len(done)}.json"
    outcome = run_isolated(segment, request, *places, result=result, timeout=trainer.timeout)
    if outcome.status != "ok":
        raise RuntimeError(f"segment {len(done)} must be trained, it ended with {outcome.status}: {outcome.reason}")
    return Trained(outcome.seconds, examples, outcome.value["weights"])


def segment(request: Mapping[str, Any], file: str, directory: str) -> dict[str, Any]:
    """Runs in the child: trains a segment and stores its weights."""
    store, prepared = WeightStore(Path(directory)), Prepared.at(Path(file))
    genome, split = Genome.from_json(request["genome"].encode()), load(prepared)
    fresh = request["weights"] is None
    network = build(genome, initial(genome, request["seed"]) if fresh else store.get(request["weights"])[1])
    recipe, generator = Segment(**request["recipe"]), torch.Generator().manual_seed(request["seed"])
    train(network, *split.train, recipe, Fidelity(request["examples"]), generator, prepared.normal)
    return {"weights": store.put(genome, state(network))}


def kept(file: Path) -> list[Trained]:
    """Returns the segments that are recorded."""
    return [Trained(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


def keep(file: Path, one: Trained) -> None:
    """Records a segment."""
    with file.open("a") as record:
        print(json.dumps(asdict(one)), file=record)
