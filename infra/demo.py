"""The demonstration: everything that Morphogen does on servers, for real, in a few minutes, without containers.

PostgreSQL, a Prefect server, an MLflow server with passwords and a worker are started; a search is deployed, run,
killed with its worker and gone on with; two short nights are run; finalists are trained and the best one becomes the
champion; and each step is checked against the ledger. With `--keep` the servers stay until Ctrl-C, to look around.

Usage: python infra/demo.py [--keep]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from services import BIN, POOL, Servers, Unavailable, killed, servers, worker

from search import Evaluation, Ledger

# prefect and mlflow are imported when the servers' addresses are in the environment, which they read at import.

ROOT = Path(__file__).resolve().parents[1]
NAME = "demo"
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
PATIENCE = 300.0  # seconds for a step on a busy machine
BEGUN = time.monotonic()


class Failed(AssertionError):
    """A step did not show what it should have."""


def say(words: str) -> None:
    """Prints a line with the seconds since the start."""
    print(f"[{time.monotonic() - BEGUN:4.0f} s] {words}", flush=True)


def check(truth: object, words: str) -> None:
    """Prints what is true.

    Raises:
        Failed: it is not.
    """
    if not truth:
        raise Failed(f"must be true, and is not: {words}")
    say(f"       ok: {words}")


def until(condition: Callable[[], bool], words: str) -> None:
    """Waits for a condition.

    Raises:
        Failed: it took too long.
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"waited {PATIENCE:.0f} s in vain for: {words}")
        time.sleep(0.5)


class Told(NamedTuple):
    """What a ledger tells: evaluations, the outcomes of each one's attempts, and the seconds that are spent."""

    evaluations: Mapping[int, Evaluation]
    attempts: Mapping[int, Sequence[str]]
    seconds: float


class Demo:
    """What is shown, on running servers, in a directory of its own."""

    def __init__(self, there: Servers, directory: Path) -> None:
        """Shows nothing yet."""
        self.there, self.directory = there, directory
        self.home = directory / "searches"

    def command(self, *words: str) -> str:
        """Returns what a command of the environment prints.

        Raises:
            Failed: it did not end well.
        """
        program = [str(BIN / words[0]), *words[1:]]
        done = subprocess.run(
            program, env=self.there.environment, cwd=self.directory, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Failed(f"`{' '.join(words)}` ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
        return done.stdout

    def run(self, deployment: str, **parameters: object) -> str:
        """Starts a deployment and returns the number of the flow run."""
        given = [word for key, value in parameters.items() for word in ("--param", f"{key}={value}")]
        return self.command("prefect", "deployment", "run", deployment, *given).split("UUID: ")[1].split()[0]

    def ended(self, run: str) -> str:
        """Waits for the end of a flow run and returns the name of its state."""
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            until(lambda: client.read_flow_run(UUID(run)).state_type in FINAL, f"the end of flow run {run}")
            return str(client.read_flow_run(UUID(run)).state_name)

    def ledger(self, name: str = NAME) -> Told:
        """Returns what a search's ledger tells."""
        if not (self.home / name / "ledger.sqlite").exists():
            return Told({}, {}, 0)
        with Ledger.read(self.home / name) as ledger:
            evaluations = ledger.evaluations()
            attempts = {number: ledger.attempts(number) for number in evaluations}
            return Told(evaluations, attempts, ledger.spent().elapsed_seconds)

    def shown(self, name: str = NAME) -> Counter[int]:
        """Returns how often MLflow shows each candidate of a search."""
        from mlflow import MlflowClient

        client = MlflowClient()
        experiment = client.get_experiment_by_name(name)
        runs = client.search_runs([experiment.experiment_id], "tags.`morphogen.kind` = 'child'", max_results=5000)
        return Counter(int(run.data.tags["morphogen.number"]) for run in runs)

    def artifacts(self, name: str, folder: str) -> list[str]:
        """Returns the artifacts in a folder of a search's run."""
        from mlflow import MlflowClient

        client = MlflowClient()
        experiment = client.get_experiment_by_name(name)
        runs = client.search_runs([experiment.experiment_id], "tags.`morphogen.kind` = 'search'")
        return [file.path for file in client.list_artifacts(runs[0].info.run_id, folder)]


def deployed(demo: Demo) -> None:
    """Deploys, and has the schema refuse what cannot be meant."""
    demo.command("prefect", "work-pool", "create", POOL, "--type", "process")
    demo.command("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(ROOT / "infra" / "prefect.yaml"))
    demo.command("morphogen", "setup-automations")
    names = [line for line in demo.command("prefect", "deployment", "ls").splitlines() if "/" in line]
    say(f"{len(names)} deployments, on work pool {POOL}")
    try:
        demo.run("search/digits", seconds=-1)
    except Failed as refused:
        check("minimum" in str(refused), "a budget below zero is refused before a run is made")
    else:
        raise Failed("a budget below zero was taken")


def survived(demo: Demo, work: subprocess.Popen[bytes]) -> str:
    """Runs a search, kills it with its worker, and returns the number of the flow run that nobody ended."""
    say(f"prefect deployment run search/digits --param name={NAME} --param seconds=30")
    run = demo.run("search/digits", name=NAME, seconds=30)
    until(lambda: len(demo.ledger().evaluations) >= 4, "four children")
    killed(work)
    say(f"kill -9 of the worker and of all its processes, after {len(demo.ledger().evaluations)} children")
    return run


def gone_on(demo: Demo) -> None:
    """Goes on with the search, and checks that nothing is lost and nothing twice."""
    before = demo.ledger().evaluations
    say("the same command again, with another worker")
    check(demo.ended(demo.run("search/digits", name=NAME, seconds=30)) == "Completed", "the flow run is completed")
    after = demo.ledger()
    check(
        len(after.evaluations) > len(before),
        f"the search went on: {len(before)} children, now {len(after.evaluations)}",
    )
    check(all(after.evaluations[n] == e for n, e in before.items()), "what was finished before is as it was")
    again = [n for n in before if len(after.attempts[n]) > 1]
    check(not again, "no finished child was trained again")
    check(demo.shown() == Counter(after.evaluations.keys()), "MLflow shows each child once")


def nights(demo: Demo) -> None:
    """Runs two short nights; the second one goes on where the first one stopped, and its report says what changed."""
    say("two nights of half a minute: prefect deployment run nightly/digits --param seconds=30")
    check(demo.ended(demo.run("nightly/digits", seconds=30)) == "Completed", "the first night is over")
    first = demo.ledger("digits")
    check(demo.ended(demo.run("nightly/digits", seconds=30)) == "Completed", "the second night is over")
    second = demo.ledger("digits")
    kept = all(second.evaluations[n] == e for n, e in first.evaluations.items())
    told = [f"{len(night.evaluations)} children in {night.seconds:.0f} s" for night in (first, second)]
    check(kept and len(second.evaluations) > len(first.evaluations), f"the same search: {', then '.join(told)}")
    report = demo.command("morphogen", "report", "digits", "--home", str(demo.home))
    say("the morning report: " + next(line.strip() for line in report.splitlines() if line.strip()))
    check(
        f"{len(second.evaluations) - len(first.evaluations)}" in report, "it says how many children the night brought"
    )
    check(
        "reports/night-002.md" in demo.artifacts("digits", "reports"), "MLflow has it among the artifacts of the search"
    )


def champion(demo: Demo) -> None:
    """Trains finalists in full, and asks the champion that comes of it."""
    import numpy as np
    import onnxruntime
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts
    from sklearn.datasets import load_digits

    say("prefect deployment run retrain/finalists --param name=digits --param top=2 --param seeds=2")
    run = demo.run("retrain/finalists", name="digits", top=2, seeds=2, examples=12_000)
    check(demo.ended(run) == "Completed", "finalists are trained in full")
    version = MlflowClient().get_model_version_by_alias("digits", "champion")
    said = demo.command("morphogen", "champion", "digits", "--home", str(demo.home))
    say("morphogen champion digits: " + next(line.strip() for line in said.splitlines() if line.strip()))
    files = Path(download_artifacts("models:/digits@champion", dst_path=str(demo.directory / "champion")))
    check(not list(files.rglob("*.pkl")), f"version {version.version} of the registered model holds no pickle")
    network = onnxruntime.InferenceSession(str(next(files.rglob("model.onnx"))))
    digits = load_digits()
    images = np.round(digits.images[:, None] * (255 / 16)).astype(np.uint8)
    found = network.run(None, {"images": images})[0].argmax(1)
    right = float((found == digits.target).mean())
    check(right > 0.9, f"onnxruntime alone answers with it: {right:.1%} of all digits, most of which it was trained on")


def main() -> None:
    """Shows everything; the last line says whether all of it was so."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", action="store_true", help="leave the servers running until Ctrl-C")
    keep = parser.parse_args().keep
    with tempfile.TemporaryDirectory(prefix="morphogen-demo-") as place:
        directory = Path(place)
        say("starting PostgreSQL, a Prefect server and an MLflow server with passwords")
        with servers(directory) as there:
            os.environ.update(there.environment)
            shown(Demo(there, directory), keep)


def shown(demo: Demo, keep: bool) -> None:
    """Shows everything on running servers."""
    say(f"Prefect: {demo.there.prefect}   MLflow: {demo.there.mlflow}")
    deployed(demo)
    with worker(demo.there, demo.directory) as first:
        survived(demo, first)
    with worker(demo.there, demo.directory):
        gone_on(demo)
        nights(demo)
        champion(demo)
        say("All of it was shown, and was so.")
        if keep:
            say(
                f"User admin, password of MLflow {demo.there.environment['MLFLOW_TRACKING_PASSWORD']}, of Prefect "
                f"{demo.there.environment['PREFECT_API_AUTH_STRING'].partition(':')[2]}; Ctrl-C ends it"
            )
            with suppress(KeyboardInterrupt):
                time.sleep(86_400)


if __name__ == "__main__":
    try:
        main()
    except (Failed, Unavailable) as error:
        raise SystemExit(f"demo: {error}") from None
