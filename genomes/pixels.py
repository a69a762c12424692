"""Pixels of a drawing: where the boxes, lanes and call frames of a layout stand on the plane."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from genomes.layout import Layout, call_of

HEIGHT, GAP, GUTTER, LANE = 40.0, 30.0, 28.0, 26.0  # of a box, between layers, between columns, between lanes
TITLE, SIDE, NEST = 20.0, 12.0, 5.0  # of a frame: room for its name, at its sides, more for each frame within


@dataclass(frozen=True)
class Frame:
    """A rectangle around boxes of one call.

    Attributes:
        call: the path of the call.
        named: whether the name of the call stands on it: a call whose boxes lie scattered has several frames.
        left, top, right, bottom: its edges.
    """

    call: str
    named: bool
    left: float
    top: float
    right: float
    bottom: float


class Pixels:
    """The plane: x from the middle of column 0, y from the top of the first layer."""

    def __init__(self, plan: Layout, widths: Mapping[str, float]) -> None:
        """Takes the layout and the width of each box."""
        self.plan, self.widths = plan, widths
        self.calls = _calls(plan)

    @cached_property
    def bands(self) -> Sequence[Sequence[str]]:
        """The boxes of each layer."""
        rows: list[list[str]] = [[] for _ in range(1 + max(self.plan.layers.values()))]
        for box, layer in self.plan.layers.items():
            rows[layer].append(box)
        return rows

    @cached_property
    def tops(self) -> Sequence[float]:
        """The upper edge of each layer; where calls begin or end there is more room."""
        above = [max((self._within_call(box, first=True) for box in band), default=0) for band in self.bands]
        below = [max((self._within_call(box, first=False) for box in band), default=0) for band in self.bands]
        tops = [TITLE * above[0]]
        for opened, closed in zip(above[1:], below, strict=False):
            tops.append(tops[-1] + HEIGHT + GAP + TITLE * opened + SIDE * closed)
        return tops

    def _within_call(self, box: str, first: bool) -> int:
        """Returns how many frames begin (or end) at the layer of a box around it."""
        ends, layer = (self.firsts if first else self.lasts), self.plan.layers[box]
        return sum(ends[call] == layer for call in calls_of(box))

    @cached_property
    def firsts(self) -> Mapping[str, int]:
        """The first layer of each call."""
        return {call: min(self.plan.layers[box] for box in boxes) for call, boxes in self.calls.items()}

    @cached_property
    def lasts(self) -> Mapping[str, int]:
        """The last layer of each call."""
        return {call: max(self.plan.layers[box] for box in boxes) for call, boxes in self.calls.items()}

    @cached_property
    def centres(self) -> Mapping[str, float]:
        """The middle of each box."""
        columns = self.plan.columns
        widest: dict[int, float] = {}
        for box, column in columns.items():
            widest[column] = max(widest.get(column, 0.0), self.widths[box])
        middles = {0: 0.0}
        room = GUTTER + 2 * NEST * self.deepest
        for sign in (1, -1):
            reach = widest[0] / 2 + LANE * max([0, *(sign * lane for lane in self.plan.lanes.values())])
            for column in sorted((c for c in widest if c * sign > 0), key=abs):
                middles[column] = sign * (reach + room + widest[column] / 2)
                reach += room + widest[column]
        return {box: middles[column] for box, column in columns.items()}

    @cached_property
    def lanes(self) -> Mapping[str, float]:
        """The x of the lane of each box that has one."""
        half = max(self.widths[box] for box, column in self.plan.columns.items() if column == 0) / 2
        return {box: (half + LANE * (abs(n) - 0.45)) * (1 if n > 0 else -1) for box, n in self.plan.lanes.items()}

    @cached_property
    def deepest(self) -> int:
        """How many calls lie in each other at most."""
        return max((1 + call.count("/") for call in self.calls), default=0)

    @cached_property
    def frames(self) -> Sequence[Frame]:
        """The frames, outer ones first."""
        return [frame for call in sorted(self.calls) for frame in self._frames(call)]

    def top(self, box: str) -> float:
        """Returns the upper edge of a box."""
        return self.tops[self.plan.layers[box]]

    def _frames(self, call: str) -> Iterator[Frame]:
        """Yields one frame, or one for each run of boxes in a column if one would hold strangers."""
        members = self.calls[call]
        whole = self._frame(call, members, True)
        if not any(self._covers(whole, box) for box in self.plan.boxes if box not in members):
            yield whole
            return
        place = {box: (self.plan.columns[box], self.plan.layers[box]) for box in members}
        ordered = sorted(members, key=place.__getitem__)
        runs = groupby(enumerate(ordered), lambda item: (place[item[1]][0], place[item[1]][1] - item[0]))
        for number, (_, run) in enumerate(runs):
            yield self._frame(call, [box for _, box in run], number == 0)

    def _frame(self, call: str, members: Sequence[str], named: bool) -> Frame:
        held = [other for other in self.calls if other.startswith(f"{call}/")]
        first, last = (_height(call, [o for o in held if e[o] == e[call]]) for e in (self.firsts, self.lasts))
        side = SIDE + NEST * _height(call, held)
        xs = [x for b in members for x in (self.centres[b] - self.widths[b] / 2, self.centres[b] + self.widths[b] / 2)]
        xs += [x for source, x in self.lanes.items() if self._within(source, members)]
        top, bottom = (edge(self.top(box) for box in members) for edge in (min, max))
        upper, lower = top - TITLE * (1 + first) + 2, bottom + HEIGHT + SIDE * (1 + last) - 3
        return Frame(call, named, min(xs) - side, upper, max(xs) + side, lower)

    def _within(self, source: str, members: Sequence[str]) -> bool:
        """Says whether a lane only serves these boxes and runs beside them."""
        layers = {self.plan.layers[box] for box in members}
        targets = [t for s, t in self.plan.edges if s == source and self.plan.layers[t] > self.plan.layers[s] + 1]
        return set(targets) <= set(members) and set(self.plan.lane_layers(source)) <= layers

    def _covers(self, frame: Frame, box: str) -> bool:
        x, half, y = self.centres[box], self.widths[box] / 2, self.top(box)
        return frame.left < x + half and x - half < frame.right and frame.top < y + HEIGHT and y < frame.bottom


def calls_of(box: str) -> list[str]:
    """Returns the paths of the calls around a box, the outermost first."""
    parts = call_of(box).split("/") if call_of(box) else []
    return ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def _height(call: str, held: Sequence[str]) -> int:
    """Returns how many of the calls that one holds lie in each other at most."""
    return max((other.count("/") for other in held), default=call.count("/")) - call.count("/")


def _calls(plan: Layout) -> dict[str, list[str]]:
    """Returns the boxes of each call, those of the calls within it too."""
    found: dict[str, list[str]] = {}
    for box in plan.boxes:
        for call in calls_of(box):
            found.setdefault(call, []).append(box)
    return found
