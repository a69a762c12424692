"""Draws a genome as a self-contained SVG picture, readable on light and on dark ground."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator
from functools import partial

from genomes.cost import cost
from genomes.expansion import expand
from genomes.genome import Genome
from genomes.labels import extent, family, label, short
from genomes.layout import Layout, layout
from genomes.operations import Call
from genomes.pixels import HEIGHT, Frame, Pixels

MARGIN, HEADER = 26.0, 70.0  # pixels around the picture, and above it
LETTER, MIN_WIDTH, PORT = 6.5, 96.0, 16.0  # pixels of a letter, of the smallest box, between edges into one box
FAMILIES = ("conv", "linear", "pool", "join", "pointwise", "end")
STYLE = """
svg.genome{--ground:#fff;--ink:#1f2933;--quiet:#616e7c;--line:#8592a0;--frame:#b8c2cc;--call:#7b879414;
--conv:#dbeafe;--conv-rim:#3b82f6;--linear:#ede9fe;--linear-rim:#8b5cf6;--pool:#dcfce7;--pool-rim:#22a55b;
--join:#ffedd5;--join-rim:#f08c2e;--pointwise:#d9f2ef;--pointwise-rim:#2a9d90;--end:#eef1f4;--end-rim:#7b8794;
font-family:system-ui,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
@media(prefers-color-scheme:dark){svg.genome{--ground:#14181d;--ink:#e6eaee;--quiet:#a3afbb;--line:#7b8794;
--frame:#52606d;--call:#9aa5b11a;--conv:#17305c;--linear:#35255f;--pool:#133d26;--join:#4d2f10;--pointwise:#12403b;
--end:#262d35}}
svg.genome .ground{fill:var(--ground)}
svg.genome text{fill:var(--ink);font-size:12px;text-anchor:middle}
svg.genome .title{font-size:16px;font-weight:600}
svg.genome .facts{fill:var(--quiet)}
svg.genome .shape{fill:var(--quiet);font-size:10px}
svg.genome .name{fill:var(--quiet);font-size:10.5px;text-anchor:start}
svg.genome .edge{fill:none;stroke:var(--line);stroke-width:1.4}
svg.genome .tip{fill:var(--line)}
svg.genome .call{fill:var(--call);stroke:var(--frame);stroke-dasharray:4 3}
""" + "".join(f"svg.genome .{name}{{fill:var(--{name});stroke:var(--{name}-rim)}}\n" for name in FAMILIES)


def draw(genome: Genome, title: str = "") -> str:
    """Returns an SVG picture of a genome's expansion, with every call framed and named.

    Args:
        genome: a valid genome.
        title: stands above the picture.

    Raises:
        InvalidGenome: the genome does not expand.
    """
    plan, spent = layout(expand(genome)), cost(genome)
    facts = f"{short(spent.parameters)} parameters · {short(spent.macs)} MACs"
    pixels = Pixels(
        plan, {box: max(MIN_WIDTH, LETTER * len(label(members)) + 24) for box, members in plan.boxes.items()}
    )
    body = [*_frames(genome, pixels), *_edges(pixels), *_boxes(pixels)]
    left, right = _sides(pixels)
    half = max(-left, right, LETTER * 1.4 * len(title) / 2, LETTER * len(facts) / 2) + MARGIN
    height = HEADER + pixels.tops[-1] + HEIGHT + MARGIN
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" class="genome" role="img" width="{2 * half:.0f}" '
        f'height="{height:.0f}" viewBox="{-half:.1f} {-HEADER:.1f} {2 * half:.1f} {height:.1f}">',
        f"<title>{_escaped(title or 'genome')}</title><style>{STYLE}</style>",
        '<defs><marker id="genome-tip" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path class="tip" d="M0 .8 8 4 0 7.2z"/></marker></defs>',
        f'<rect class="ground" x="{-half:.1f}" y="{-HEADER:.1f}" width="{2 * half:.1f}" height="{height:.1f}"/>',
        f'<text class="title" y="{28 - HEADER:.0f}">{_escaped(title)}</text>',
        f'<text class="facts" y="{47 - HEADER:.0f}">{facts}</text>',
        *body,
        "</svg>\n",
    ])  # fmt: skip


def _sides(pixels: Pixels) -> tuple[float, float]:
    """Returns how far the picture reaches to the left and to the right."""
    boxes = [pixels.centres[box] + side * width / 2 for box, width in pixels.widths.items() for side in (-1, 1)]
    xs = [*boxes, *pixels.lanes.values(), *(x for frame in pixels.frames for x in (frame.left, frame.right))]
    return min(xs), max(xs)


def _frames(genome: Genome, pixels: Pixels) -> Iterator[str]:
    for frame in pixels.frames:
        yield (
            f'<rect class="call" x="{frame.left:.1f}" y="{frame.top:.1f}" width="{frame.right - frame.left:.1f}" '
            f'height="{frame.bottom - frame.top:.1f}" rx="8"/>'
        )
        if frame.named:
            yield f'<text class="name" x="{frame.left + 8:.1f}" y="{frame.top + 13:.1f}">{_name(genome, frame)}</text>'


def _name(genome: Genome, frame: Frame) -> str:
    """Returns the name of the module that a call stands for."""
    name = genome.root
    for node in frame.call.split("/"):
        operation = genome[name].operations[node]
        name = operation.module if isinstance(operation, Call) else name
    return _escaped(name)


def _boxes(pixels: Pixels) -> Iterator[str]:
    for box, members in pixels.plan.boxes.items():
        x, y, width = pixels.centres[box], pixels.top(box), pixels.widths[box]
        numbers = sum(math.prod(s) for p in members for s in p.operation.parameter_shapes(p.in_shapes).values())
        hint = "\n".join(f"{p.path}: {p.operation}" for p in members) + (f"\n{numbers:,} parameters" if numbers else "")
        yield f"<g><title>{_escaped(hint or 'what the network returns')}</title>"
        yield (
            f'<rect class="{family(members)}" x="{x - width / 2:.1f}" y="{y:.1f}" width="{width:.1f}" '
            f'height="{HEIGHT:.0f}" rx="{7 if members and members[0].inputs else HEIGHT / 2:.0f}"/>'
        )
        yield f'<text x="{x:.1f}" y="{y + (17 if members else 24):.1f}">{_escaped(label(members))}</text>'
        if members:
            yield f'<text class="shape" x="{x:.1f}" y="{y + 31:.1f}">{extent(members[-1])}</text>'
        yield "</g>"


def _edges(pixels: Pixels) -> Iterator[str]:
    into: dict[str, list[str]] = {}
    for source, target in pixels.plan.edges:
        into.setdefault(target, []).append(source)
    for target, sources in into.items():
        sources.sort(key=partial(_arrival, pixels, target))
        for place, source in enumerate(sources):
            room = min(PORT, (pixels.widths[target] - 24) / len(sources))
            x = pixels.centres[target] + (place - (len(sources) - 1) / 2) * room
            yield f'<path class="edge" marker-end="url(#genome-tip)" d="{_path(pixels, source, target, x)}"/>'
            if (times := pixels.plan.edges[source, target]) > 1:
                yield f'<text class="shape" x="{x + 15:.1f}" y="{pixels.top(target) - 6:.1f}">{times}×</text>'


def _arrival(pixels: Pixels, target: str, source: str) -> float:
    """Returns the x from which an edge comes down to its target."""
    return pixels.lanes[source] if _is_long(pixels.plan, source, target) else pixels.centres[source]


def _is_long(plan: Layout, source: str, target: str) -> bool:
    return plan.layers[target] > plan.layers[source] + 1


def _path(pixels: Pixels, source: str, target: str, end: float) -> str:
    """Returns a curve through the gap between two layers, or through two gaps and the lane between them."""
    start, first, last = pixels.centres[source], pixels.top(source) + HEIGHT, pixels.top(target)
    if not _is_long(pixels.plan, source, target):
        return f"M{start:.1f} {first:.1f}{_curve(first, end, last, start)}"
    lane, below = pixels.lanes[source], pixels.tops[pixels.plan.layers[source] + 1]
    above = pixels.tops[pixels.plan.layers[target] - 1] + HEIGHT
    return f"M{start:.1f} {first:.1f}{_curve(first, lane, below, start)}V{above:.1f}{_curve(above, end, last, lane)}"


def _curve(top: float, x: float, bottom: float, start: float) -> str:
    middle = (top + bottom) / 2
    return f"C{start:.1f} {middle:.1f} {x:.1f} {middle:.1f} {x:.1f} {bottom:.1f}"


def _escaped(text: str) -> str:
    """Returns text for XML, without the control characters that XML has no form for."""
    return html.escape(re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text))
