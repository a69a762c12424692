"""Whether morphisms keep the function, to which last place, and what they cost: the whole catalogue.

Four questions, each answered for every morphism:

    pairs     one edit of a random genome with messy weights: float64, float32, batch statistics, static proof
    lineages  thirty edits one after the other: what has accumulated at the end
    real      one edit at several sites of resnet18 and mobilenet_v3_small, converted from torchvision
    cost      milliseconds to plan and realise on resnet18, and the share of the child's bytes that is new

Beside it: what a plain Net2Net does to the same networks, see net2net.py. A full run writes docs/exactness.md.

Usage: python benchmarks/exactness.py [--quick]     (exit code 1 if anything was violated)
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the cores are for processes

import argparse
import json
import multiprocessing
import platform
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import net2net
import sweeps
import torch
from sweeps import TABLE, Tallies, Tally, claims_bits

from genomes import InvalidGenome, expand
from morphism import Inapplicable
from morphism.channels import channels
from morphism.realise import realise

PAGE = Path(__file__).resolve().parents[1] / "docs" / "exactness.md"
FULL = {"pairs": 10_000, "lineages": 1_000, "sites": 4, "times": 9, "genomes": 400}
TEXT = """# How exact the morphisms are

Written by `python benchmarks/exactness.py`, not by hand. Measured on {cores} cores ({machine}), torch {torch}, in
{minutes:.0f} minutes.

**{violations} violations** in {pairs:,} edits of random genomes with messy weights and statistics, {lineages:,}
lineages of {length} edits, and {real}. Worst error: {worst}.

An error is the largest difference of the outputs over the largest output of the parent, on four normal images. A 0
means the very same bits. *Batch statistics* is float64 in train mode (– where it is not claimed). *Proved* is the share
of edits that the static proof covers, which reads expressions and no tensor. *ms* is planning and realising one edit
on resnet18 (11 million parameters, float32, one core, median CPU time of {times}; the parent's expansion and channel
map are in memory, as in a search); *new bytes* is the share of the child's tensors that are not the parent's own
objects (– where resnet18 has no place for the edit).

{table}

Parent and child differ by more than the bound of float32, since they round to opposite sides, but the child in float32
is within the bound of the parent's function in float64, which is no violation: {coarse}.

At the end of the lineages: {ends}. Planning called no function of torch: it would have been refused.
Slower than the goal, 5 ms and 30 ms where widths change: {slow}.

## The same question to a plain Net2Net

`benchmarks/net2net.py` is our own plain re-implementation of the published recipe, nobody's package: what is new in a
batch norm gets PyTorch's defaults (1, 0, 0, 1). The same generators of genomes and weights, the same kind of probes,
float64.

| recipe | edits | median | worst | worst, batch statistics | above 1e-12 | worst on resnet18 |
|---|--:|--:|--:|--:|--:|--:|
{plain}

The recipe is exact where the norms are replicated too (the control). Net2Deeper's error in eval mode is the ε that its
new norm divides by; with batch statistics a new norm standardises what was not standardised before.
"""
QUICK = {"pairs": 200, "lineages": 8, "sites": 0, "times": 2, "genomes": 40}


def cost(rule: str, times: int) -> dict[str, float] | None:
    """Returns milliseconds of planning and realising on resnet18, and the share of the child's bytes that is new.

    What a search has in memory is warm: the parent's expansion and channel map; whatever concerns the child is not.
    """
    genome, weights = sweeps.converted("resnet18")
    milliseconds, shares, rng = list[float](), list[float](), random.Random(rule)
    for _ in range(10 * times):
        if len(milliseconds) == times:
            break
        try:
            at, tensors, near = sweeps.ready(rule, genome, weights, rng)
            expand.cache_clear()
            channels.cache_clear()
            channels(at)
            site = sweeps.site_of(TABLE[rule], at, rng, near)
            begun = time.process_time()
            edit = TABLE[rule].plan(at, site, rng)
            child = realise(edit, tensors)
            milliseconds.append(1000 * (time.process_time() - begun))
        except (Inapplicable, InvalidGenome):
            continue
        size = {name: tensor.numel() * tensor.element_size() for name, tensor in child.items()}
        inherited = {id(tensor) for tensor in tensors.values()}
        shares.append(sum(size[name] for name in child if id(child[name]) not in inherited) / sum(size.values()))
    if not milliseconds:
        return None
    return {
        "ms": statistics.median(milliseconds),
        "ms_least": min(milliseconds),
        "ms_most": max(milliseconds),
        "times": len(milliseconds),
        "new_storage": statistics.median(shares),
    }


def goal(rule: str) -> float:
    """Returns the milliseconds that an edit may take on resnet18."""
    return 30.0 if rule.startswith(("widen", "narrow")) else 5.0


def gathered(
    pool: ProcessPoolExecutor, title: str, jobs: Iterable[tuple[Callable[..., Tallies], tuple[Any, ...]]]
) -> Tallies:
    """Runs jobs, tells how far they are, and returns all that they have seen."""
    begun, total = time.perf_counter(), defaultdict[str, Tally](Tally)
    waiting = [pool.submit(function, *arguments) for function, arguments in jobs]
    for done, future in enumerate(as_completed(waiting), 1):
        for rule, tally in future.result().items():
            total[rule].add(tally)
        if done * 10 // len(waiting) > (done - 1) * 10 // len(waiting):
            seen = sum(tally.violations for tally in total.values())
            seconds = time.perf_counter() - begun
            print(f"{title:9} {done}/{len(waiting)} in {seconds:.0f} s, violations {seen}", flush=True)
    return dict(total)


def chunks(count: int, size: int) -> Iterator[range]:
    """Yields the numbers below `count` in pieces."""
    return (range(start, min(start + size, count)) for start in range(0, count, size))


def measured(counts: Mapping[str, int]) -> dict[str, Tallies]:
    """Runs the three sweeps over all cores."""
    rules = list(TABLE)
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        return {
            "pairs": gathered(pool, "pairs", ((sweeps.pairs, (c,)) for c in chunks(counts["pairs"], 50))),
            "lineages": gathered(pool, "lineages", ((sweeps.lineages, (c,)) for c in chunks(counts["lineages"], 4))),
            **{
                model: gathered(pool, model, ((sweeps.real, (model, rule, counts["sites"])) for rule in rules))
                for model in sweeps.MODELS
                if counts["sites"]
            },
        }


def result(found: Mapping[str, Tallies], costs: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """Returns everything as JSON values."""
    every = [tally for tallies in found.values() for tally in tallies.values()]
    per = {
        rule: {
            **asdict(_together(found, rule)),
            "bit_for_bit": claims_bits(rule),
            **(costs.get(rule) or {}),
        }
        for rule in TABLE
    }
    return {
        "violations": sum(tally.violations for tally in every),
        **{f"worst_{name}": max(tally.worst.get(name, 0.0) for tally in every) for name in sweeps.BOUNDS},
        "per_morphism": per,
        "applied": {sweep: sum(tally.applied for tally in tallies.values()) for sweep, tallies in found.items()},
        "lineages": asdict(found["lineages"]["lineage"]),
        "net2net": plain,
        "coarse": [note for tally in every for note in tally.coarse],
        "slow": [rule for rule, figures in costs.items() if figures and figures["ms"] > goal(rule)],
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        **{name: version(name) for name in ("torch", "torchvision")},
        "python": platform.python_version(),
    }


def _together(found: Mapping[str, Tallies], rule: str) -> Tally:
    total = Tally()
    for tallies in found.values():
        total.add(tallies.get(rule, Tally()))
    return total


def table(outcome: Mapping[str, Any]) -> list[str]:
    """Returns the table of morphisms in Markdown."""
    lines = [
        "| morphism | edits | violations | float64 | float32 | batch statistics | proved | ms | new bytes |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for rule, seen in outcome["per_morphism"].items():
        errors = " | ".join(_error(seen["worst"].get(name)) for name in sweeps.BOUNDS)
        spent = f"{seen['ms']:.1f} | {seen['new_storage']:.1%}" if "ms" in seen else "– | –"
        proved = f"{seen['proved'] / max(1, seen['applied']):.0%}"
        lines.append(f"| {rule} | {seen['applied']:,} | {seen['violations']} | {errors} | {proved} | {spent} |")
    return lines


def _error(error: float | None) -> str:
    return "–" if error is None else f"{error:.0e}" if error else "0"


def page(outcome: Mapping[str, Any], seconds: float) -> str:
    """Returns docs/exactness.md."""
    counts, resnet = outcome["applied"], outcome["net2net_resnet18"]
    worst = (f"{name} {_error(outcome[f'worst_{name}'])} (bound {bound:.0e})" for name, bound in sweeps.BOUNDS.items())
    plain = (
        f"| {name} | {n['pairs']} | {n['median']:.0e} | {n['worst']:.0e} | {n['worst_train']:.0e} | "
        f"{n['share_above_1e-12']:.0%} | {_error(resnet[name])} |"
        for name, n in outcome["net2net"].items()
    )
    return TEXT.format(
        **{name: outcome[name] for name in ("cores", "machine", "torch", "violations")},
        minutes=seconds / 60,
        pairs=counts["pairs"],
        lineages=counts["lineages"],
        length=sweeps.LENGTH,
        real=" and ".join(f"{counts[model]} edits of {model}" for model in sweeps.MODELS),
        worst=", ".join(worst),
        times=FULL["times"],
        table="\n".join(table(outcome)),
        ends=", ".join(f"{name} {_error(error)}" for name, error in sorted(outcome["lineages"]["worst"].items())),
        slow=", ".join(outcome["slow"]) or "none",
        coarse="; ".join(outcome["coarse"]) or "none",
        plain="\n".join(plain),
    )


def main() -> None:
    """Measures, prints a table, and the result as JSON in the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer of everything, no real network but for the costs")
    quick, begun = parser.parse_args().quick, time.perf_counter()
    counts = QUICK if quick else FULL
    torch.set_num_threads(1)
    found = measured(counts)
    costs = {rule: cost(rule, counts["times"]) for rule in TABLE}
    outcome = result(found, costs, {n: net2net.summary(e) for n, e in net2net.sweep(counts["genomes"]).items()})
    genome, weights = sweeps.converted("resnet18")
    on_resnet = net2net.measure(genome, weights, 0, 1 if quick else 4)
    outcome["net2net_resnet18"] = {n: max((e for e, _ in errors), default=None) for n, errors in on_resnet.items()}
    print("\n".join(table(outcome)))
    for tallies in found.values():
        for rule, tally in tallies.items():
            for example in tally.examples:
                print(f"VIOLATION {rule}: {example[:300]}")
    if not quick:
        PAGE.write_text(page(outcome, time.perf_counter() - begun))
    print("RESULT", json.dumps({"seconds": time.perf_counter() - begun, **outcome}))
    sys.exit(outcome["violations"] > 0)


if __name__ == "__main__":
    main()
