"""Families as a search leaves them, without any search: for tests of what shows or counts them."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from genomes import Genome, Module
from genomes.operations import Conv, Flatten, GlobalPool, Input, Linear, Operation, Output, ReLU
from morphism import EXACT, INEXACT, Certificate, Edit
from search import Candidate, Evaluation, Ledger

RULES = ("widen.split", "deepen.residual", "kernel.grow", "skip.add", "branch", "remove_node", "change_stride")


def genome_of(widths: tuple[int, ...]) -> Genome:
    """Returns a plain chain of convolutions."""
    nodes: dict[str, Operation] = {"image": Input(shape=(1, 8, 8))}
    chain = ["image"]
    for i, width in enumerate(widths):
        nodes |= {f"conv_{i}": Conv(out_channels=width, kernel=3, padding=1), f"relu_{i}": ReLU()}
        chain += [f"conv_{i}", f"relu_{i}"]
    nodes |= {"pool": GlobalPool(), "flat": Flatten(), "head": Linear(out_features=10), "logits": Output()}
    chain += ["pool", "flat", "head", "logits"]
    return Genome.of({"net": Module.of(nodes, pairwise(chain))})


def edit_of(rng: random.Random, genome: Genome) -> Edit:
    rule = rng.choice(RULES)
    site = {"module": "net", "node": f"conv_{rng.randrange(4)}", "copies": rng.randrange(1, 9)}
    return Edit(rule, site, genome, {}, INEXACT if rule in RULES[-2:] else EXACT)


def proof_of(rng: random.Random, edit: Edit) -> Certificate:
    errors = {"eval": rng.random() * 1e-15, "train": rng.random() * 1e-14} if edit.modes else {"eval": rng.random()}
    modes = tuple(sorted(edit.modes))
    return Certificate(edit.rule, "0" * 64, edit.genome.digest, "1" * 64, modes, errors, modes, 7, True)


def evaluation_of(rng: random.Random, candidate: Candidate, told: Mapping[int, Evaluation]) -> Evaluation:
    """Returns a plausible result: some fail, some repeat another, the rest is near the parent."""
    parent = told.get(candidate.parents[0]) if candidate.parents else None
    size = sum(op.out_channels * 90 for _, op in candidate.genome["net"].nodes if isinstance(op, Conv))
    seconds = 4 + size / 400 + rng.random()
    own = {"seconds": seconds, "examples": 20_000, "train_macs": size * 30 * 20_000}
    cost = own | {f"lineage_{k}": v + (parent.cost[f"lineage_{k}"] if parent else 0) for k, v in own.items()}
    if rng.random() < 0.08:
        status = rng.choice(("non_finite", "over_budget", "timeout", "killed"))
        return Evaluation(
            candidate.number, status, cost=cost, reason=f"step {rng.randrange(400)}: the loss is not finite"
        )
    start = parent.objectives["error"] if parent else 0.3 + 0.25 * rng.random()
    floor = 0.03 + 3 / size  # a network of this size does no better
    drift = rng.gauss(0.01 if candidate.control else 0.03, 0.02 if candidate.control else 0.07)
    error = min(floor + max(start - floor, 0.002) * math.exp(drift), 0.9)
    curve = tuple(
        {
            "examples": k * 1000,
            "loss": 2.3 * (error + 0.9 * math.exp(-k / 5)) + rng.random() / 20,
            "error": error + 0.4 * math.exp(-k / 4),
        }
        for k in range(1, 21)
    )
    proofs = tuple(proof_of(rng, edit) for edit in candidate.edits)
    twin = rng.randrange(candidate.number) if candidate.number > 9 and rng.random() < 0.03 else None
    objectives = {"error": error, "parameters": float(size), "macs": float(size * 30)}
    return Evaluation(candidate.number, "ok", objectives, cost, curve, "2" * 64, certificates=proofs, twin=twin)


def child_of(rng: random.Random, number: int, living: list[Candidate], told: Mapping[int, Evaluation]) -> Candidate:
    """Returns a child of the best of a few living members."""
    pick = min(rng.sample(living, min(5, len(living))), key=lambda c: told[c.number].objectives["error"])
    if rng.random() < 0.07:
        return Candidate(number, pick.genome, (pick.number,))
    widths = [op.out_channels for _, op in pick.genome["net"].nodes if isinstance(op, Conv)]
    at = rng.randrange(len(widths))
    widths[at] = max(widths[at] + rng.choice((-3, -1, 2, 3, 5)), 2)
    grown = genome_of((*widths, 8) if rng.random() < 0.06 and len(widths) < 9 else tuple(widths))
    edits = tuple(edit_of(rng, grown) for _ in range(1 + (rng.random() < 0.15)))
    other = (rng.choice(living).number,) if rng.random() < 0.08 else ()
    return Candidate(number, grown, (pick.number, *(n for n in other if n != pick.number)), edits)


def kin(count: int, seed: int = 5, founders: int = 6) -> tuple[dict[int, Candidate], dict[int, Evaluation]]:
    """Returns a family as ageing evolution makes them: several founders, dead branches, error that falls."""
    rng = random.Random(seed)
    candidates: dict[int, Candidate] = {}
    told: dict[int, Evaluation] = {}
    living: list[Candidate] = []
    for number in range(count):
        founder = number < founders or not living
        widths = tuple(rng.randrange(3, 9) for _ in range(rng.randrange(2, 4)))
        candidate = Candidate(number, genome_of(widths)) if founder else child_of(rng, number, living, told)
        candidates[number], told[number] = candidate, evaluation_of(rng, candidate, told)
        living += [candidate] if told[number].ok else []
        del living[: max(len(living) - max(8, round(count**0.5)), 0)]
    return candidates, told


def recorded(
    directory: Path,
    candidates: Mapping[int, Candidate],
    evaluations: Mapping[int, Evaluation],
    config: Mapping[str, Any] | None = None,
) -> None:
    """Adds a family to the ledger of a search, as if it had been trained."""
    with Ledger.create(directory, config or {}) as ledger:
        for number in sorted(candidates):
            ledger.asked(candidates[number], str(number), float(number))
            ledger.attempted(number)
            if number in evaluations:
                ledger.told(evaluations[number], float(number))


def drawing(genome: Genome) -> str:
    """Returns an SVG as large as a real one, which deflates no better."""
    noise = hashlib.sha256(genome.digest.encode()).hexdigest()
    shapes = "".join(
        f'<rect x="{i}" y="{int(noise[i % 60 : i % 60 + 4], 16) % 997}" width="80" height="20"/>' for i in range(180)
    )
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 1000">{shapes}</svg>'
