"""Assembly: the parts of a search, made from its configuration."""

from typing import TYPE_CHECKING

from evo import NSGA2, AgingEvolution
from flows.config import SearchConfig
from flows.home import BadInput, Home
from genomes import InvalidGenome
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
        InvalidGenome: no starter fits the limits.
    """
    chosen, limits = config.strategy, config.space.budgets
    match chosen.kind:
        case "random":
            return RandomSearch(space, limits, config.seed, chosen.random, config.fidelity)
        case "aging":
            return AgingEvolution(
                space.starters(), limits, config.seed, chosen.aging, chosen.variation, config.fidelity
            )
        case "nsga2":
            return NSGA2(space.starters(), limits, config.seed, chosen.nsga2, chosen.variation, config.fidelity)
