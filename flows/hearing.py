"""Hearing: whether Prefect listens, and how a flow ends when it does not.

While a flow runs, Prefect's engine only queues events about it, so that a dead server holds nothing up. At its end the
engine asks the server to accept the final state, tries for minutes, and then raises: a search that went well would end
as a traceback. So a flow asks first whether anybody listens.
"""

import atexit
import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from flows import settings  # before prefect, which reads its settings when it is imported

# isort: split
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import SyncPrefectClient
from prefect.context import SyncClientContext
from prefect.events.worker import EventsWorker
from prefect.exceptions import Abort
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings

from flows.home import BadInput, line, redacted

assert settings.DEFAULTS
PATIENCE = 10.0  # seconds that somebody at a keyboard waits until Prefect answers
SECONDS_OF_A_QUESTION = 5.0  # a server that is busy writing down events is not dead
BOUND = dict[int, subprocess.Popen[bytes]]()  # by the process of a server, who waits to end it
Given = ParamSpec("Given")
Returned = TypeVar("Returned")
log = logging.getLogger("morphogen.prefect")


class Unheard(Abort):
    """A flow ended, and Prefect could not be told; an `Abort`, at which Prefect's engine leaves without asking it.

    If the flow raised, that is the cause of this exception.

    Attributes:
        result: what the flow returned; None if it raised.
    """

    def __init__(self, result: object = None) -> None:
        """Keeps the result."""
        super().__init__("the flow ended and Prefect could not be told")
        self.result = result


def heard(body: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """Returns the body of a flow, which now ends only where Prefect hears it; put this between it and `@flow`.

    What a worker runs waits for as long as Prefect is dead, since without it the worker could do nothing else; its
    locks are free by then. What was started by hand, and whatever fails or is stopped, waits for ten seconds.

    Raises:
        Unheard: the flow ended, and Prefect did not answer.
    """

    @wraps(body)
    def told(*given: Given.args, **named: Given.kwargs) -> Returned:
        with SyncClientContext.get_or_create() as context:
            address = str(context.client.api_url)
            bind()
            try:
                result = body(*given, **named)
            except BaseException as error:
                if not _answered(address, PATIENCE):
                    raise Unheard from error
                raise
            if not _answered(address, math.inf if "PREFECT__FLOW_RUN_ID" in os.environ else PATIENCE):
                raise Unheard(result)
            return result

    return told


def bind() -> None:
    """Lets a server that Prefect started for this process end with it, also if the process is killed.

    A shell waits for the end of a pipe that only this process holds open.
    """
    module: Any = sys.modules.get("prefect.server.api.server")  # a second to import, and there if it made a server
    for server in module.SubprocessASGIServer._instances.values() if module else ():  # Prefect tells it nowhere else
        if (process := server.server_process) and process.pid not in BOUND:
            told = ["sh", "-c", 'read -r _; kill "$0"', str(process.pid)]
            BOUND[process.pid] = watcher = subprocess.Popen(
                told, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
            )
            atexit.register(_release, watcher)  # runs before what Prefect has registered: it ends the server itself


def _release(watcher: subprocess.Popen[bytes]) -> None:
    with watcher:
        watcher.kill()


def check() -> None:
    """Asks the Prefect server that is configured whether it is there; without one, Prefect starts its own.

    Raises:
        BadInput: it does not answer.
    """
    address = get_current_settings().api.url
    if address and (reason := silence(address, PATIENCE)):
        raise BadInput(
            f"Prefect must answer at {redacted(address)}: {reason}; start it, or unset PREFECT_API_URL to do without"
        )


def show(page: str, key: str, title: str) -> None:
    """Gives Prefect a page of Markdown as an artifact; a dead server is a warning, since the record has it all.

    Args:
        page: the text.
        key: of the artifact; underscores become dashes.
        title: its first sentence.
    """

    def give(_: SyncPrefectClient) -> str:
        create_markdown_artifact(page, key.replace("_", "-"), title)
        return ""

    tell(give, f"given the page {key}")


def tell(say: Callable[[SyncPrefectClient], str], words: str) -> None:
    """Tells Prefect what is on record elsewhere; that it cannot be told is a warning.

    Args:
        say: tells it, and returns why that was not possible; empty if it was.
        words: what Prefect was not, if it fails.
    """
    try:
        with SyncClientContext.get_or_create() as context:
            reason = silence(str(context.client.api_url)) or say(context.client)
    except Exception as error:  # it died just now
        reason = line(error)
    if reason:
        log.warning("Prefect was not %s: %s", words, reason)


def silence(address: str, seconds: float = SECONDS_OF_A_QUESTION) -> str:
    """Returns in one line why Prefect's API does not answer within seconds; empty if it does."""
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
        asked = get_current_settings().api
        client = SyncPrefectClient(
            address,
            auth_string=asked.auth_string.get_secret_value() if asked.auth_string else None,
            api_key=asked.key.get_secret_value() if asked.key else None,
            httpx_settings={"timeout": seconds},
        )
        with client:
            error = client.api_healthcheck()
    return line(error) if error else ""


def leave(code: int, seconds: float = PATIENCE) -> None:
    """Ends the process at once if Prefect has not taken within seconds what this process had to tell; else returns.

    An ordinary exit would hang then: it tries each event for seven seconds, and on a frozen server for ever.
    """
    waited = EventsWorker.drain_all(timeout=seconds)
    if isinstance(waited, tuple) and waited[1]:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _answered(address: str, seconds: float) -> bool:
    """Waits until Prefect answers, at most so many seconds, and says whether it did."""
    deadline, told = time.monotonic() + seconds, False
    while reason := silence(address):
        if time.monotonic() >= deadline:
            return False
        if not told:
            waiting = f"for at most {seconds:.0f} s" if math.isfinite(seconds) else "until it does"
            log.warning("The flow has ended; Prefect does not answer, waiting %s: %s", waiting, reason)
            told = True
        time.sleep(1)
    return True
