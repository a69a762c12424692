"""Finalists: which networks of a search are worth a training from scratch."""

from flows import report
from genomes import Genome, equivalent
from search import Evaluation, Ledger, non_dominated


def finalists(ledger: Ledger, count: int) -> list[Evaluation]:
    """Returns the evaluations of the best networks of a search, the best one first.

    Errors are those that selection takes them to have: the least of many measured ones would mostly be luck. Whom no
    other beats in all objectives comes first, then the rest, each by error. Of those that compute the same, such as a
    parent and its no-op control, only the first is taken: from scratch they are one network.

    Args:
        ledger: of the search, which may be running.
        count: how many; fewer are returned if the search has no more different networks.
    """
    good = [evaluation for evaluation in ledger.evaluations().values() if evaluation.ok]
    judged = {e.number: e.objectives["error"] for e in good} | report.judgements(ledger)
    points = {e.number: {**e.objectives, "error": judged[e.number]} for e in good}
    axes = report.axes(ledger)
    front = set(non_dominated({n: tuple(p[name] for name in axes) for n, p in points.items() if set(axes) <= set(p)}))
    good.sort(key=lambda e: (e.number not in front, judged[e.number], e.objectives["parameters"], e.number))
    chosen: dict[int, Genome] = {}
    for evaluation in good:
        if len(chosen) == count:
            break
        genome = ledger.candidate(evaluation.number).genome
        if not any(equivalent(genome, other) for other in chosen.values()):
            chosen[evaluation.number] = genome
    return [evaluation for evaluation in good if evaluation.number in chosen]
