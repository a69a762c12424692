"""Whether inherited evolution finds better networks than its controls, in as many processor seconds of search (B4).

Arms: NSGA-II as the product runs it, whose children inherit; the same with every child trained from fresh weights;
random search; the largest of many random members, for which nothing is trained; the first starter, trained as what the
others find is; the same, trained for all of the budget in one schedule; Optuna's NSGA-II on the chains of the space. Of
an arm's finalists under each of several bounds of parameters, each trained from scratch by one recipe and schedule, the
one with the least validation error is chosen; it is trained anew and judged on the second validation part. The test
part is not read. Picks that a search has trained are trained once more for as long, from what it left in them.

A run writes docs/search_quality.md with what is measured so far, or docs/search_quality_large.md of networks as the
preset of Fashion-MNIST has them. It can be stopped at any moment: what is measured is kept in a file of the same name,
.jsonl, and the next run goes on from there; remove it when the search has changed. Optuna is an extra: `pip install -e
'.[bench]'`; without it its arm is left out.

Usage: python benchmarks/search_quality.py [--quick | --large] [--arms NAME …] [--seconds N] [--budget CPU_SECONDS]
           [--seeds N]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the cores are for processes

import argparse
import json
import math
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from ablation import interval
from arms import ARMS, FULL, INHERITED, LARGE, OPTUNA, QUICK, Job, Size, TimeUp, measured
from optuna_chain import installed
from search_quality_page import Record, Study, page, place, versions

from training import prepare
from training.slots import cores


def collected(size: Size, arms: Sequence[str], seeds: int, file: Path, seconds: float) -> Study:
    """Measures what is not recorded yet, for so many seconds, as many jobs at a time as there are cores.

    Args:
        size: how much of everything.
        arms: that are wanted.
        seeds: from 0.
        file: of one line of JSON for each record; what is not complete is kept in a folder beside it.
        seconds: of wall clock, after which no training is begun.
    """
    begun, half = time.monotonic(), file.with_suffix(".unfinished")
    lines = map(json.loads, file.read_text().splitlines() if file.exists() else ())
    records: dict[tuple[str, int], Record] = {
        (line["arm"], line["seed"]): line for line in lines if line["size"] == size.digest
    }
    prepared = prepare(size.data, half / "data")
    wanted = [(arm, seed) for seed in range(seeds) for arm in arms if (arm, seed) not in records]
    with ThreadPoolExecutor(cores()) as pool:
        jobs = [
            Job(arm, seed, size, prepared, half / f"{size.digest}-{seed}-{arm}", begun + seconds)
            for arm, seed in wanted
        ]
        flying = {pool.submit(measured, job): job for job in jobs}
        for future in as_completed(flying):
            try:
                record = {**future.result(), "load": os.getloadavg()[0]}
            except TimeUp:
                continue
            job = flying[future]
            records[job.arm, job.seed] = record
            with file.open("a") as out:
                print(json.dumps(record), file=out)
            shutil.rmtree(job.directory)
            print(f"{job.arm}, seed {job.seed}: {time.monotonic() - begun:.0f} s", flush=True)
    return Study(size, arms, seeds, records)


def known(numbers: Sequence[float]) -> list[float | None]:
    """Returns numbers as JSON has them."""
    return [number if math.isfinite(number) else None for number in numbers]


def result(study: Study) -> dict[str, Any]:
    """Returns what the last line tells."""
    measures = [*map(str, study.size.bounds), "volume", "parameters", "search", "retraining", "children"]
    measures += [f"left{bound}" for bound in study.size.bounds]
    arms = {arm: {name: known(interval(study.values(arm, name))) for name in measures} for arm in study.arms}
    pairs = [*map(str, study.size.bounds), "volume"]
    others = [arm for arm in study.arms if arm != INHERITED]
    differences = {arm: {name: known(study.difference(arm, name)) for name in pairs} for arm in others}
    told = {"complete": not study.missing(), "arms": arms, "inherited_minus": differences, "seeds": study.seeds}
    machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()}
    return {**told, "budget": study.size.budget, "records": list(study.records.values()), **machine, **versions(study)}


def main() -> None:
    """Measures, writes the page (unless quick), prints it, and the result as JSON in the last line."""
    parser = argparse.ArgumentParser()
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="seconds of budget on digits, one seed; writes no page")
    extent.add_argument("--large", action="store_true", help="networks of up to 100,000 parameters at 28 x 28 pixels")
    parser.add_argument("--arms", nargs="+", choices=ARMS, metavar="NAME", help="only these, such as random")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of wall clock; then no training is begun")
    parser.add_argument("--budget", type=float, help=f"processor seconds of a search; {FULL.budget:g} if not given")
    parser.add_argument("--seeds", type=int, help="how many searches of each arm; 3 if not given")
    given = parser.parse_args()
    for name in ("seconds", "budget", "seeds"):
        if (asked := getattr(given, name)) is not None and not asked > 0:
            parser.error(f"--{name} must be above 0, got {asked:g}")
    size, seeds = (QUICK, given.seeds or 1) if given.quick else (LARGE if given.large else FULL, given.seeds or 3)
    size = replace(size, budget=given.budget or size.budget)
    arms = given.arms or [arm for arm in ARMS if arm != OPTUNA or installed()]
    with tempfile.TemporaryDirectory() as scratch:
        records = Path(scratch) / "records.jsonl" if given.quick else place(size).with_suffix(".jsonl")
        study = collected(size, arms, seeds, records, given.seconds)
    if not study.records:
        print("RESULT", json.dumps({"complete": False}))
        return
    text = page(study)
    print(text)
    if not given.quick:
        place(size).write_text(text)
    print("RESULT", json.dumps(result(study)))


if __name__ == "__main__":
    main()
