"""A headless Chromium driven over its debugging pipe: real clicks, real clocks, frames and themes."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
PATIENCE = 120.0  # seconds, since machines that test are loaded
KEYS = {"Escape": 27, "Enter": 13, "Tab": 9, "ArrowLeft": 37, "ArrowRight": 39}


def chromium() -> str:
    """Returns the program's path; where there is none, the test is skipped, or fails if it must not be."""
    if CHROMIUM is None:
        message = "Chromium is not installed (Debian: apt-get install chromium)"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return CHROMIUM


class Browser:
    """One tab, or a frame of it; what it is asked to do is done when the call returns."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write, self._rest, self._number = read, write, b"", 0
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", {"url": "about:blank"}, None)["targetId"]
        self.session: str | None = self._attached(target)
        self.send("Page.enable")
        self.send("Network.enable")
        self.send("Runtime.enable")
        self.send("Target.setAutoAttach", {"autoAttach": True, "waitForDebuggerOnStart": False, "flatten": True})

    def _attached(self, target: str) -> str:
        return str(self.send("Target.attachToTarget", {"targetId": target, "flatten": True}, None)["sessionId"])

    def send(self, method: str, params: Mapping[str, Any] | None = None, session: str | None = "own") -> dict[str, Any]:
        """Sends one command of the DevTools protocol and returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params or {}}
        session = self.session if session == "own" else session
        message |= {"sessionId": session} if session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return dict(answer["result"])

    def _receive(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(until - time.monotonic(), 0))
            part = os.read(self._read, 1 << 20) if ready else b""
            assert part, "Chromium did not answer"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(line))

    def look(self, width: int = 1400, height: int = 900, dark: bool = False) -> None:
        """Sets the size of the window in pixels, and the theme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", size)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", {"features": [theme]})

    def open(self, where: Path | str, fragment: str = "") -> None:
        """Opens a file or an address, anew if it is open already."""
        address = where.as_uri() if isinstance(where, Path) else where
        self.send("Page.navigate", {"url": "about:blank"})
        self.send("Page.navigate", {"url": address + fragment})

    def value(self, code: str, gesture: bool = False) -> Any:
        """Returns what an expression of JavaScript, or the promise that it is, comes to; `gesture`: as if clicked."""
        asked = {"expression": code, "returnByValue": True, "awaitPromise": True, "userGesture": gesture}
        told = self.send("Runtime.evaluate", asked)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def wait(self, code: str) -> Any:
        """Waits until an expression is true, and returns its value."""
        until = time.monotonic() + PATIENCE
        while not (found := self.value(code)):
            assert time.monotonic() < until, f"this did not come true: {code}"
            time.sleep(0.02)
        return found

    def click(self, x: float, y: float, shift: bool = False) -> None:
        """Clicks at a place in the window."""
        where = {"x": x, "y": y, "button": "left", "clickCount": 1, "modifiers": 8 * shift}
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", {"type": kind, **where})

    def press(self, key: str, shift: bool = False) -> None:
        """Presses a key."""
        told = {"key": key, "windowsVirtualKeyCode": KEYS.get(key, ord(key[0])), "modifiers": 8 * shift}
        if len(key) == 1:
            told["text"] = key
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", {"type": kind, **told})

    def picture(self) -> bytes:
        """Returns what is seen, as PNG in base64."""
        return str(self.send("Page.captureScreenshot")["data"]).encode()

    @contextmanager
    def frame(self) -> Iterator[None]:
        """Speaks with the frame in the page, which has a process of its own, while the block runs."""
        outer, until = self.session, time.monotonic() + PATIENCE
        while not (inner := [e for e in self._told("Target.attachedToTarget") if e["targetInfo"]["type"] == "iframe"]):
            assert time.monotonic() < until, "no frame was opened"
            self.value("0")
            time.sleep(0.02)
        self.session = inner[-1]["sessionId"]
        try:
            yield
        finally:
            self.session = outer

    def requests(self) -> list[str]:
        """Returns the addresses of all that was asked for so far."""
        return [event["request"]["url"] for event in self._told("Network.requestWillBeSent")]

    def _told(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event.get("method") == method]


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Yields a new browser that keeps what it must keep in a folder."""
    command = [chromium(), *FLAGS, f"--user-data-dir={folder / 'profile'}", "--remote-debugging-pipe"]
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'  # where Chromium expects them
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            ["/bin/bash", "-c", shell, "bash", *command], pass_fds=(theirs_in, theirs_out), stdout=log, stderr=log
        )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Browser(ours_in, ours_out)
    finally:
        os.close(ours_out)  # Chromium ends with its pipe
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()
            os.close(ours_in)


def texts(tab: Browser, selector: str) -> list[str]:
    return list(tab.value(f"[...document.querySelectorAll({json.dumps(selector)})].map((node) => node.textContent)"))


def cells(tab: Browser, selector: str) -> list[list[str]]:
    """Returns the words in each cell of the rows of a selector."""
    rows = f"[...document.querySelectorAll({json.dumps(selector)})]"
    return list(tab.value(f"{rows}.map((row) => [...row.cells].map((cell) => cell.textContent))"))


def centre(tab: Browser, selector: str, words: str = "") -> tuple[float, float]:
    """Returns where the first element of a selector that holds these words is in its window, scrolled into sight."""
    found = f"[...document.querySelectorAll({json.dumps(selector)})].find((e) => e.textContent.includes('{words}'))"
    tab.value(f"{found}.scrollIntoView({{ block: 'center' }})")
    box = f"{found}.getBoundingClientRect()"
    x, y = tab.value(f"((box) => [box.x + box.width / 2, box.y + box.height / 2])({box})")
    return x, y


def pressed(tab: Browser, selector: str, words: str = "", shift: bool = False) -> None:
    """Clicks with the mouse on the first element of a selector that holds these words."""
    tab.click(*centre(tab, selector, words), shift)
