"""The family of fidelity.py: a little population with real edits, and every measurement of each member.

Genomes do not depend on training here (parents are drawn, not selected), so the whole family is planned at once. Each
measurement is one line of a JSON file; a run that is stopped goes on where it was. Work for its processes.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the cores are for processes

import json
import multiprocessing
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from evo.variation import VariationSettings, mutate
from genomes import Genome, Limits, equivalent, expand
from genomes.spaces.residual import ResidualSpace
from morphism import Edit
from morphism.realise import initial
from search import Fidelity, WeightStore
from training import DataSpec, Prepared, Recipe, build, load, state
from training.evaluate import BATCH
from training.inherit import Heritage, inherit
from training.loop import normalised, train
from training.sources import raw
from training.statistics import reestimate

RECIPE = Recipe(batch_size=64, learning_rate=0.1, crop=1, flip=True)
SPACE = ResidualSpace((1, 14, 14), 10)
LIMITS = Limits(parameters=60_000, macs=1_500_000, activation_bytes=4_000_000)
DATA = DataSpec("family:halved", validation=0.1, second_validation=0.2, test=0.01)
VARIATION = VariationSettings(edits=3)
KEEP = 0.5  # of each weight, in a shrunk start; the rest is a fresh draw
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        children: members with a parent.
        full: examples of a reference run; a member's own budget is a third of it.
        judged: validation images that short runs are judged by.
    """

    children: int = 24
    full: int = 24_000
    judged: int = 4_000


QUICK = Size(5, 384, 400)


class Member(NamedTuple):
    """One network of the family; without edits it is a founder, or with a parent that parent's no-op control."""

    number: int
    genome: Genome
    parent: int | None = None
    edits: tuple[Edit, ...] = ()

    @property
    def control(self) -> bool:
        """Whether this is a parent's continuation without change."""
        return self.parent is not None and not self.edits


class Run(NamedTuple):
    """One measurement: which member, begun how, shown how many examples, at how many times the learning rate."""

    member: int
    start: str
    examples: int
    rate: float = 1.0
    seed: int = 0

    @property
    def key(self) -> str:
        """The name under which it is recorded."""
        return f"{self.start} x{self.rate:g} {self.examples} s{self.seed}"


def halved() -> tuple[Tensor, Tensor]:
    """Returns Fashion-MNIST's training part at 14 x 14 pixels: a child costs a third, so more can be measured."""
    images, labels = raw(DataSpec("fashion_mnist")).train
    return functional.avg_pool2d(images.float(), 2).round().to(torch.uint8), labels


@lru_cache(maxsize=1)
def family(size: Size) -> tuple[Member, ...]:
    """Returns founders of several widths, children of any of the last twelve members, and a control for each parent."""
    wider = (SPACE.member(8, [0, 1]), SPACE.member(12, [1, 1], separable=True), SPACE.member(16, [0, 0]))
    founders = (*SPACE.starters(), *wider)
    members = [Member(number, genome) for number, genome in enumerate(founders)]
    rng = random.Random("family")
    while len(members) < len(founders) + size.children:
        parent = rng.choice(members[-12:])
        edits = mutate(parent.genome, lambda g: _new(g, members), {}, rng, VARIATION, LIMITS)
        members.append(Member(len(members), edits[-1].genome, parent.number, edits))
    parents = sorted({member.parent for member in members if member.parent is not None})
    return (*members, *(Member(len(members) + n, members[p].genome, p) for n, p in enumerate(parents)))


def _new(genome: Genome, members: Sequence[Member]) -> bool:
    return not any(equivalent(genome, member.genome) for member in members)


def runs(size: Size) -> Iterator[Run]:
    """Yields all measurements, the most needed first; those of the own budget hand weights down."""
    third, sixth, twelfth = size.full // 3, size.full // 6, size.full // 12
    members = family(size)
    children = [m.number for m in members if m.edits]
    yield from (Run(m.number, "inherited" if m.parent is not None else "scratch", third) for m in members)
    yield from (Run(n, "scratch", size.full, 1.0, seed) for seed in (10, 11) for n in children)
    for wave in (
        ("scratch", twelfth),
        ("inherited", twelfth),
        ("shrunk", third),
        ("scratch", third),
        ("inherited", third, 2.0),
        ("scratch", twelfth, 1.0, 1),
        ("inherited", 0),
        ("scratch", sixth),
        ("inherited", third, 1.0, 1),
        ("reset", third),
        ("scratch", sixth, 1.0, 1),
        ("inherited", sixth),
        ("inherited", third, 0.3),
        ("shrunk", twelfth),
    ):
        yield from (Run(number, *wave) for number in children)


def collect(size: Size, prepared: Prepared, directory: Path, seconds: float) -> list[Record]:
    """Measures what is not recorded yet, for so many seconds, and returns all records."""
    directory.mkdir(parents=True, exist_ok=True)
    file, until = directory / "records.jsonl", time.monotonic() + seconds
    records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(record["member"], record["key"]): record for record in records}
    waiting = [run for run in runs(size) if (run.member, run.key) not in done]
    flying: set[Future[Record]] = set()
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool, file.open("a") as out:
        while (waiting and time.monotonic() < until) or flying:
            while len(flying) < (os.cpu_count() or 1) and time.monotonic() < until:
                if (run := next((r for r in waiting if _begun(r, size, done) is not None), None)) is None:
                    break
                waiting.remove(run)
                flying.add(pool.submit(measured, run, size, _begun(run, size, done) or {}, prepared.file, directory))
            landed, flying = wait(flying, return_when=FIRST_COMPLETED)
            for record in (future.result() for future in landed):
                done[record["member"], record["key"]] = record
                print(json.dumps(record), file=out, flush=True)
    print(f"{len(done)} measured, {len(waiting)} left, load {os.getloadavg()[0]:.1f}", flush=True)
    return list(done.values())


def _begun(run: Run, size: Size, done: Mapping[tuple[int, str], Record]) -> Record | None:
    """Returns the record whose weights a run begins with; None while there is none; empty where none is needed."""
    if run.start == "scratch":
        return {}
    member = family(size)[run.member]
    own = Run(run.member, "inherited", size.full // 3)
    if run != own:
        return done.get((run.member, own.key))
    assert member.parent is not None
    above = family(size)[member.parent]
    start = "scratch" if above.parent is None else "inherited"
    return done.get((above.number, Run(above.number, start, size.full // 3).key))


def measured(run: Run, size: Size, begun: Record, file: Path, directory: Path) -> Record:
    """Trains and judges once, in a process of its own thread.

    Args:
        run: what is measured.
        size: of the study.
        begun: the record of the parent for a member's own budget, else that of the member's own budget.
        file: of the prepared data.
        directory: of the weights.
    """
    torch.set_num_threads(1)
    spent, store, prepared = time.process_time(), WeightStore(directory / "weights"), Prepared.at(file)
    split, member = load(prepared), family(size)[run.member]
    images, normal, own = split.train.images, prepared.normal, run.examples == size.full // 3
    seed = 1_000 * run.member + run.seed
    start = begin(run, member, begun, store, images, normal)
    network, curve = build(member.genome, start), list[Mapping[str, float]]()
    if run.examples:
        recipe = Recipe(**{**asdict(RECIPE), "learning_rate": RECIPE.learning_rate * run.rate})
        generator = torch.Generator().manual_seed(seed)
        curve = train(network, images, split.train.labels, recipe, Fidelity(run.examples), generator, normal)
    record = {"member": run.member, "key": run.key, "curve": [point["loss"] for point in curve]}
    record |= judged(network, split.validation.images[: size.judged], split.validation.labels[: size.judged], normal)
    if run.seed >= 10:  # the reference is judged by other images, so that their chance is not shared
        other = judged(network, *split.second_validation, normal)
        record |= {f"reference_{name}": value for name, value in other.items()}
    if own and run.rate == 1 and run.seed == 0 and run.start in ("scratch", "inherited"):
        record |= {"weights": store.put(member.genome, state(network)), "start": store.put(member.genome, start)}
    if "weights" in record and member.edits:
        again = build(member.genome, reestimate(member.genome, state(network), images, normal))
        anew = judged(again, split.validation.images[: size.judged], split.validation.labels[: size.judged], normal)
        record |= {f"reestimated_{name}": value for name, value in anew.items()}
    return {**record, "seconds": time.process_time() - spent}


def begin(
    run: Run, member: Member, begun: Record, store: WeightStore, images: Tensor, normal: tuple[float, float]
) -> Mapping[str, Tensor]:
    """Returns the weights that a run begins with.

    `scratch` is a fresh draw; `inherited` what the edits make of the parent's weights; `shrunk` half of these and half
    a fresh draw in every kernel and matrix (Ash & Adams 2020, On warm-starting neural network training, section 4);
    `reset` has a fresh second half of the tensors, from input to output.
    """
    fresh = initial(member.genome, 1_000 * run.member + run.seed)
    if run.start == "scratch":
        return fresh
    if "start" not in begun or family_differs(begun, member):
        heritage = Heritage(member.genome, member.edits, begun["weights"], None, None, 1_000 * run.member)
        return inherit(heritage, store, images, normal).weights
    start = store.get(begun["start"])[1]
    if run.start == "shrunk":
        return {n: KEEP * t + (1 - KEEP) * fresh[n] if t.dim() > 1 else t for n, t in start.items()}
    if run.start == "reset":
        names = list(expand(member.genome).tensor_shapes())
        return {**start, **{name: fresh[name] for name in names[len(names) // 2 :]}}
    return start


def family_differs(begun: Record, member: Member) -> bool:
    """Says whether a record is the parent's, not the member's own."""
    return bool(begun["member"] != member.number)


@torch.inference_mode()
def judged(network: nn.Module, images: Tensor, labels: Tensor, normal: tuple[float, float]) -> dict[str, float]:
    """Returns the error and the mean cross-entropy, in nats, on images; under autocast, as in training."""
    network.eval()
    wrong, loss = 0.0, 0.0
    for some, wanted in zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True):
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(normalised(some, normal)).float()
        wrong += float((logits.argmax(1) != wanted).sum())
        loss += float(functional.cross_entropy(logits, wanted, reduction="sum"))
    return {"error": wrong / len(images), "loss": loss / len(images)}
