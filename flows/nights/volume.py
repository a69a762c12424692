"""Volume: how much of the plane of two objectives a front dominates, the hypervolume of two dimensions."""

import math
from collections.abc import Iterable, Sequence

Point = tuple[float, float]


def share(front: Iterable[Point], width: tuple[float, float]) -> float:
    """Returns the share of a box that a front dominates, from 0 to 1.

    The box goes from error 0 to 1, and across from the first to the second width on a logarithmic scale, since networks
    differ in size by factors.

    Args:
        front: size and error of each member; those to the left of the box count as on its edge.
        width: the smallest size and the largest, above 0.
    """
    low, high = (math.log(size) for size in width)
    steps = sorted((max(math.log(size), low), error) for size, error in front)
    if not steps:
        return 0.0
    if high <= low:
        return 1 - min(error for _, error in steps)
    return _area(steps, high) / (high - low)


def _area(steps: Sequence[Point], end: float) -> float:
    """Returns the area above a staircase and below 1, from its first step to the end."""
    area, least = 0.0, 1.0
    for (here, error), there in zip(steps, [*(place for place, _ in steps[1:]), end], strict=True):
        least = min(least, error)
        area += (1 - least) * max(min(there, end) - min(here, end), 0.0)
    return area
