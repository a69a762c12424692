"""Whether a search was worth its time: its finalists against the largest networks, for which nobody searched.

Takes a search whose first finalist `morphogen retrain` has trained, and trains the largest of many random members of
the same space, within the same limits, with the same recipe, schedule and seeds. All are judged on the second
validation part, which no search sees; the test part is not read. Writes docs/finalists.md.

Usage: python benchmarks/finalists.py NAME [--home DIR] [--seeds N] [--examples N] [--largest N]
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

from scipy import stats  # type: ignore[import-untyped]

from flows import assembly
from flows.config import SearchConfig
from flows.home import Home
from flows.retrain import Job, chosen, configured, wanted
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
        evaluations: one for each seed.
    """

    name: str
    genome: Genome
    evaluations: Sequence[Evaluation]

    @property
    def errors(self) -> list[float]:
        """On the second validation part, in per cent."""
        return [100 * evaluation.objectives[JUDGED] for evaluation in self.evaluations]


def largest(config: SearchConfig, space: ResidualSpace, count: int) -> list[Genome]:
    """Returns the different random members of the space with the most parameters."""
    rng = random.Random(f"{config.seed}:largest")
    drawn = dict.fromkeys(space.sample(rng) for _ in range(DRAWN))
    return sorted(drawn, key=lambda genome: -cost(genome).parameters)[:count]


def measured(name: str, home: Home, seeds: int | None, examples: int | None, count: int) -> list[Trained]:
    """Returns the finalists as they are on record, and the largest networks, trained now.

    Raises:
        KeyError: a finalist's training is not on record: `morphogen retrain` with the same numbers comes first.
        RuntimeError: a training failed.
    """
    with Ledger.read(home.search(name)) as ledger, Retrainings.read(home.search(name) / assembly.RETRAIN) as record:
        config, known = configured(ledger.config, name, None, seeds, examples), record.recorded()
        best, genomes = chosen(ledger, record, 1)
    trainer = assembly.retrainer(config, home)
    found = [
        Trained(f"child {one.number}", genomes[one.number].genome, [known[job.key].evaluation for job in jobs])
        for one in best
        if (jobs := list(wanted(config, trainer, [genomes[one.number]])))
    ]
    space = ResidualSpace(trainer.prepared.shape, trainer.prepared.classes, config.space)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(len(trainer.pool.slots)) as pool:
        own = replace(trainer, store=WeightStore(Path(scratch) / "weights"), scratch=Path(scratch) / "results")
        candidates = [Candidate(number, genome) for number, genome in enumerate(largest(config, space, count))]
        jobs = list(wanted(config, own, candidates))
        evaluations = list(pool.map(trained, jobs))
    for one in candidates:
        mine = [e for job, e in zip(jobs, evaluations, strict=True) if job.candidate.number == one.number]
        found.append(Trained(f"largest of {DRAWN}, no. {one.number + 1}", one.genome, mine))
    return found


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


def difference(one: Trained, other: Trained) -> tuple[float, float, float]:
    """Returns how much more error the first has, in points, and the ends of the 95 % interval (paired by seed)."""
    pairs = [a - b for a, b in zip(one.errors, other.errors, strict=True)]
    middle = statistics.mean(pairs)
    reach = float(stats.t.ppf(0.975, len(pairs) - 1)) * statistics.stdev(pairs) / len(pairs) ** 0.5
    return middle, middle - reach, middle + reach


def page(name: str, found: Sequence[Trained]) -> Iterator[str]:
    """Yields the lines of docs/finalists.md."""
    best, *others = found
    shown = best.evaluations[0].cost["examples"]
    yield "# Whether the search was worth its time\n"
    yield (
        f"Generated by `python benchmarks/finalists.py {name}`: the first finalist of one search, as `morphogen "
        f"retrain {name}` trained it, and the largest of {DRAWN} random members of the space within the same limits, "
        f"trained from scratch alike: {shown:,.0f} examples, {len(best.evaluations)} seeds. Errors on the second "
        f"validation part, which no search sees, in per cent: mean ± standard deviation; the difference to the "
        f"finalist, in points, with its 95 % interval (t, paired by seed, not corrected for the number of "
        f"comparisons). {platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch "
        f"{version('torch')}.\n"
    )
    yield "| network | error, % | more than the finalist | parameters | MACs | CPU seconds a training |"
    yield "|---|--:|--:|--:|--:|--:|"
    for one in found:
        counted = cost(one.genome)
        more = "" if one is best else "{:+.2f} ({:+.2f} to {:+.2f})".format(*difference(one, best))
        seconds = statistics.mean(evaluation.cost["seconds"] for evaluation in one.evaluations)
        error = f"{statistics.mean(one.errors):.2f} ± {statistics.stdev(one.errors):.2f}"
        row = [one.name, error, more, f"{counted.parameters:,}", f"{counted.macs:,}", f"{seconds:,.0f}"]
        yield f"| {' | '.join(row)} |"
    ends = [difference(one, best) for one in others]
    worse, better = sum(low > 0 for _, low, _ in ends), sum(high < 0 for *_, high in ends)
    yield (
        f"\nOf {len(others)} networks that nobody searched for, {worse} {'is' if worse == 1 else 'are'} worse than the "
        f"finalist beyond the noise of seeds, and {better} better. Seeds are not searches: how the finalists of other "
        "searches would do, this does not say."
    )


def main() -> None:
    """Measures, writes the page, prints it, and the result as JSON in the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", help="of a search whose finalists are trained")
    parser.add_argument("--home", type=Path, default=Path("searches"), help="the directory that holds searches")
    parser.add_argument("--seeds", type=int, help="as `morphogen retrain` had it")
    parser.add_argument("--examples", type=int, help="as `morphogen retrain` had it")
    parser.add_argument("--largest", type=int, default=3, help="how many of the largest networks are trained")
    given = parser.parse_args()
    found = measured(given.name, Home(given.home), given.seeds, given.examples, given.largest)
    text = "\n".join(page(given.name, found)) + "\n"
    print(text)
    PAGE.write_text(text)
    print("RESULT", json.dumps({one.name: {"errors": one.errors, "genome": one.genome.digest} for one in found}))


if __name__ == "__main__":
    main()
