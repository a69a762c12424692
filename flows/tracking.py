"""Tracking: MLflow as a view of the ledger, written by one thread; the only file that imports mlflow.

The ledger's outbox says what is still to be shown. A dead server therefore never stops a search, and whatever it
missed is sent when it is back, or by `morphogen sync`. Runs are looked up by tag before they are made, so that an
evaluation is shown once even if the sender died between making a run and noting it.
"""

from __future__ import annotations

import json
import logging
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from flows import report
from flows.home import BadInput, Home
from flows.settings import DEFAULTS
from search import Candidate, Evaluation, Ledger

LINKS = 8  # to members of the front; the UI folds a longer description under a gradient that swallows clicks
SECONDS_BETWEEN_DRAINS = 2.0
SECONDS_BETWEEN_PAGES = 20.0
SHARE_FOR_PAGES = 0.02  # of one core; a family of thousands takes seconds to draw
log = logging.getLogger("morphogen.tracking")
for chatter in ("mlflow.store.db.utils", "alembic"):
    logging.getLogger(chatter).setLevel(logging.WARNING)

# A shared view as the MLflow UI stores it, in a tag of the experiment: metric columns are off without one.
VIEW = "children"
COLUMNS = ("error", "parameters", "macs", "seconds", "lineage_examples")
VIEW_STATE = {
    "searchFilter": "tags.`morphogen.kind` = 'child'",
    "orderByKey": "metrics.`error`",
    "orderByAsc": True,
    "selectedColumns": [
        *(f"metrics.`{column}`" for column in COLUMNS),
        *(f"tags.`morphogen.{column}`" for column in ("parents", "edits", "status")),
    ],
}
assert DEFAULTS  # imported first, for its effect on MLflow's settings


class Tracker:
    """Sends one search's ledger to MLflow.

    Attributes:
        experiment: the id of the search's experiment.
        run: the id of the search run, under which the child runs are nested.
    """

    def __init__(self, home: Home, name: str, uri: str | None, facts: Mapping[str, Any]) -> None:
        """Connects, and finds or makes the experiment and the search run.

        Args:
            home: where the ledger is.
            name: of the search.
            uri: of the MLflow server or store; None for a local SQLite file.
            facts: parameters of the search run.

        Raises:
            BadInput: MLflow cannot be reached there.
        """
        self.directory = home.search(name)
        self.name, self.uri = name, uri
        try:
            self.client = MlflowClient(uri or home.tracking_uri)
            self.experiment = self._experiment(None if uri else home.artifacts.as_uri())
            self.run = self._search_run(facts)
            self._known = {run.data.tags["morphogen.number"]: run.info.run_id for run in self._children()}
        except (MlflowException, OSError, ValueError) as error:
            place = uri or home.tracking_uri
            reason = str(error).splitlines()[0][:200]
            raise BadInput(
                f"MLflow must be reachable at {report.redacted(place)}: {report.redacted(reason)}; start it, or "
                "leave `tracking` out of the configuration to write a local file"
            ) from None

    def drain(self) -> int:
        """Sends what the outbox holds and returns how much that was.

        Raises:
            MlflowException: the server refused, or did not answer; what was not sent stays in the outbox.
        """
        sent = 0
        with Ledger.read(self.directory) as ledger:
            while rows := ledger.unsent(50):
                candidates, evaluations = ledger.candidates(rows), ledger.evaluations(rows)
                for number in rows:
                    candidate = candidates[number]
                    run = self._child(candidate, evaluations[number], ledger.external_ids(candidate.parents))
                    ledger.mark_sent(number, run)
                    sent += 1
        return sent

    def publish(self, status: str | None = None) -> None:
        """Writes the search run's pictures and tables, and its final status if given.

        Raises:
            MlflowException: as `drain`.
        """
        with Ledger.read(self.directory) as ledger, tempfile.TemporaryDirectory() as scratch:
            facts = report.artifacts(ledger, self.name, Path(scratch))
            self.client.log_artifacts(self.run, scratch)
            now = int(time.time() * 1000)
            metrics = [Metric(key, value, now, int(facts["evaluations"])) for key, value in facts.items()]
            runs = ledger.external_ids([e.number for e in report.front(ledger)[-LINKS:]])
            links = ", ".join(self._link(number, run) for number, run in runs.items())
            tags = [RunTag("mlflow.note.content", f"Pareto front: {links}\n\nFamily tree: artifact `lineage.html`")]
            self.client.log_batch(self.run, metrics=metrics, tags=tags)
        if status:
            self.client.set_terminated(self.run, status)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Drains in a thread while the block runs; afterwards sends the rest and says how the block ended."""
        stop = threading.Event()
        thread = threading.Thread(target=self._work, args=(stop,), name="tracking", daemon=True)
        thread.start()
        status = "FAILED"
        try:
            yield
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            stop.set()
            thread.join()
            self.finish(status)

    def finish(self, status: str = "FINISHED") -> None:
        """Sends the rest, writes the last pages and sets the status; a dead server is a warning."""
        try:
            self.drain()
            self.publish(status)
        except (MlflowException, OSError) as error:
            log.warning("MLflow did not answer: %s", report.redacted(str(error).splitlines()[0]))

    def lag(self) -> int:
        """Returns how many evaluations are not shown yet."""
        with Ledger.read(self.directory) as ledger:
            return len(ledger.unsent(1_000_000))

    def _work(self, stop: threading.Event) -> None:
        page_due = 0.0
        while not stop.wait(SECONDS_BETWEEN_DRAINS):
            try:
                if self.drain() and time.monotonic() > page_due:
                    begun = time.monotonic()
                    self.publish()
                    took = time.monotonic() - begun
                    page_due = begun + max(SECONDS_BETWEEN_PAGES, took / SHARE_FOR_PAGES)
            except (MlflowException, OSError) as error:
                log.warning("MLflow did not answer, will try again: %s", report.redacted(str(error).splitlines()[0]))

    def _experiment(self, artifacts: str | None) -> str:
        if found := self.client.get_experiment_by_name(self.name):
            return str(found.experiment_id)
        view = {f"mlflow.sharedViewState.{VIEW}": json.dumps(VIEW_STATE)}
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return self.client.create_experiment(self.name, artifacts, {**kind, **view})

    def _search_run(self, facts: Mapping[str, Any]) -> str:
        found = self.client.search_runs([self.experiment], "tags.`morphogen.kind` = 'search'")
        if found:
            self.client.update_run(found[0].info.run_id, status="RUNNING")
            return str(found[0].info.run_id)
        tags = {"morphogen.kind": "search", "morphogen.search": self.name}
        run = self.client.create_run(self.experiment, tags=tags, run_name=f"search {self.name}").info.run_id
        self.client.log_batch(run, params=[Param(key, str(value)[:500]) for key, value in facts.items()])
        return str(run)

    def _children(self) -> Iterator[Run]:
        token = None
        while True:
            page = self.client.search_runs([self.experiment], "tags.`morphogen.kind` = 'child'", page_token=token)
            yield from page
            if not (token := page.token):
                return

    def _child(self, candidate: Candidate, evaluation: Evaluation, parents: Mapping[int, str]) -> str:
        if stale := self._known.pop(str(candidate.number), None):
            self.client.delete_run(stale)
        tags = {
            "mlflow.parentRunId": self.run,
            "mlflow.note.content": " · ".join(
                [report.edits(candidate), *(f"child of {self._link(n, r)}" for n, r in parents.items())]
            ),
            **report.tags(self.name, candidate, evaluation),
        }
        now = int(time.time() * 1000)
        begun = now - int(1000 * evaluation.cost.get("seconds", 0))
        run = self.client.create_run(
            self.experiment, begun, tags, f"{candidate.number} {report.edits(candidate)}"
        ).info.run_id
        points = [
            Metric(key, value, now, int(point["examples"]))
            for point in evaluation.curve
            for key, value in point.items()
            if key != "examples"
        ]
        totals = [Metric(key, value, now, 0) for key, value in {**evaluation.objectives, **evaluation.cost}.items()]
        self.client.log_batch(run, metrics=[*totals, *points])
        with tempfile.TemporaryDirectory() as scratch:
            for file, content in report.child_files(candidate, evaluation).items():
                (Path(scratch) / file).write_text(content)
            self.client.log_artifacts(run, scratch)
        self.client.set_terminated(run, "FINISHED" if evaluation.ok else "FAILED", now)
        return str(run)

    def _link(self, number: int, run: str) -> str:
        return f"[{number}](#/experiments/{self.experiment}/runs/{run}?workflowType=machine_learning)"

    def address(self) -> str:
        """Returns the deep link of the table of children, best first; for a file, under `mlflow ui`'s usual address."""
        server = self.uri if self.uri and self.uri.startswith("http") else "http://127.0.0.1:5000"
        return f"{server}/#/experiments/{self.experiment}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def shown(home: Home, name: str, uri: str | None) -> list[dict[str, Any]]:
    """Returns what MLflow holds of a search's children: number, status, objectives; to compare with the ledger."""
    client = MlflowClient(uri or home.tracking_uri)
    if (experiment := client.get_experiment_by_name(name)) is None:
        return []
    runs = client.search_runs([experiment.experiment_id], "tags.`morphogen.kind` = 'child'", max_results=50_000)
    return [
        {
            "number": int(run.data.tags["morphogen.number"]),
            "status": run.data.tags["morphogen.status"],
            "metrics": run.data.metrics,
            "parents": json.loads(run.data.tags["morphogen.parents"]),
        }
        for run in runs
    ]
