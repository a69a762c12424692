"""Foreground: a flow that somebody at a keyboard runs, what they see of Prefect, and how it ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any, NoReturn, cast

import typer


def quiet() -> None:
    """Keeps the progress display free of Prefect's log; whoever sets these variables has it.

    To be called before Prefect is imported, which reads them then.
    """
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")  # while it is dead, 2 KB for each event
    os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")


def ran(flow: Callable[[], dict[str, Any]], again: str) -> dict[str, Any]:
    """Runs a flow and returns its result, also if Prefect died meanwhile; `again` is the command that goes on with it.

    Raises:
        BadInput: Prefect is dead before it begins.
        typer.Exit: it was stopped.
    """
    from flows import hearing

    hearing.check()
    before = signal.signal(signal.SIGTERM, _terminated)  # Prefect sends it on when the flow has ended
    try:
        return flow()
    except hearing.Unheard as ended:
        typer.echo("Prefect does not answer and does not know that this has ended: its UI shows it as running")
        if ended.__cause__:
            return _stopped(ended.__cause__, again)
        return cast("dict[str, Any]", ended.result)
    except BaseException as error:
        return _stopped(error, again)
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminated(number: int, _: object) -> NoReturn:
    from prefect.exceptions import TerminationSignal

    raise TerminationSignal(signal=number)


def _stopped(error: BaseException, again: str) -> NoReturn:
    """Ends a command whose flow was stopped with how to go on; raises anything else."""
    from prefect.exceptions import TerminationSignal

    if not isinstance(error, KeyboardInterrupt | TerminationSignal):
        raise error
    typer.echo(f"\nStopped; nothing is lost. Go on with: {again}")
    raise typer.Exit(130 if isinstance(error, KeyboardInterrupt) else 143) from None
