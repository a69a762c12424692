"""The nightly flow: one flow run is one night of a search that goes on; and the flow that makes its report again."""

import base64
import logging
import re
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from flows import settings  # before prefect, which reads its settings when it is imported

# isort: split
from prefect import State, flow
from prefect.states import Completed
from pydantic import Field

from flows.assembly import FREE, document, planned
from flows.config import SearchConfig, stored
from flows.hearing import heard, show
from flows.home import Home, line
from flows.nights.morning import Morning, latest
from flows.nights.record import Night, Nights, Outcome, recorded
from flows.nights.succession import Succession, first, tonight, why
from flows.retrain import lacking
from flows.retrain import retrain as train_finalists
from flows.search import search
from search import Ledger, SearchError, SearchLocked

assert settings.DEFAULTS
log = logging.getLogger("morphogen.nightly")


class Told(NamedTuple):
    """Where a report is.

    Attributes:
        file: in the directory of the search.
        headline: its first sentence.
        tracked: whether MLflow has it.
    """

    file: Path
    headline: str
    tracked: bool


@flow(name="nightly", flow_run_name="{config.name}", persist_result=False, validate_parameters=True)
@heard
def nightly(
    config: SearchConfig,
    seconds: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="budget of one night; config.budget is the search's")
    ] = 28_800,
    candidates: Annotated[int | None, Field(ge=1, description="budget of one night; none: no such bound")] = None,
    searches: Annotated[
        int, Field(ge=1, le=100, description="1, or how many there may be in succession when one is finished")
    ] = 1,
    widen: Annotated[float, Field(ge=1, le=10, description="factor of a successor's limits of networks")] = 1.0,
    retrain: Annotated[bool, Field(description="train new finalists in full at the end of the night")] = False,
    home: Path = Path("searches"),
) -> State[dict[str, Any]]:
    """Goes on with a search, or begins it, until the night's budget is spent; then reports what changed.

    Ends well if another process runs the search or its night, with nothing done, or if the search is finished. What an
    earlier night left untrained of its finalists is trained, if that search is not the one that goes on.

    Args:
        config: of the search; its budget is that of the whole search, and none for no end.
        seconds: budget of this night, in wall clock; trainings of finalists come on top.
        candidates: budget of this night in candidates.
        searches: how many there may be in succession: a finished one is followed by NAME-2, NAME-3 and so on.
        widen: what each successor's limits of networks are multiplied by.
        retrain: whether finalists that were not trained in full yet are, at the end of the night.
        home: the directory that holds searches.
    """
    place, succession = Home(home), Succession(searches, widen)
    if searches > 1:
        succession.member(config, 2)  # refused now, not in the night in which the first search is finished
    place.make()
    if config.name not in place.names():
        planned(config, place)  # a search that cannot begin leaves nothing
    with ExitStack() as stack:
        try:
            nights = stack.enter_context(Nights.open(place, config.name))
            chosen = succession.current(config, place, before := recorded(place, config.name))
            if chosen and chosen.name in place.names():
                Ledger.open(place.search(chosen.name)).close()  # refused before there is a flow run that fails
        except SearchLocked as error:
            return _idle("Skipped", config.name, f"Nothing was done: {error}")
        last = before[-1].search if before else config.name
        owing = retrain and last != (chosen and chosen.name) and last in place.names()
        note = _retrained(last, place) if owing else ""
        if chosen is None:
            if note:
                _try_to_tell(place, config.name)  # of the champion
            finished = f"No search went on: all {searches} are finished: give {_more(before)}"
            return _idle("Rested", config.name, "; ".join(filter(None, (finished, note))))
        night, told = _night(chosen, nights, (seconds, candidates), retrain)
    facts = {"outcome": night.outcome, "search": night.search, "night": night.number, "note": night.note}
    data = {**facts, "headline": told.headline, "file": str(told.file), "tracked": told.tracked}
    return Completed(message=told.headline, data=data)


@flow(name="report", flow_run_name="{name}", persist_result=False, validate_parameters=True)
def report(name: str, home: Path = Path("searches")) -> dict[str, Any]:
    """Makes the report of the last night again, from the record, and shows it in Prefect and in MLflow.

    Args:
        name: of the search, or of one of its successors.
        home: the directory that holds searches.
    """
    told = tell(Home(home), first(Home(home), name))
    return {"file": str(told.file), "headline": told.headline, "tracked": told.tracked}


def tell(home: Home, name: str) -> Told:
    """Writes the report of the last night, and gives it to Prefect and to MLflow.

    Raises:
        BadInput: there was no night.
    """
    from flows.tracking import Tracker

    made = latest(home, name)
    with Ledger.read(home.search(made.night.search)) as ledger:
        config = stored(ledger)
    text = made.text.replace(f"({made.picture.name})", f"(data:image/png;base64,{_encoded(made.picture)})")
    show(text, f"morning-{name}", made.headline)
    tracker = Tracker(home, config.name, config.tracking, config.facts())
    with tempfile.TemporaryDirectory() as scratch:
        words = Path(scratch) / made.file.name
        words.write_text(_in_words(made))
        return Told(made.file, made.headline, tracker.attach([words, made.picture], "reports"))


def _night(config: SearchConfig, nights: Nights, bounds: tuple[float, int | None], retrain: bool) -> tuple[Night, Told]:
    """Spends a night's budget on a search and reports; a failure is recorded and reported, then raised."""
    home = nights.home
    night = nights.begin(config.name)
    budget = tonight(config.budget, night.before.spent, *bounds)
    try:
        result = search(config=config.model_copy(update={"budget": budget}), home=home.root)
        _restore(config, home)
        note = _retrained(config.name, home) if retrain else ""
    except BaseException as error:
        outcome: Outcome = "failed" if isinstance(error, Exception) else "stopped"
        night = nights.end(night, outcome, note=line(error))
        with suppress(SearchError):
            _restore(config, home)
        if outcome == "failed":
            _try_to_tell(home, nights.name)
        raise
    night = nights.end(night, why(config, home, result["share"]), note)
    return night, tell(home, nights.name)


def _restore(config: SearchConfig, home: Home) -> None:
    """Puts the whole search's budget back into its ledger, in place of the night's: `morphogen resume` goes by it."""
    if config.name in home.names():
        Ledger.create(home.search(config.name), document(config, home), FREE).close()


def _retrained(name: str, home: Home) -> str:
    """Does what a search's finalists lack, mostly trainings in full; says what came of it, if there was any."""
    if not lacking(name, home):
        return ""
    try:
        result = train_finalists(name=name, home=home.root)
        return f"{result['verdict']}; {result['decision']}"
    except SearchLocked as error:
        return f"finalists: {error}"


def _more(nights: Sequence[Night]) -> str:
    """Returns in words what would let finished searches go on."""
    if nights and nights[-1].outcome == "exhausted":
        return "more searches for a successor, since this one has proposed all that it can"
    return "a larger budget for the same search, or more searches for a successor"


def _idle(state: str, name: str, said: str) -> State[dict[str, Any]]:
    """Returns the state of a night in which no search went on, which is no failure."""
    return Completed(name=state, message=said, data={"outcome": state.lower(), "search": name, "note": said})


def _try_to_tell(home: Home, name: str) -> None:
    """Reports a night that failed, unless that fails too: the first failure is the one to be seen."""
    try:
        tell(home, name)
    except Exception as error:
        log.warning("there is no report of the night: %s", line(error))


def _in_words(made: Morning) -> str:
    """Returns the text with words in the place of the picture: MLflow shows none in Markdown, but its source."""
    shown = re.escape(f"]({made.picture.name})")
    return re.sub(rf"!\[(.*){shown}", rf"\1, drawn in `{made.picture.name}` beside this file.", made.text)


def _encoded(picture: Path) -> str:
    return base64.b64encode(picture.read_bytes()).decode()
