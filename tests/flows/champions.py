"""Champions without Prefect: a home with trained finalists, of which any is made champion as a test wants it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from flows.assembly import RETRAIN, retrainer
from flows.champions import registry
from flows.champions.champion import Contender, judged
from flows.finalists import finalists
from flows.home import Home
from flows.retrain import wanted
from flows.standings import ranked
from flows.tracking import Tracker
from search import Ledger, Retraining, Retrainings
from tests.flows.conftest import config
from training.retraining import retrain

COUNT = 4
SETTINGS = config(budget={"candidates": COUNT}, retrain={"top": 2, "seeds": 1, "fidelity": {"examples": 512}})


def trained(home: Path) -> Path:
    """Makes a search with two finalists that were trained, of which none is champion yet, and returns its home."""
    from tests.flows.test_retrain import searched

    searched(home, SETTINGS, COUNT)
    with Ledger.read(home / "tiny") as ledger, Retrainings.open(home / "tiny" / RETRAIN) as record:
        best = ledger.candidates([evaluation.number for evaluation in finalists(ledger, 2)])
        for job in wanted(SETTINGS, retrainer(SETTINGS, Home(home)), list(best.values())):
            one = Retraining(job.key, job.candidate.number, job.seed, {}, retrain(job.trainer, job.candidate))
            assert one.evaluation.ok, one.evaluation
            record.record(one)
    tracker(home).check()  # makes an empty store, which takes seconds
    return home


def shelved(shelf: Path) -> Callable[[Path, str, Home, Retrainings, Retraining], str]:
    """Returns what stands in for `registry.write`: the same files, but each champion's are written once only."""
    write = registry.write

    def taken(directory: Path, name: str, home: Home, record: Retrainings, one: Retraining) -> str:
        if not (words := shelf / f"{one.key}.txt").exists():
            words.write_text(write(shelf / one.key, name, home, record, one))
        shutil.copytree(shelf / one.key, directory)
        return words.read_text()

    return taken


def tracker(home: Path, uri: str | None = None) -> Tracker:
    return Tracker(Home(home), "tiny", uri, {})


def promoted(home: Path, record: Retrainings, place: int) -> Retraining:
    """Makes one of the two champion, as if it had been better."""
    one = list(record.recorded().values())[place]
    with Ledger.read(home / "tiny") as ledger:
        (standing,) = ranked([ledger.evaluations([one.number])[one.number]], [one])
        contender = Contender.of(standing, ledger.candidate(one.number).genome)
    decision = judged((contender,), None, 180, asdict(SETTINGS.space.budgets))
    record.choose(one.key)
    record.decide(one.key, "promoted", asdict(decision))
    return one


def tell(home: Path, record: Retrainings, uri: str | None = None) -> None:
    """Tells MLflow of the trainings and the champions."""
    sender = tracker(home, uri)
    sender.retrained(record)
    registry.register(sender, Home(home), record)


def held(home: Path, uri: str | None = None) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the versions in MLflow by their weights, and the aliases."""
    there = registry.found(tracker(home, uri))
    return {weights: str(one.version) for weights, one in there.versions.items()}, dict(there.aliases)
