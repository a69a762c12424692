"""How long MLflow's pages of a large search take to open, in a browser.

A family of 2,000 candidates, recorded as a search leaves it, is sent by the tracker to an MLflow server on SQLite. Then
headless Chromium, with an empty cache each time, opens what the command line prints and what is a click away:

    table    the children, best first, with their metrics
    search   the page of the search run, with the links to the front and the list of its children

A page counts as open when the words that only its content has can be read. A full run writes docs/browsing.md.

Usage: python benchmarks/browsing.py [--quick] [--pictures DIRECTORY]
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the servers of the tests

from flows import settings

# isort: split
from mlflow import MlflowClient
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from flows import report
from flows.home import Home
from flows.tracking import Tracker
from search import Ledger
from tests.flows.families import kin, recorded
from tests.servers import mlflow_server

PAGE = Path(__file__).resolve().parents[1] / "docs" / "browsing.md"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
SECONDS_TO_OPEN = 120.0
LARGEST = 5_000_000  # bytes of the lineage page
NAME = "family"


@dataclass(frozen=True)
class Shown:
    """A search that MLflow holds.

    Attributes:
        seconds: that sending it took.
        lineage: bytes of its lineage page.
        pages: by name, the address and the words that are there once it is open.
    """

    seconds: float
    lineage: int
    pages: dict[str, tuple[str, str]]


class Browser:
    """A page of a browser that is told what to do over its debugging socket."""

    def __init__(self, socket: Connection) -> None:
        """Takes over a socket."""
        self.socket, self.count = socket, 0

    def ask(self, method: str, **given: Any) -> Any:
        """Returns the answer to a command of the DevTools protocol."""
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": given}))
        while True:
            said = json.loads(self.socket.recv(timeout=SECONDS_TO_OPEN))
            if said.get("id") == self.count:
                return said["result"]

    def opened(self, address: str, words: str) -> float:
        """Opens a page and returns after how many seconds these words can be read on it."""
        begun = time.monotonic()
        self.ask("Page.navigate", url=address)
        while words not in self.text():
            if time.monotonic() - begun > SECONDS_TO_OPEN:
                raise TimeoutError(f"{words!r} must be on {address}; there is: {self.text()[:2000]}")
            time.sleep(0.05)
        return time.monotonic() - begun

    def text(self) -> str:
        """Returns what can be read."""
        found = self.ask("Runtime.evaluate", expression="document.body ? document.body.innerText : ''")
        return str(found["result"].get("value", ""))

    def picture(self, file: Path) -> None:
        """Writes what can be seen."""
        time.sleep(1)  # for what fades in
        file.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Starts a browser that has never been used.

    Raises:
        SystemExit: there is none on this machine.
    """
    if CHROMIUM is None:
        sys.exit("browsing.py needs Chromium on the PATH (Debian: apt-get install chromium)")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}", "--remote-debugging-port=0", "--window-size=1600,1000"]
    process = subprocess.Popen([*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with connect(_socket(folder), max_size=None) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        process.wait()


def _socket(folder: Path) -> str:
    """Returns the address of the first page's socket, once the browser has written down its port."""
    deadline = time.monotonic() + SECONDS_TO_OPEN
    while time.monotonic() < deadline:
        try:
            port = (folder / "DevToolsActivePort").read_text().splitlines()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=5) as answer:
                return next(str(one["webSocketDebuggerUrl"]) for one in json.load(answer) if one["type"] == "page")
        except (OSError, IndexError, StopIteration):
            time.sleep(0.1)
    raise TimeoutError("Chromium must open its debugging port")


def filled(home: Home, server: str, count: int) -> Shown:
    """Returns what MLflow shows of a family that was sent to it."""
    recorded(home.search(NAME), *kin(count))
    tracker = Tracker(home, NAME, server, {"candidates": count})
    print(f"sending {count} candidates to {server} …", flush=True)
    begun = time.monotonic()
    tracker.drain()
    tracker.publish("FINISHED")
    seconds = time.monotonic() - begun
    files = {file.path: int(file.file_size or 0) for file in MlflowClient(server).list_artifacts(tracker.run)}
    with Ledger.read(home.search(NAME)) as ledger:
        good = [evaluation for evaluation in ledger.evaluations().values() if evaluation.ok]
        best = min(good, key=lambda evaluation: (evaluation.objectives["error"], evaluation.number)).number
        title = f"{best} {report.edits(ledger.candidate(best))}"
    run = f"{server}/#/experiments/{tracker.experiment}/runs/{tracker.run}"
    return Shown(
        seconds,
        files["lineage.html"],
        {"table": (tracker.address(), title), "search": (run, "Family tree: artifact")},
    )


def timed(shown: Shown, times: int, pictures: Path | None) -> dict[str, list[float]]:
    """Returns by page how many seconds it took to open, each time in a new browser."""
    taken: dict[str, list[float]] = {name: [] for name in shown.pages}
    for turn in range(times):
        for name, (address, words) in shown.pages.items():
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, browser(Path(folder)) as page:
                taken[name].append(page.opened(address, words))
                print(f"{name:7} {taken[name][-1]:5.1f} s", flush=True)
                if pictures and turn == 0:
                    page.picture(pictures / f"{name}.png")
    return taken


TEMPLATE = """# Browsing, measured

Written by `benchmarks/browsing.py` on {cores} cores, load average {load:.1f}, MLflow {mlflow} on SQLite with one
worker. A search of {count} candidates was sent in {seconds:.0f} s, {each:.0f} ms each. Its lineage page has
{lineage:.2f} MB (at most {largest:.0f}). Each page was opened {times} times by headless Chromium with an empty cache.

| page | seconds until its content can be read: median | least | most |
|---|--:|--:|--:|
{lines}

The table is what the command line prints as the last address; the search page is the run above its children.
"""


def page(shown: Shown, taken: dict[str, list[float]], count: int, facts: dict[str, Any]) -> str:
    """Returns the page of a full run."""
    words = {"table": "table of the children, best first", "search": "page of the search run"}
    lines = "\n".join(
        f"| {words[name]} | {statistics.median(values):.1f} | {min(values):.1f} | {max(values):.1f} |"
        for name, values in taken.items()
    )
    return TEMPLATE.format(
        lines=lines,
        count=count,
        seconds=shown.seconds,
        each=1000 * shown.seconds / count,
        lineage=shown.lineage / 1e6,
        largest=LARGEST / 1e6,
        times=len(taken["table"]),
        **facts,
    )


def main() -> None:
    """Measures and prints each opening, and the result as JSON in the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="100 candidates, each page twice")
    parser.add_argument("--pictures", type=Path, help="directory for a picture of each page")
    given = parser.parse_args()
    assert settings.DEFAULTS
    count, times = (100, 2) if given.quick else (2000, 5)
    if given.pictures:
        given.pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, mlflow_server(Path(scratch) / "mlflow") as server:
        home = Home(Path(scratch) / "searches")
        home.make()
        shown = filled(home, server.root, count)
        taken = timed(shown, times, given.pictures)
    assert shown.lineage < LARGEST, f"the lineage page must be smaller than {LARGEST} bytes, it has {shown.lineage}"
    facts = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "mlflow": version("mlflow")}
    if not given.quick:
        PAGE.write_text(page(shown, taken, count, facts))
    result = {"seconds": taken, "lineage_bytes": shown.lineage, "sending": shown.seconds, "candidates": count}
    print("RESULT", json.dumps({**result, **facts}))


if __name__ == "__main__":
    main()
