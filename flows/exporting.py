"""Exporting: a network of a search, with its stored weights, as files that stand alone."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flows import report
from flows.assembly import RETRAIN, WEIGHTS, data
from flows.config import stored
from flows.home import BadInput, Home
from genomes import Genome
from search import Ledger, Retrainings, WeightStore

if TYPE_CHECKING:
    from torch import Tensor


class Chosen(NamedTuple):
    """A network to export.

    Attributes:
        title: what it is, in words.
        error: of the validation part.
        genome: the architecture.
        weights: by `path.parameter`.
    """

    title: str
    error: float
    genome: Genome
    weights: "dict[str, Tensor]"


def exported(home: Home, name: str, number: int | None, directory: Path, *, folding: bool = False) -> str:
    """Writes a network into a new directory and says what was written.

    Without a number it is the champion of the retrained finalists, if there is one, or else the best candidate;
    with a number the candidate as the search left it. With `folding`, batch norms are folded into the layers before
    them.

    Raises:
        BadInput: the candidate has no weights, or the directory cannot be used.
        CorruptWeights: its weights are damaged.
    """
    from training.errors import TrainingError
    from training.export import export, fold

    with Ledger.read(home.search(name)) as ledger:
        config = stored(ledger)
        chosen = (number is None and _champion(home, name)) or _candidate(ledger, home, name, number)
    title, error, genome, weights = chosen
    try:
        prepared = data(config, home)
        mean, deviation = prepared.normal
        genome, weights, folded = fold(genome, weights) if folding else (genome, weights, 0)
        classes = prepared.classes
        done = export(genome, weights, directory, mean=mean, std=deviation, classes=classes, error=error, folded=folded)
    except TrainingError as failure:
        raise BadInput(str(failure)) from None
    differences = f"{done.source.name} by {done.source_error:.1e} and {done.onnx.name} by {done.onnx_error:.1e}"
    norms = f", {folded} batch norms folded" if folding else ""
    return (
        f"{title} is in {done.directory}{norms}; loaded again, they differ from the "
        f"original: {differences} of the largest output"
    )


def _champion(home: Home, name: str) -> Chosen | None:
    """Returns the champion, or what was chosen when none was promoted yet; None before the first retraining."""
    directory = home.search(name) / RETRAIN
    with Retrainings.read(directory) as record:
        chosen = record.recorded().get(record.holders().champion or "") or record.chosen()
        tests = record.test_errors()
    if chosen is None or chosen.evaluation.weights is None:
        return None
    weights, errors = chosen.evaluation.weights, chosen.evaluation.objectives
    test = f", test error {tests[weights]:.4f}" if weights in tests else ", test part not read"
    title = (
        f"Candidate {chosen.number}, {chosen.manner} (seed {chosen.seed}, validation error "
        f"{errors['error']:.4f}{test}; for what the search itself trained, name its number)"
    )
    return Chosen(title, errors["error"], *WeightStore(directory / WEIGHTS).get(weights))


def _candidate(ledger: Ledger, home: Home, name: str, number: int | None) -> Chosen:
    """Returns a candidate with the weights that the search left.

    Raises:
        BadInput: it has none.
    """
    chosen = report.chosen(ledger, name, number)
    evaluation = ledger.evaluations([chosen]).get(chosen)
    if evaluation and evaluation.twin is not None and evaluation.weights is None:
        raise BadInput(
            f"candidate {chosen} computes the same as {evaluation.twin} and was not trained: export that one"
        )
    if evaluation is None or evaluation.weights is None:
        raise BadInput(f"candidate {chosen} of search {name} has no weights: it failed, or is not trained yet")
    error = evaluation.objectives["error"]
    genome, weights = WeightStore(home.search(name) / WEIGHTS).get(evaluation.weights)
    return Chosen(f"Candidate {chosen} (error {error:.4f})", error, genome, weights)
