"""Exporting: a candidate of a search, with its stored weights, as files that stand alone."""

from pathlib import Path

from flows import report
from flows.assembly import data
from flows.config import validated
from flows.home import BadInput, Home
from search import Ledger, WeightStore


def exported(home: Home, name: str, number: int | None, directory: Path, *, folding: bool = False) -> str:
    """Writes a candidate, by default the best one, into a new directory and says what was written.

    With `folding`, batch norms are folded into the layers before them.

    Raises:
        BadInput: the candidate has no weights, or the directory cannot be used.
        CorruptWeights: its weights are damaged.
    """
    from training.errors import TrainingError
    from training.export import export, fold

    with Ledger.read(home.search(name)) as ledger:
        config = validated(ledger.config, name)
        chosen = report.chosen(ledger, name, number)
        evaluation = ledger.evaluations([chosen]).get(chosen)
    if evaluation and evaluation.twin is not None and evaluation.weights is None:
        raise BadInput(
            f"candidate {chosen} computes the same as {evaluation.twin} and was not trained: export that one"
        )
    if evaluation is None or evaluation.weights is None:
        raise BadInput(f"candidate {chosen} of search {name} has no weights: it failed, or is not trained yet")
    genome, weights = WeightStore(home.search(name) / "weights").get(evaluation.weights)
    error = evaluation.objectives["error"]
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
        f"Candidate {chosen} (error {error:.4f}) is in {done.directory}{norms}; loaded again, they differ from the "
        f"original: {differences} of the largest output"
    )
