"""Assembly: the parts of a search, made from its configuration."""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from evo import DISRUPTIONS, NSGA2, AgingEvolution
from flows.config import SearchConfig
from flows.home import BadInput, Home
from flows.origin import Origin, origin
from genomes import Genome, InvalidGenome, expand, load_genome
from genomes.spaces.residual import ResidualSpace
from morphism import CATALOGUE
from search import Ledger, Strategy, WeightStore
from strategies import RandomSearch

if TYPE_CHECKING:
    from training.data import Prepared
    from training.trainer import Trainer

DATA, FOUNDERS, WEIGHTS = "data.safetensors", "founders", "weights"  # of one search, in its directory
ORIGIN = "origin"  # there too: the digest of the user's network in the weights
FREE = ("budget", "slots", "timeout", "tracking")  # what may change when a search is resumed


class Plan(NamedTuple):
    """The parts of a search that are there before it begins.

    Attributes:
        prepared: the data's file.
        strategy: a fresh one.
        origin: the user's own network, if it begins with one.
    """

    prepared: "Prepared"
    strategy: Strategy
    origin: Origin | None


def planned(config: SearchConfig, home: Home) -> Plan:
    """Returns the parts of a search; makes the data's file if it is not there yet, writes nothing of the search.

    Raises:
        BadInput: the data or the origin cannot be had, or no network fits the data and the limits.
    """
    prepared, directory = data(config, home), home.search(config.name)
    try:
        space = ResidualSpace(prepared.shape, prepared.classes, config.space)
        begun = ancestor(config, space, directory)
        return Plan(prepared, proposer(config, space, directory, begun), begun)
    except InvalidGenome as error:
        raise BadInput(str(error)) from None


def ancestor(config: SearchConfig, space: ResidualSpace, directory: Path) -> Origin | None:
    """Returns the network that a search begins with: the search's own copy, or for a new one that of the user.

    Raises:
        BadInput: the user's network cannot be used.
        CorruptWeights: the copy is missing or damaged.
    """
    if kept := _origin(directory):
        return Origin(*WeightStore(directory / WEIGHTS).get(kept))
    return origin(config.origin, space.shape, space.classes, space.limits.budgets) if config.origin else None


def _origin(directory: Path) -> str | None:
    """Returns the digest of a search's own copy of the user's network; None if there is none."""
    file = directory / ORIGIN
    return file.read_text().strip() if file.exists() else None


def data(config: SearchConfig, home: Home) -> "Prepared":
    """Returns the data's file: the search's own, or for a new one that of the cache, made if it is not there yet.

    Raises:
        BadInput: the data cannot be had.
    """
    from training.data import Prepared, prepare
    from training.errors import DataError

    own = home.search(config.name) / DATA
    try:
        return Prepared.at(own) if own.exists() else prepare(config.data, home.data)
    except DataError as error:
        raise BadInput(str(error)) from None


def keep(config: SearchConfig, home: Home, prepared: "Prepared", begun: Origin | None = None) -> "Prepared":
    """Gives a search its own data, founders and origin, which no change elsewhere reaches, and returns the data."""
    directory = home.search(config.name)
    with tempfile.TemporaryDirectory(dir=directory, prefix="partial-") as scratch:
        if not (own := directory / DATA).exists():
            shutil.copyfile(prepared.file, Path(scratch) / DATA).rename(own)
        if config.founders and not (founders := directory / FOUNDERS).exists():
            (partial := Path(scratch) / FOUNDERS).mkdir()
            for number, file in enumerate(config.founders):
                shutil.copyfile(file, partial / f"{number:03}.json")
            partial.rename(founders)
        if begun and not _origin(directory):
            (partial := Path(scratch) / ORIGIN).write_text(WeightStore(directory / WEIGHTS).put(*begun))
            partial.rename(directory / ORIGIN)
    return type(prepared).at(own)


def trainer(config: SearchConfig, home: Home, prepared: "Prepared") -> "Trainer":
    """Returns the evaluator of a search."""
    from training.trainer import Trainer

    directory = home.search(config.name)
    return Trainer(
        WeightStore(directory / WEIGHTS),
        prepared,
        config.recipe,
        config.seed,
        config.timeout,
        directory / "results",
        config.space.budgets,
        _origin(directory),
    )


def tidy(ledger: Ledger, evaluator: "Trainer") -> None:
    """Removes what a killed session left behind: weights without an evaluation, results that are recorded.

    A result that landed and is not recorded stays, with its weights, and is taken instead of training again.
    """
    evaluations = ledger.evaluations()
    evaluator.clear(set(evaluations))
    kept = {evaluation.weights for evaluation in evaluations.values() if evaluation.weights}
    evaluator.store.collect(kept | evaluator.needed_weights())


def proposer(config: SearchConfig, space: ResidualSpace, directory: Path, begun: Origin | None = None) -> Strategy:
    """Returns the strategy that a configuration asks for; with an origin, all that it proposes descends from that.

    Raises:
        BadInput: a founder's file cannot be used.
        InvalidGenome: no starter fits the limits.
    """
    chosen, limits = config.strategy, config.space.budgets
    files = sorted((directory / FOUNDERS).glob("*.json")) or [Path(file) for file in config.founders]
    starters = [begun.genome] if begun else [founder(file, space) for file in files] or space.starters()
    common, drawn = (starters, limits, config.seed), (chosen.variation, config.fidelity)
    match chosen.kind:
        case "random":
            edits = (*CATALOGUE, *DISRUPTIONS)
            return RandomSearch(space, limits, config.seed, chosen.random, config.fidelity, edits)
        case "aging":
            return AgingEvolution(*common, chosen.aging, *drawn, mutants=begun is None, judgement=chosen.judgement)
        case "nsga2":
            return NSGA2(*common, chosen.nsga2, *drawn, mutants=begun is None, judgement=chosen.judgement)


def founder(file: Path, space: ResidualSpace) -> Genome:
    """Returns the genome in a file.

    Raises:
        BadInput: the file cannot be read, holds no valid genome, or one for other data or over the limits.
    """
    try:
        genome = load_genome(file.read_bytes(), space.limits.budgets)
    except OSError as error:
        raise BadInput(f"the founder {file} cannot be read: {error.strerror}") from None
    except InvalidGenome as error:
        raise BadInput(f"the founder {file} must be a valid genome within the limits of `space`: {error}") from None
    expansion = expand(genome)
    given = (expansion.shape(genome[genome.root].inputs[0]), expansion.shape(genome[genome.root].output))
    if given != (space.shape, (space.classes,)):
        raise BadInput(
            f"the founder {file} must map {list(space.shape)} to {space.classes} classes, as the data does; "
            f"it maps {list(given[0])} to {list(given[1])}"
        )
    return genome
