"""Assembly: the parts of a search, made from its configuration."""

from pathlib import Path
from typing import TYPE_CHECKING

from evo import NSGA2, AgingEvolution
from flows.config import SearchConfig
from flows.home import BadInput, Home
from genomes import Genome, InvalidGenome, expand, load_genome
from genomes.spaces.residual import ResidualSpace
from search import Ledger, Strategy, WeightStore
from strategies import RandomSearch

if TYPE_CHECKING:
    from training.data import Prepared
    from training.trainer import Trainer

FREE = ("budget", "slots", "timeout", "tracking")  # what may change when a search is resumed


def planned(config: SearchConfig, home: Home) -> tuple["Prepared", Strategy]:
    """Returns the data's file, made if it is not there yet, and a fresh strategy; writes nothing of the search.

    Raises:
        BadInput: the data cannot be had, or no network fits it and the limits.
    """
    from training.data import prepare
    from training.errors import DataError

    try:
        prepared = prepare(config.data, home.data)
        return prepared, proposer(config, ResidualSpace(prepared.shape, prepared.classes, config.space))
    except (DataError, InvalidGenome) as error:
        raise BadInput(str(error)) from None


def trainer(config: SearchConfig, home: Home, prepared: "Prepared") -> "Trainer":
    """Returns the evaluator of a search."""
    from training.trainer import Trainer

    directory = home.search(config.name)
    store = WeightStore(directory / "weights")
    return Trainer(store, prepared, config.recipe, config.seed, config.timeout, directory / "results")


def tidy(ledger: Ledger, evaluator: "Trainer") -> None:
    """Removes what a killed session left behind: weights without an evaluation, results that are recorded.

    A result that landed and is not recorded stays, with its weights, and is taken instead of training again.
    """
    evaluations = ledger.evaluations()
    evaluator.clear(set(evaluations))
    kept = {evaluation.weights for evaluation in evaluations.values() if evaluation.weights}
    evaluator.store.collect(kept | evaluator.landed_weights())


def proposer(config: SearchConfig, space: ResidualSpace) -> Strategy:
    """Returns the strategy that a configuration asks for.

    Raises:
        BadInput: a founder's file cannot be used.
        InvalidGenome: no starter fits the limits.
    """
    chosen, limits = config.strategy, config.space.budgets
    starters = [founder(Path(file), space) for file in config.founders] or space.starters()
    match chosen.kind:
        case "random":
            return RandomSearch(space, limits, config.seed, chosen.random, config.fidelity)
        case "aging":
            return AgingEvolution(starters, limits, config.seed, chosen.aging, chosen.variation, config.fidelity)
        case "nsga2":
            return NSGA2(starters, limits, config.seed, chosen.nsga2, chosen.variation, config.fidelity)


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
