"""Crown: who is champion of a search, with the evidence and with how to use it; and how to take that back."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown
from rich.text import Text

from flows.assembly import RETRAIN
from flows.champions import champion, evidence, registry
from flows.home import BadInput, Home, line, redacted
from flows.tracking import Tracker
from search import Retrainings

PORT = 5001  # in the commands that are shown; 5000 is where MLflow's own page usually is


def shown(tracker: Tracker, home: Home, screen: Console) -> None:
    """Shows the champion with its evidence, who was before, what came of the last challenge, and how to serve it.

    Raises:
        BadInput: there is none yet.
    """
    with Retrainings.read(home.search(tracker.name) / RETRAIN) as record:
        places, trainings = record.holders(), record.recorded()
        if places.champion is None:
            raise BadInput(f"search {tracker.name} must have a champion to show: retrain its finalists first")
        mine, test = champion.stored(record, places.champion), record.test_errors()
        weights = trainings[places.champion].evaluation.weights or ""
        screen.print(Markdown(evidence.page(tracker.name, mine, test.get(weights))))
        if places.previous:
            before = trainings[places.previous]
            screen.print(f"Previous: child {before.number}, seed {before.seed}")
        if (last := champion.last(record)) and last.outcome == "refused":
            screen.print(Text(f"Last challenge: {last.words}"))
    for told in _use(tracker, home, weights):
        screen.print(Text(told), soft_wrap=True)


def restored(tracker: Tracker, home: Home) -> str:
    """Gives the place back to the champion before, tells MLflow, and returns what was done.

    Raises:
        BadInput: there was none before.
        SearchLocked: finalists are being trained.
    """
    with Retrainings.open(home.search(tracker.name) / RETRAIN) as record:
        withdrawn = record.holders().withdrawn
        champion.restore(record)
        places, trainings = record.holders(), record.recorded()
        known = tracker.tell_retrained(record) and registry.tell(tracker, home, record)
    now, then = (trainings[key] for key in (places.champion or "", places.previous or ""))
    again = "again, which had been withdrawn" if now.key in withdrawn else "again"
    later = "" if known else f"; MLflow has not heard of it: {home.command('sync', tracker.name)}"
    return (
        f"Child {now.number}, seed {now.seed}, is champion {again}; child {then.number}, seed {then.seed}, is "
        f"withdrawn, and not promoted by itself{later}"
    )


def _use(tracker: Tracker, home: Home, weights: str) -> Iterator[str]:
    """Yields what to do with the champion, as far as MLflow holds it."""
    try:
        there = registry.found(tracker)
    except Exception as error:  # MLflow's, SQLAlchemy's, a missing driver's
        yield f"MLflow:   cannot be asked at {redacted(tracker.place)}: {line(error)}"
        return
    version = there.versions.get(weights)
    if version is None or there.aliases.get(registry.CHAMPION) != str(version.version):
        yield f"MLflow:   does not hold this champion: {home.command('sync', tracker.name)}"
        return
    model, folder = f"models:/{there.model}@{registry.CHAMPION}", f"{there.model}-champion"
    programs = shlex.quote(str(Path(sys.argv[0]).parent.absolute()))  # on the path: a model's server starts uvicorn
    mlflow = f"PATH={programs}:$PATH MLFLOW_TRACKING_URI={shlex.quote(redacted(tracker.place))} mlflow"
    yield f"MLflow:   {model}, version {version.version}"
    yield f"Serve:    {mlflow} models serve -m {model} --env-manager local --port {PORT}"
    yield f"Files:    {mlflow} artifacts download -u {model} -d {folder}"
    yield (
        f"Ask:      curl http://127.0.0.1:{PORT}/invocations -H 'Content-Type: application/json' "
        f"-d @{folder}/serving_input_example.json"
    )
