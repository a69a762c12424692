"""Finalists: which networks of a search are worth a full training."""

from collections.abc import Container

from flows import report
from genomes import Genome, equivalent
from search import Evaluation, Ledger, non_dominated


def finalists(ledger: Ledger, count: int, trained: Container[int] = ()) -> list[Evaluation]:
    """Returns the evaluations of the best networks of a search, the best one first.

    Errors are those that selection takes them to have: the least of many measured ones would mostly be luck. Whom no
    other beats in all objectives comes first, then the rest, each by error. Those that compute the same, such as a
    parent and its no-op control, are one network, which has the place of the first of them. The one that was retrained
    before stands for it, so that a network keeps its number, and with it what is recorded of it; else the one with the
    least measured error, whose weights a warm start begins with.

    Args:
        ledger: of the search, which may be running.
        count: how many; fewer are returned if the search has no more different networks.
        trained: the numbers of candidates that were retrained before.
    """
    good = [evaluation for evaluation in ledger.evaluations().values() if evaluation.ok]
    judged = {e.number: e.objectives["error"] for e in good} | report.judgements(ledger)
    points = {e.number: {**e.objectives, "error": judged[e.number]} for e in good}
    axes = report.axes(ledger)
    front = set(non_dominated({n: tuple(p[name] for name in axes) for n, p in points.items() if set(axes) <= set(p)}))
    good.sort(key=lambda e: (e.number not in front, judged[e.number], e.objectives["parameters"], e.number))

    def preference(evaluation: Evaluation) -> tuple[bool, float]:
        return (evaluation.number not in trained, evaluation.objectives["error"])

    places: list[Genome] = []
    chosen: list[Evaluation] = []
    for evaluation in good:
        if len(chosen) == count:
            break
        genome = ledger.candidate(evaluation.number).genome
        if not any(equivalent(genome, other) for other in places):
            as_large = [e for e in good if e.objectives["parameters"] == evaluation.objectives["parameters"]]
            genomes = ledger.candidates([e.number for e in as_large])  # no others are read: they are many
            places.append(genome)
            chosen.append(min((e for e in as_large if equivalent(genomes[e.number].genome, genome)), key=preference))
    return chosen
