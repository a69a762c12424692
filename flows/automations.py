"""Automations: what a Prefect server watches for while nobody looks, silent runs and failed or stuck nights."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal
from uuid import UUID

import httpx
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from flows.home import BadInput, redacted

FLOWS = ["search", "nightly", "retrain", "report"]
LONG = ["search", "nightly", "retrain"]
BEAT = "prefect.flow-run.heartbeat"
SILENT = timedelta(seconds=120)  # four beats of 30 s, which infra/prefect.yaml sets; Prefect's own are of 180 s
BAD = {f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", "TimedOut")}
ENDED = BAD | {f"prefect.flow-run.{state}" for state in ("Completed", "Cancelled")}
WORDS = """{{ flow.name }}/{{ flow_run.name }}: {{ flow_run.state.name }}. {{ flow_run.state.message }}
{{ flow_run|ui_url or "" }}"""


def set_up(notify: str | None, hours: float) -> list[str]:
    """Makes the automations on the Prefect server, or brings those of an earlier call up to date.

    Args:
        notify: the notification block that bad news is sent by, as `type/name`; None: a silent run is marked as
            crashed, and nobody is told.
        hours: after which a run that has not ended is stuck.

    Returns:
        The names of the automations.

    Raises:
        BadInput: the server does not answer, there is no such block, or it cannot notify.
    """
    wanted = [_silent()]
    try:
        if notify is not None:
            send = SendNotification(block_document_id=_block(notify), subject="Morphogen", body=WORDS)
            wanted += [_bad(send), _stuck(send, hours)]
        for automation in wanted:
            _put(automation)
    except httpx.HTTPError as error:
        raise BadInput(f"the Prefect server at PREFECT_API_URL must answer: {redacted(str(error))}") from None
    return [automation.name for automation in wanted]


def _silent() -> AutomationCore:
    """Returns what marks a run as crashed whose machine or process is gone; its concurrency slot is free then."""
    message = "No sign of life: its process or its machine is gone."
    crash = ChangeFlowRunState(name="Crashed", state=StateType.CRASHED, message=message, force=False)
    trigger = _trigger(FLOWS, after={BEAT}, expect={BEAT, *ENDED}, posture=Posture.Proactive, within=SILENT)
    return _automation("morphogen: a silent run is marked as crashed", trigger, crash)


def _bad(send: SendNotification) -> AutomationCore:
    return _automation("morphogen: a failed run is told", _trigger(FLOWS, expect=BAD), send)


def _stuck(send: SendNotification, hours: float) -> AutomationCore:
    begun = {"prefect.flow-run.Running"}
    trigger = _trigger(LONG, after=begun, expect=ENDED, posture=Posture.Proactive, within=timedelta(hours=hours))
    return _automation("morphogen: a stuck run is told", trigger, send)


def _trigger(
    names: list[str],
    expect: set[str],
    after: frozenset[str] | set[str] = frozenset(),
    posture: Literal[Posture.Reactive, Posture.Proactive] = Posture.Reactive,
    within: timedelta = timedelta(0),
) -> EventTrigger:
    """Returns a trigger for each run of these flows."""
    return EventTrigger(
        match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
        match_related=ResourceSpecification({"prefect.resource.role": "flow", "prefect.resource.name": names}),
        for_each={"prefect.resource.id"},
        after=set(after),
        expect=expect,
        posture=posture,
        within=within,
    )


def _automation(name: str, trigger: EventTrigger, action: ActionTypes) -> AutomationCore:
    return AutomationCore(name=name, trigger=trigger, actions=[action])


def _block(notify: str) -> UUID:
    """Returns the id of a notification block.

    Raises:
        BadInput: there is none of this name, or it cannot notify.
    """
    try:
        block = Block.load(notify)
    except ValueError:
        raise BadInput(
            f"--notify must name a block of the Prefect server as type/name, such as slack-webhook/team; {notify!r} is "
            "none: make one in its UI under Blocks; `prefect block ls` lists those that there are"
        ) from None
    if not isinstance(block, NotificationBlock) or block._block_document_id is None:
        raise BadInput(f"--notify must name a block that can notify, {notify!r} cannot")
    return block._block_document_id


def _put(automation: AutomationCore) -> None:
    with get_client(sync_client=True) as client:
        if there := client.read_automations_by_name(automation.name):
            client.update_automation(there[0].id, automation)
        else:
            client.create_automation(automation)
