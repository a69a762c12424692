"""Whether a search was worth its time: finalists of searches against the largest networks that nobody searched for.

Takes searches whose first finalist `morphogen retrain` has trained, and trains the largest of many random members of
the first one's space, within its limits, with its recipe, schedule and seeds. All are judged on the second validation
part, which no search sees; the test part is not read. Writes docs/finalists.md.

Usage: python benchmarks/finalists.py NAME … [--home DIR] [--seeds N] [--examples N] [--largest N] [--keep FILE]
       python benchmarks/finalists.py --quick
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the cores are for processes

import argparse
import json
import platform
import random
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from ablation import Interval, words
from scipy import stats  # type: ignore[import-untyped]

from flows import assembly
from flows.config import SearchConfig, validated
from flows.home import Home
from flows.retrain import Job, chosen, configured, wanted
from flows.retrain import retrain as retrained
from flows.search import search
from flows.standings import JUDGED
from genomes import Genome, cost
from genomes.spaces.residual import ResidualSpace
from search import Candidate, Evaluation, Ledger, Retrainings, WeightStore
from training.retraining import retrain

PAGE = Path(__file__).resolve().parents[1] / "docs" / "finalists.md"
DRAWN = 500  # members of the space, of which the largest are taken


@dataclass(frozen=True)
class Trained:
    """A network and what became of it.

    Attributes:
        name: what it is called.
        genome: of the network.
        searched: processor seconds of the children of its search.
        errors: on the second validation part, in per cent, one for each seed.
        seconds: processor seconds of these trainings.
    """

    name: str
    genome: Genome
    searched: float
    errors: Sequence[float]
    seconds: Sequence[float]


def finalist(name: str, home: Home, seeds: int | None, examples: int | None) -> tuple[SearchConfig, Trained]:
    """Returns a search's configuration and its first finalist, as it is on record.

    Raises:
        SystemExit: its trainings are not on record: `morphogen retrain` with the same numbers comes first.
    """
    with Ledger.read(home.search(name)) as ledger, Retrainings.read(home.search(name) / assembly.RETRAIN) as record:
        config, known, spent = configured(ledger.config, name, None, seeds, examples), record.recorded(), ledger.spent()
        (best,), genomes = chosen(ledger, record, 1)
    candidate = genomes[best.number]
    jobs = list(wanted(config, assembly.retrainer(config, home), [candidate]))
    if missing := [job.label for job in jobs if job.key not in known]:
        raise SystemExit(
            f"search {name} must have its first finalist trained, {missing[0]} is missing: morphogen retrain {name}, "
            "and --seeds and --examples here as there"
        )
    done = [known[job.key].evaluation for job in jobs]
    called = f"{name} ({config.strategy.kind}, {spent.evaluations} candidates): child {best.number}"
    errors = [100 * one.objectives[JUDGED] for one in done]
    return config, Trained(called, candidate.genome, spent.train_seconds, errors, [o.cost["seconds"] for o in done])


def unsearched(config: SearchConfig, home: Home, count: int, keep: Path) -> Iterator[Trained]:
    """Yields the largest networks, trained now as far as they are not in the file.

    Raises:
        RuntimeError: a training failed.
    """
    trainer = assembly.retrainer(config, home)
    space = ResidualSpace(trainer.prepared.shape, trainer.prepared.classes, config.space)
    rng = random.Random(f"{config.seed}:largest")
    drawn = dict.fromkeys(space.sample(rng) for _ in range(DRAWN))
    genomes = sorted(drawn, key=lambda genome: -cost(genome).parameters)[:count]
    lines = map(json.loads, keep.read_text().splitlines() if keep.exists() else ())
    known = {(line["genome"], line["seed"]): (line["error"], line["seconds"]) for line in lines}
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(len(trainer.pool.slots)) as pool:
        own = replace(trainer, store=WeightStore(Path(scratch) / "weights"), scratch=Path(scratch) / "results")
        jobs = list(wanted(config, own, [Candidate(number, genome) for number, genome in enumerate(genomes)]))
        missing = [job for job in jobs if (job.candidate.genome.digest, job.seed) not in known]
        for job, one in zip(missing, pool.map(trained, missing), strict=True):
            found = 100 * one.objectives[JUDGED], one.cost["seconds"]
            known[job.candidate.genome.digest, job.seed] = found
            with keep.open("a") as file:
                line = {"genome": job.candidate.genome.digest, "seed": job.seed}
                print(json.dumps({**line, "error": found[0], "seconds": found[1]}), file=file)
    for number, genome in enumerate(genomes, 1):
        errors, seconds = zip(*(known[genome.digest, seed] for seed in range(config.retrain.seeds)), strict=True)
        yield Trained(f"largest of {DRAWN}, no. {number}", genome, 0.0, errors, seconds)


def trained(job: Job) -> Evaluation:
    """Returns one training from scratch.

    Raises:
        RuntimeError: it failed.
    """
    evaluation = retrain(job.trainer, job.candidate)
    if not evaluation.ok:
        raise RuntimeError(f"{job.label} must succeed, it ended with {evaluation.status}: {evaluation.reason}")
    print(f"{job.label}: {evaluation.objectives[JUDGED]:.4f} in {evaluation.cost['seconds']:.0f} CPU s", flush=True)
    return evaluation


def difference(one: Trained, other: Trained) -> Interval:
    """Returns how much more error the first has, in points, and the ends of the 95 % interval (Welch 1947)."""
    found = stats.ttest_ind(one.errors, other.errors, equal_var=False).confidence_interval()
    return statistics.mean(one.errors) - statistics.mean(other.errors), float(found.low), float(found.high)


def page(names: Sequence[str], examples: int, found: Sequence[Trained]) -> Iterator[str]:
    """Yields the lines of docs/finalists.md."""
    best = found[0]
    yield "# Whether the search was worth its time\n"
    yield (
        f"Generated by `python benchmarks/finalists.py {' '.join(names)} --seeds {len(best.errors)} --examples "
        f"{examples}`: the first finalist of each search, as `morphogen retrain` trained it, and the largest of "
        f"{DRAWN} random members of the space within the same "
        f"limits, for which nobody searched, trained from scratch alike: {examples:,} examples, {len(best.errors)} "
        f"seeds. Errors on the second validation part, which no search sees, in per cent: mean ± standard deviation; "
        f"the difference to the first row, in points, with its 95 % interval (Welch's t, not corrected for the number "
        f"of comparisons). {platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch "
        f"{version('torch')}.\n"
    )
    yield "| network | error, % | more than the first | parameters | MACs | search, CPU s | a training, CPU s |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for one in found:
        counted = cost(one.genome)
        more = "" if one is best else words(difference(one, best), 1)
        error = f"{statistics.mean(one.errors):.2f} ± {statistics.stdev(one.errors):.2f}"
        spent = [f"{one.searched:,.0f}", f"{statistics.mean(one.seconds):,.0f}"]
        yield f"| {' | '.join([one.name, error, more, f'{counted.parameters:,}', f'{counted.macs:,}', *spent])} |"
    ends = [difference(one, best) for one in found[1:]]
    worse, better = sum(low > 0 for _, low, _ in ends), sum(high < 0 for *_, high in ends)
    yield (
        f"\nOf the {len(ends)} others, beyond the noise of seeds {worse} {'has' if worse == 1 else 'have'} more error "
        f"than the first and {better} less. Seeds are not searches: how the finalists of other searches would do, this "
        "does not say."
    )


def quickly(home: Path) -> list[str]:
    """Makes a search of seconds on digits, and trains its finalist; returns what takes it."""
    few = {"data": {"name": "digits"}, "fidelity": {"examples": 500}, "budget": {"candidates": 4}}
    search(validated({"name": "quick", **few}, "quick"), home)
    retrained("quick", top=1, seeds=2, examples=500, home=home)
    return ["quick", "--home", str(home), "--seeds", "2", "--examples", "500", "--largest", "1"]


def main() -> None:
    """Measures, writes the page (unless quick), prints it, and the result as JSON in the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", help="of searches whose first finalist is trained")
    parser.add_argument("--quick", action="store_true", help="a search of its own, of seconds; writes no page")
    parser.add_argument("--home", type=Path, default=Path("searches"), help="the directory that holds searches")
    parser.add_argument("--seeds", type=int, help="as `morphogen retrain` had it")
    parser.add_argument("--examples", type=int, help="as `morphogen retrain` had it")
    parser.add_argument("--largest", type=int, default=3, help="how many of the largest networks are trained")
    parser.add_argument("--keep", type=Path, help="a file of finished trainings; given again, the program goes on")
    given = parser.parse_args()
    quick = given.quick
    if not (given.names or quick):
        parser.error("the name of a search is needed, or --quick")
    with tempfile.TemporaryDirectory() as scratch:
        given = parser.parse_args(quickly(Path(scratch) / "home")) if quick else given
        home = Home(given.home)
        configs, found = zip(*(finalist(name, home, given.seeds, given.examples) for name in given.names), strict=True)
        others = list(unsearched(configs[0], home, given.largest, given.keep or Path(scratch) / "kept.jsonl"))
    text = "\n".join(page(given.names, configs[0].full()[1].examples, [*found, *others])) + "\n"
    print(text)
    if not quick:
        PAGE.write_text(text)
    print("RESULT", json.dumps({o.name: {"errors": o.errors, "genome": o.genome.digest} for o in (*found, *others)}))


if __name__ == "__main__":
    main()
