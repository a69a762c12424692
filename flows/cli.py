"""The command line: one function for each command, which say what to do next."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from flows import foreground
from flows.home import DEFAULT as HOME
from flows.home import BadInput, Home

if TYPE_CHECKING:
    from flows.config import SearchConfig
    from flows.tracking import Tracker

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Evolves neural-network architectures whose children inherit what their parents learned.",
)

HomeOption = Annotated[Path, typer.Option(help="Directory of all searches.", envvar="MORPHOGEN_HOME")]


@app.command("search")
def search_command(
    config: Annotated[Path | None, typer.Option(help="YAML file; without one, a short search on digits.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the search, instead of the file's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed, instead of the file's.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--from", help="Your own network to begin with: file.py:function, which builds it."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Its state_dict as safetensors; without it, as it is built.")
    ] = None,
    home: HomeOption = HOME,
) -> None:
    """Run a search; one that exists with the same configuration goes on."""
    from flows.config import PRESETS, read

    if weights and not model:
        raise BadInput("--weights must come with --from, which names the function that builds the network")
    origin = {"model": model, "weights": weights and str(weights)} if model else None
    _run(read(config or PRESETS / "digits.yaml", name=name, seed=seed, origin=origin), home)


@app.command()
def resume(
    name: str,
    seconds: Annotated[
        float | None, typer.Option(help="New bound of the whole search's wall clock, in seconds.")
    ] = None,
    candidates: Annotated[int | None, typer.Option(help="New bound of the whole search's candidates.")] = None,
    examples: Annotated[int | None, typer.Option(help="New bound of the whole search's training examples.")] = None,
    cpu_seconds: Annotated[
        float | None, typer.Option(help="New bound of the processor time of all children, in seconds.")
    ] = None,
    dollars: Annotated[
        float | None, typer.Option(help="New bound of what the machine costs in the whole search, in dollars.")
    ] = None,
    dollars_per_hour: Annotated[float | None, typer.Option(help="New price of the machine.")] = None,
    slots: Annotated[
        str | None,
        typer.Option(
            help="Where children are trained, how many at a time: N or cpu:N, cuda:N (on each device), cuda:N@0,1, "
            "ray:N@HOST:PORT or ray:N@auto."
        ),
    ] = None,
    home: HomeOption = HOME,
) -> None:
    """Go on with a search where it stopped."""
    from flows.config import validated
    from flows.slots import Slots
    from search import Ledger

    with Ledger.read(Home(home).search(name)) as ledger:
        document = {**ledger.config, "name": name}
    if slots is not None:
        document["slots"] = Slots.words(slots, document["slots"])
    bounds = {"seconds": seconds, "candidates": candidates, "examples": examples, "cpu_seconds": cpu_seconds}
    bounds |= {"dollars": dollars, "dollars_per_hour": dollars_per_hour}
    document["budget"] = {**document["budget"], **{key: bound for key, bound in bounds.items() if bound is not None}}
    _run(validated(document, name), home)


@app.command()
def show(name: str, home: HomeOption = HOME) -> None:
    """Show a search's front, best network, costs, slots, failures, gains over the no-op control, and champion."""
    from flows import terminal
    from flows.assembly import RETRAIN
    from flows.champions.champion import holding
    from flows.standings import verdict
    from search import Ledger, Retrainings

    directory = Home(home).search(name)
    with Ledger.read(directory) as ledger, Retrainings.read(directory / RETRAIN) as record:
        terminal.summary(ledger, terminal.console())
        for told in filter(None, (verdict(record), holding(record))):
            typer.echo(told)


@app.command()
def lineage(
    name: str,
    number: Annotated[int | None, typer.Argument(help="Number of a candidate; without it the best one.")] = None,
    home: HomeOption = HOME,
) -> None:
    """Show a candidate's ancestors with their edits, and write the family tree as an HTML page."""
    from flows import report, terminal
    from flows.lineage import page
    from search import Ledger

    directory = Home(home).search(name)
    with Ledger.read(directory) as ledger:
        terminal.console().print(terminal.family(ledger, report.chosen(ledger, name, number)))
        file = directory / "lineage.html"
        evaluations = ledger.evaluations()
        runs, axis = ledger.external_ids(evaluations), report.beside_error(report.axes(ledger))
        file.write_text(page(name, ledger.candidates(), evaluations, runs=runs, axis=axis))
    typer.echo(f"Family tree: {file}")


@app.command("report")
def report_command(name: str, home: HomeOption = HOME) -> None:
    """Show what the last night of a nightly search changed, and write its report again."""
    from rich.markdown import Markdown

    from flows import terminal
    from flows.nights.morning import latest

    made = latest(Home(home), name)
    terminal.console().print(Markdown(made.text))
    typer.echo(f"Report:   {made.file}")


@app.command()
def verify(
    name: str,
    child: Annotated[int | None, typer.Option(help="Number of the only candidate to verify.")] = None,
    home: HomeOption = HOME,
) -> None:
    """Derive each certificate and each child's first weights again from the stored ancestors, and compare."""
    from flows import terminal
    from flows.verify import verified

    if not verified(Home(home), name, child, terminal.console()):
        raise typer.Exit(1)


@app.command("retrain")
def retrain_command(
    name: str,
    top: Annotated[int | None, typer.Option(help="How many finalists, instead of as configured.")] = None,
    seeds: Annotated[int | None, typer.Option(help="How often each is trained, instead of as configured.")] = None,
    examples: Annotated[int | None, typer.Option(help="Examples of each training, instead of as configured.")] = None,
    warm_start: Annotated[
        bool | None, typer.Option(help="From the search's weights, or from scratch, instead of as configured.")
    ] = None,
    home: HomeOption = HOME,
) -> None:
    """Train the best networks of a search in full, choose one, test it once, promote it if it is better."""
    foreground.quiet()
    from flows.assembly import RETRAIN, WEIGHTS
    from flows.retrain import retrain

    place = Home(home)
    typer.echo(f"Finalists of search {name} in {place.search(name)}: starting Prefect and MLflow …")
    result = foreground.ran(lambda: retrain(name, top, seeds, examples, warm_start, home), shlex.join(sys.argv))
    if result["finalists"] < result["asked"]:
        typer.echo(f"{result['asked']} finalists were asked for, the search has {result['finalists']} different ones")
    if not result["tracked"]:
        typer.echo(f"MLflow has not heard of all trainings: {place.command('sync', name)}")
    typer.echo(result["verdict"])
    typer.echo(result["decision"])
    typer.echo(f"Serve:    {place.command('champion', name)} says how")
    file = place.search(name) / RETRAIN / WEIGHTS / f"{result['weights']}.safetensors"
    written = "as files to use" if result["champion"] else "not the champion, which is written by"
    typer.echo(f"Result:   {file}; {written}: {place.command('export', name)} --to exported")


@app.command("champion")
def champion_command(
    name: str,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="First give the place back to the champion before.")
    ] = False,
    home: HomeOption = HOME,
) -> None:
    """Show the champion of a search, the evidence for it, and how to serve it."""
    from flows import terminal
    from flows.champions.crown import restored, shown

    tracker = _tracker(name, home)
    if rollback:
        typer.echo(restored(tracker, Home(home)))
    shown(tracker, Home(home), terminal.console())


@app.command()
def export(
    name: str,
    to: Annotated[Path, typer.Option(help="Directory to make.")],
    number: Annotated[
        int | None,
        typer.Argument(help="Number of a candidate as the search left it; without it the champion, or the best."),
    ] = None,
    fold: Annotated[bool, typer.Option("--fold", help="Fold batch norms into the layers before them.")] = False,
    home: HomeOption = HOME,
) -> None:
    """Write a network as weights, genome, PyTorch source and ONNX, each loaded again and compared."""
    from flows.exporting import exported

    typer.echo(exported(Home(home), name, number, to, folding=fold))


@app.command()
def sync(name: str, home: HomeOption = HOME) -> None:
    """Send to MLflow what it has not been told of a search."""
    from flows.assembly import RETRAIN
    from flows.champions import registry
    from search import Ledger, Retrainings

    directory = Home(home).search(name)
    with Ledger.open(directory) as ledger:  # locked: a search that runs sends for itself
        tracker = _tracker(name, home)
        tracker.check()
        tracker.finish("KILLED" if ledger.pending() else "FINISHED")
    if left := tracker.lag():
        raise BadInput(f"MLflow did not take {left} evaluations; they are kept, try again")
    if (directory / RETRAIN).is_dir():
        with Retrainings.open(directory / RETRAIN) as record:  # locked, for the same reason
            if not (tracker.tell_retrained(record) and registry.tell(tracker, Home(home), record)):
                raise BadInput("MLflow did not take the trainings of finalists or the champion; try again")
    typer.echo("MLflow holds what the ledger holds")


@app.command("setup-automations")
def setup_automations(
    notify: Annotated[
        str | None, typer.Option(help="Notification block of the Prefect server, as type/name: slack-webhook/team.")
    ] = None,
    hours: Annotated[float, typer.Option(help="A run that has not ended after so many hours is stuck.", min=0.01)] = 14,
) -> None:
    """Have the Prefect server mark silent runs as crashed and, with --notify, tell of failed and stuck ones."""
    from prefect.settings import get_current_settings

    from flows.automations import set_up

    if not get_current_settings().api.url:
        raise BadInput("PREFECT_API_URL must name a Prefect server: the embedded one ends with each command")
    for name in set_up(notify, hours):
        typer.echo(f"There is now an automation: {name}")
    if notify is None:
        typer.echo("Nobody is told of failures yet: name a notification block with --notify TYPE/NAME")


def _tracker(name: str, home: Path) -> Tracker:
    """Returns what tells MLflow of a search."""
    from flows.config import stored
    from flows.tracking import Tracker
    from search import Ledger

    with Ledger.read(Home(home).search(name)) as ledger:
        config = stored(ledger)
    return Tracker(Home(home), name, config.tracking, config.facts())


def _run(config: SearchConfig, home: Path) -> None:
    """Runs the flow and ends with where the result is and what to do with it."""
    foreground.quiet()
    from flows import terminal
    from flows.search import search
    from search import Ledger

    place = Home(home)
    typer.echo(f"Search {config.name} in {place.search(config.name)}: starting Prefect and MLflow …")
    result = foreground.ran(lambda: search(config, home), place.command("resume", config.name))
    with Ledger.read(place.search(config.name)) as ledger:
        terminal.summary(ledger, terminal.console())
    bounds = {name: bound for name, bound in asdict(config.budget).items() if bound and name != "dollars_per_hour"}
    longer = "".join(
        f" --{name.replace('_', '-')} {2 * bound if isinstance(bound, int) else format(2 * bound, '.10g')}"
        for name, bound in bounds.items()
    )
    typer.echo(f"Files:    {place.search(config.name)}")
    typer.echo(f"Lineage:  {place.command('lineage', config.name)}")
    typer.echo(f"Export:   {place.command('export', config.name)} --to exported")
    typer.echo(f"Resume:   {place.command('resume', config.name)}{longer}")
    if not (config.tracking or os.environ.get("MLFLOW_TRACKING_URI")):
        program = str(Path(sys.argv[0]).parent / "mlflow")
        command = shlex.join([program, "ui", "--backend-store-uri", place.tracking_uri])
        typer.echo(f"MLflow:   {command}, then open")
    typer.echo(f"          {result['address']}")
    if result["untracked"]:
        typer.echo(f"MLflow has not heard of {result['untracked']} evaluations: {place.command('sync', config.name)}")


def main() -> None:
    """Runs a command; what the user can mend is one line and exit code 2, a full disk exit code 75."""
    try:
        _guarded(app)
    except SystemExit as end:
        if "flows.hearing" in sys.modules:  # a flow ran: a dead Prefect must not hold up its end
            sys.modules["flows.hearing"].leave(end.code if isinstance(end.code, int) else 0)
        raise


def _guarded(command: Callable[[], Any]) -> None:
    from genomes import InvalidGenome
    from search import DiskFull, SearchError

    try:
        command()
    except DiskFull as error:
        _fail(error, 75)
    except (BadInput, SearchError, InvalidGenome, OSError) as error:  # an OSError names the file
        _fail(error, 2)


def _fail(error: Exception, code: int) -> NoReturn:
    typer.echo(f"morphogen: {error}", err=True)
    raise SystemExit(code)
