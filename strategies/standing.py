"""Standing: who is ahead among results of one fidelity."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from search import Evaluation

Values = tuple[float, ...]


def ranked(results: Sequence[Evaluation], objectives: Sequence[str]) -> list[int]:
    """Returns the numbers of results, the best first.

    Results are compared only at equal lineage age, since an inherited child at a small budget mostly reports how long
    its ancestors were trained. A result's place is the share of its age group that is ahead of it, itself counted half,
    so that the only one of its age, which has beaten nobody, is in the middle. Within a group fewer dominations come
    first (non-dominated rank), then the first objective; the same decides between equal places of two groups.

    Args:
        results: all with these objectives, finite.
        objectives: what is minimised.
    """
    groups = dict[float, list[Evaluation]]()
    for result in results:
        groups.setdefault(result.cost.get("lineage_examples", 0.0), []).append(result)
    places = list[tuple[float, Values, int]]()
    for group in groups.values():
        values = {result.number: tuple(result.objectives[name] for name in objectives) for result in group}
        ranks = fronts(list(set(values.values())))
        order = sorted(values, key=lambda number: (ranks[values[number]], values[number], number))
        places += [((at + 0.5) / len(order), values[number], number) for at, number in enumerate(order)]
    return [number for *_, number in sorted(places)]


def fronts(points: Sequence[Values]) -> dict[Values, int]:
    """Returns the non-dominated rank of each point, from 0.

    Source: Zhang et al. 2015, An efficient approach to nondominated sorting (ENS), algorithm 3, binary search.

    Args:
        points: distinct, all minimised, of equal length.
    """
    found = list[list[Values]]()
    ranks = dict[Values, int]()
    for point in sorted(points):  # whoever dominates it comes before it
        rank = bisect_left(found, True, key=lambda front, point=point: not _dominated(point, front))  # type: ignore[misc]
        if rank == len(found):
            found.append([])
        found[rank].append(point)
        ranks[point] = rank
    return ranks


def _dominated(point: Values, front: Sequence[Values]) -> bool:
    """Says whether one of a front, in rising order of the first objective, dominates a point that comes after it."""
    if len(point) <= 2:  # the last one is the least in the second objective
        return front[-1][-1] <= point[-1]
    return any(all(a <= b for a, b in zip(other, point, strict=True)) for other in reversed(front))
