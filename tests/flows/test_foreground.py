"""How a flow that is run from the keyboard ends; what Prefect's death makes of it is in `test_hearing.py`."""

from __future__ import annotations

import os
import signal
from typing import Any, NoReturn

import pytest
import typer
from prefect.exceptions import TerminationSignal

from flows import foreground

AGAIN = "morphogen resume digits"


@pytest.fixture(autouse=True)
def embedded() -> Any:
    """No server is configured."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        yield


def raising(error: BaseException) -> NoReturn:
    raise error


def test_the_result_is_returned_and_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert foreground.ran(lambda: {"best": 3}, AGAIN) == {"best": 3}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("stopped", "code"), [(KeyboardInterrupt(), 130), (TerminationSignal(signal=signal.SIGTERM), 143)]
)
def test_one_that_is_stopped_says_how_to_go_on(
    stopped: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended:
        foreground.ran(lambda: raising(stopped), AGAIN)
    assert ended.value.exit_code == code
    assert capsys.readouterr().out.splitlines()[-1] == f"Stopped; nothing is lost. Go on with: {AGAIN}"


def test_a_signal_to_terminate_stops_it_and_afterwards_means_what_it_meant_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as ended:
        foreground.ran(lambda: {"sent": os.kill(os.getpid(), signal.SIGTERM)}, AGAIN)
    assert ended.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_went_wrong_is_not_taken_for_a_stop(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        foreground.ran(lambda: raising(ZeroDivisionError()), AGAIN)
    assert "Stopped" not in capsys.readouterr().out


def test_prefect_s_log_is_kept_from_the_screen_unless_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_LOGGING_INTERNAL_LEVEL", "PREFECT_LOGGING_TO_API_ENABLED"):
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "DEBUG")
    foreground.quiet()
    assert os.environ["PREFECT_LOGGING_LEVEL"] == "DEBUG"
    assert os.environ["PREFECT_LOGGING_INTERNAL_LEVEL"] == "CRITICAL"
    assert os.environ["PREFECT_LOGGING_TO_API_ENABLED"] == "false"
