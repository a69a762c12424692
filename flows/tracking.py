"""Tracking: MLflow as a view of the ledger, written by one thread.

The ledger's outbox says what is still to be shown. A dead server therefore never stops a search, and whatever it
missed is sent when it is back, or by `morphogen sync`. Runs that the outbox does not name are removed whenever the
sender begins anew, so that an evaluation is shown once even if it died between making a run and noting it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from flows import report
from flows.home import BadInput, Home, line, redacted
from flows.settings import DEFAULTS
from search import Candidate, Evaluation, Ledger, Retraining, Retrainings

LOCAL = "http://127.0.0.1:5000"  # the usual address of `mlflow ui`
LINKS = 8  # to members of the front; the UI folds a longer description under a gradient that swallows clicks
SECONDS_BETWEEN_DRAINS = 2.0
SECONDS_BETWEEN_TRIES = 60.0  # at most, while the server is dead
SECONDS_BETWEEN_PAGES = 20.0
SHARE_FOR_PAGES = 0.02  # of one core; a family of thousands takes seconds to draw
log = logging.getLogger("morphogen.tracking")
for chatter in ("mlflow.store.db.utils", "alembic"):
    logging.getLogger(chatter).setLevel(logging.CRITICAL)  # what they know of a failure is in the exception too

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
    """Sends one search's ledger to MLflow; one at a time, which the ledger's lock is to ensure.

    Attributes:
        experiment: the id of the search's experiment; empty before the first drain.
        run: the id of the search run, under which the child runs are nested; empty before the first drain.
    """

    def __init__(self, home: Home, name: str, uri: str | None, facts: Mapping[str, Any]) -> None:
        """Prepares to send; nothing is asked of MLflow yet.

        Args:
            home: where the ledger is.
            name: of the search.
            uri: of the MLflow server or store; None for that of `MLFLOW_TRACKING_URI`, or else a local SQLite file.
            facts: parameters of the search run.
        """
        self.directory = home.search(name)
        self.name, self.facts = name, facts
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
        self.place = self.uri or home.tracking_uri
        self.file = None if self.uri else home.tracking_file
        self.artifacts = None if self.uri else home.artifacts.as_uri()
        self.experiment = self.run = ""
        self._begun, self._begins = False, 0

    def check(self) -> None:
        """Asks MLflow one question, which changes nothing.

        Raises:
            BadInput: it cannot be reached.
        """
        try:
            self._connected().get_experiment_by_name(self.name)
        except Exception as error:  # MLflow's, SQLAlchemy's, a missing driver's
            raise BadInput(
                f"MLflow must be reachable at {redacted(self.place)}: {line(error)}; start it, or "
                "leave `tracking` out of the configuration to write a local file"
            ) from None

    def drain(self) -> int:
        """Sends what the outbox holds and returns how much that was.

        Raises:
            Exception: the server refused, or did not answer; what was not sent stays in the outbox.
        """
        sent = 0
        with Ledger.read(self.directory) as ledger:
            if not self._begun:
                self._begin(ledger)
            self._begun = False  # until all went well: a run may be made and not noted
            while rows := ledger.unsent(50):
                candidates, evaluations = ledger.candidates(rows), ledger.evaluations(rows)
                for number in rows:
                    candidate = candidates[number]
                    run = self._child(candidate, evaluations[number], ledger.external_ids(candidate.parents))
                    ledger.mark_sent(number, run)
                    sent += 1
        self._begun = True
        return sent

    def publish(self, status: str | None = None) -> None:
        """Writes the search run's pictures and tables, and its final status if given.

        Raises:
            Exception: as `drain`.
        """
        with Ledger.read(self.directory) as ledger, tempfile.TemporaryDirectory() as scratch:
            facts = report.artifacts(ledger, self.name, Path(scratch), self._place_of_runs())
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
        except BaseException as error:
            if not isinstance(error, Exception):  # Ctrl-C, or Prefect cancels the flow
                status = "KILLED"
            raise
        finally:
            stop.set()
            thread.join()
            self.finish(status)

    def finish(self, status: str = "FINISHED") -> None:
        """Sends the rest, writes the last pages and sets the status; a dead server is a warning.

        If a drain failed before, what is shown is compared with the outbox once more: a slow server may have made a run
        that nobody waited for any more.
        """
        self._begun = self._begun and self._begins == 1
        try:
            self.drain()
            self.publish(status)
        except Exception as error:  # nothing that goes wrong here may harm the search
            log.warning("MLflow was not told everything: %s", line(error))

    def retrained(self, record: Retrainings) -> None:
        """Brings the runs of the finalists' trainings, nested in the search run, into line with their record.

        A run that was begun and not ended is made anew. Only the network that was chosen has a test error.

        Raises:
            Exception: as `drain`.
        """
        self._reach()
        wanted, chosen, tests = record.recorded(), record.chosen(), record.test_errors()
        shown = {}
        for run in [*self._children("retraining")]:  # what is deleted would shift the next page
            key = run.data.tags["morphogen.retraining"]
            if key in wanted and key not in shown and _whole(run, wanted[key].evaluation):
                shown[key] = run
            else:
                self.client.delete_run(run.info.run_id)
        for key in wanted.keys() - shown.keys():
            self._finalist(wanted[key])
        for run in self._children("retraining"):
            weights = wanted[run.data.tags["morphogen.retraining"]].evaluation.weights
            if chosen and weights == chosen.evaluation.weights in tests and "test_error" not in run.data.metrics:
                metric = Metric("test_error", tests[chosen.evaluation.weights], run.info.end_time, 0)
                self.client.log_batch(run.info.run_id, metrics=[metric])

    def tell_retrained(self, record: Retrainings) -> bool:
        """Shows the finalists' trainings and returns whether that went well; a dead server is a warning."""
        try:
            self.retrained(record)
        except Exception as error:  # nothing that goes wrong here may harm the trainings
            log.warning("MLflow was not told of all trainings: %s", line(error))
            return False
        return True

    def attach(self, files: Iterable[Path], folder: str) -> bool:
        """Adds files to a folder of the search run and returns whether that went well; a dead server is a warning."""
        try:
            self._reach()
            for file in files:
                self.client.log_artifact(self.run, str(file), folder)
        except Exception as error:  # the files are there, and can be sent again
            log.warning("MLflow was not given the %s: %s", folder, line(error))
            return False
        return True

    def finalists(self) -> dict[str, Run]:
        """Returns the runs of the finalists' trainings by the keys of their record.

        Raises:
            Exception: as `drain`.
        """
        self._reach()
        return {run.data.tags["morphogen.retraining"]: run for run in self._children("retraining")}

    def lag(self) -> int:
        """Returns how many evaluations are not shown yet."""
        with Ledger.read(self.directory) as ledger:
            return len(ledger.unsent(1_000_000))

    def _work(self, stop: threading.Event) -> None:
        page_due, pause = 0.0, SECONDS_BETWEEN_DRAINS
        while not stop.wait(pause):
            try:
                if self.drain() and time.monotonic() > page_due:
                    begun = time.monotonic()
                    self.publish()
                    took = time.monotonic() - begun
                    page_due = begun + max(SECONDS_BETWEEN_PAGES, took / SHARE_FOR_PAGES)
                pause = SECONDS_BETWEEN_DRAINS
            except Exception as error:  # nothing that goes wrong here may harm the search
                pause = min(2 * pause, SECONDS_BETWEEN_TRIES)
                log.warning("MLflow was not told everything, next try in %.0f s: %s", pause, line(error))

    def _begin(self, ledger: Ledger) -> None:
        """Finds or makes the experiment and the search run, and brings the outbox and what is shown into line."""
        self._begins += 1
        self._reach()
        self.client.update_run(self.run, status="RUNNING")
        noted = ledger.external_ids(ledger.evaluations())
        there = {run.info.run_id for run in self._children("child")}
        for run in there - set(noted.values()):
            self.client.delete_run(run)
        for number, run in noted.items():
            if run not in there:  # deleted there, or this is another server than before
                ledger.mark_sent(number, None)

    def _reach(self) -> None:
        """Finds or makes the experiment and the search run."""
        self.client = self._connected()
        self.experiment = self._experiment()
        self.run = self._search_run()

    def _connected(self) -> MlflowClient:
        if self.file:  # so that the pages that are looked at do not hold up the sender, nor the sender them
            with closing(sqlite3.connect(self.file)) as store:
                store.execute("PRAGMA journal_mode = WAL")
        return MlflowClient(self.place)

    def identity(self) -> str:
        """Returns the word by which MLflow knows this search, also among others of its name on a shared server."""
        file = self.directory / "tracking-id"
        if not file.exists():
            partial = file.with_suffix(".partial")
            partial.write_text(uuid.uuid4().hex)
            partial.rename(file)
        return file.read_text()

    def _experiment(self) -> str:
        if found := self.client.get_experiment_by_name(self.name):
            if found.lifecycle_stage == "deleted":
                self.client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        view = {f"mlflow.sharedViewState.{VIEW}": json.dumps(VIEW_STATE)}
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return self.client.create_experiment(self.name, self.artifacts, {**kind, **view})

    def _search_run(self) -> str:
        tags = {"morphogen.kind": "search", "morphogen.search": self.name, "morphogen.id": self.identity()}
        found = self.client.search_runs([self.experiment], f"tags.`morphogen.id` = '{tags['morphogen.id']}'")
        run = found[0] if found else self.client.create_run(self.experiment, None, tags, f"search {self.name}")
        params = [Param(key, str(value)[:500]) for key, value in self.facts.items() if key not in run.data.params]
        self.client.log_batch(run.info.run_id, params=params)
        return str(run.info.run_id)

    def _children(self, kind: str) -> Iterator[Run]:
        token = None
        while True:
            mine = f"tags.`mlflow.parentRunId` = '{self.run}' and tags.`morphogen.kind` = '{kind}'"
            page = self.client.search_runs([self.experiment], mine, page_token=token)
            yield from page
            if not (token := page.token):
                return

    def _child(self, candidate: Candidate, evaluation: Evaluation, parents: Mapping[int, str]) -> str:
        tags = {
            "mlflow.parentRunId": self.run,
            "mlflow.note.content": " · ".join(
                [report.edits(candidate), *(f"child of {self._link(n, r)}" for n, r in parents.items())]
            ),
            **report.tags(self.name, candidate, evaluation),
        }
        files = report.child_files(candidate, evaluation)
        return self._logged(f"{candidate.number} {report.edits(candidate)}", tags, evaluation, files)

    def _logged(self, title: str, tags: dict[str, str], evaluation: Evaluation, files: Mapping[str, str]) -> str:
        """Makes a run of an evaluation, whole, and returns its id."""
        now = int(time.time() * 1000)
        begun = now - int(1000 * evaluation.cost.get("seconds", 0))
        made = self.client.create_run(self.experiment, begun, tags, title).info
        run = str(made.run_id)
        points = [
            Metric(f"curve/{key}", value, now, int(point["examples"]))  # a section of its own in the UI
            for point in evaluation.curve
            for key, value in point.items()
            if key != "examples"
        ]
        numbers = {**evaluation.objectives, **evaluation.cost, **report.proofs(evaluation.certificates)}
        totals = [Metric(key, value, now, 0) for key, value in numbers.items()]
        self.client.log_batch(run, metrics=[*totals, *points])
        with tempfile.TemporaryDirectory() as scratch:
            for file, content in files.items():
                (Path(scratch) / file).write_text(content)
            # as the client's `log_artifacts` does, which would first ask for the whole run
            get_artifact_repository(made.artifact_uri, self.place).log_artifacts(scratch)  # type: ignore[no-untyped-call]
        self.client.set_terminated(run, "FINISHED" if evaluation.ok else "FAILED", now)
        return run

    def _finalist(self, one: Retraining) -> None:
        tags = {
            "mlflow.parentRunId": self.run,
            "mlflow.note.content": f"child {one.number}, {one.manner} with seed {one.seed}",
            "morphogen.kind": "retraining",
            "morphogen.retraining": one.key,
            "morphogen.search": self.name,
            "morphogen.number": str(one.number),
            "morphogen.seed": str(one.seed),
            "morphogen.status": one.evaluation.status,
            "morphogen.setting": json.dumps(one.setting),
        }
        self._logged(f"{one.number} {one.manner}, seed {one.seed}", tags, one.evaluation, {})

    def _link(self, number: int, run: str) -> str:
        return f"[{number}](#/experiments/{self.experiment}/runs/{run}?workflowType=machine_learning)"

    def address(self) -> str:
        """Returns the deep link of the table of children, best first; for a file, under `mlflow ui`'s usual address."""
        server = self._server()
        if not self.experiment:
            return server  # it was never reached
        return f"{server}/#/experiments/{self.experiment}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"

    def _place_of_runs(self) -> str:
        """Returns the address to which a run's id is added to look at it."""
        return f"{self._server()}/#/experiments/{self.experiment}/runs/"

    def _server(self) -> str:
        """Returns the address of the server without a password, since many will read it."""
        return re.sub("//[^/]*@", "//", self.uri) if self.uri and self.uri.startswith("http") else LOCAL


def _whole(run: Run, evaluation: Evaluation) -> bool:
    """Says whether a run was ended, and shows this very outcome and not that of an earlier attempt."""
    ended = "FINISHED" if evaluation.ok else "FAILED"
    return bool(run.info.status == ended and run.data.tags.get("morphogen.status") == evaluation.status)
