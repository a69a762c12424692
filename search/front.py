"""Front: the evaluations that none other beats in all objectives at once."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping

from search.protocol import Evaluation


def non_dominated(points: Mapping[int, tuple[float, ...]]) -> list[int]:
    """Returns the numbers of the points that none other beats or equals in all of their values (minimised).

    Of equal points only the one with the least number is among them. They come in rising order of the values.
    """
    kept: list[int] = []
    for number in sorted(points, key=lambda one: (points[one], one)):  # only an earlier one can beat or equal a later
        if not any(all(a <= b for a, b in zip(points[other], points[number], strict=True)) for other in kept):
            kept.append(number)
    return kept


class Front:
    """The evaluations that none other beats in error and one other objective, kept up to date; of equals the first one.

    They are in rising order of error, so that the other one falls: whether one belongs is decided by its neighbours.

    Attributes:
        beside: the other objective.
        members: the least error first; what was not measured counts as infinite.
    """

    def __init__(self, beside: str = "parameters") -> None:
        """Begins with none."""
        self.beside, self.members = beside, tuple[Evaluation, ...]()
        self._errors: list[float] = []

    def add(self, evaluation: Evaluation) -> None:
        """Takes a success in, if it belongs, and lets go of those that it beats."""
        error, size = evaluation.objectives.get("error", math.inf), self._size(evaluation)
        behind = bisect_right(self._errors, error)
        if behind and self._size(self.members[behind - 1]) <= size:
            return
        first = last = bisect_left(self._errors, error)
        while last < len(self.members) and self._size(self.members[last]) >= size:
            last += 1
        self._errors[first:last] = [error]
        self.members = (*self.members[:first], evaluation, *self.members[last:])

    def _size(self, evaluation: Evaluation) -> float:
        return evaluation.objectives.get(self.beside, math.inf)
