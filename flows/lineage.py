"""Lineage: the family tree of a search as one self-contained HTML page.

The page makes no request and holds no outward link: it opens from a file, and in MLflow's sandboxed frame. What every
view needs is plain JSON; what is seen only of a selected candidate (edits, curve, picture) is deflated in blocks, which
keeps thousands of candidates below 5 MB and lets the page open before it has unpacked them.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from itertools import chain, zip_longest
from typing import Any

from flows.payoff import Payoff, controls, gains, payoffs
from genomes import Genome, InvalidGenome
from morphism import Certificate, Edit
from search import Candidate, Evaluation

SCRIPTS = (
    "data",
    "look",
    "layout",
    "graph",
    "nodes",
    "labels",
    "replay",
    "pointer",
    "chart",
    "costs",
    "runs",
    "panel",
    "compare",
    "table",
    "edits",
    "main",
)  # in the order of their needs
BLOCK = 64  # candidates whose details are unpacked together
SHEET = 16  # pictures that are unpacked together; neighbours are alike, so they deflate well
PICTURES = 1000  # at most, since drawing takes time
CHARACTERS = 4_500_000  # of the page, beyond which no picture is added
CURVE_POINTS = 48  # of a learning curve, at most; a chart a few hundred pixels wide shows no more

OBJECTIVES = ("error", "parameters", "macs")
COSTS = ("seconds", "examples", "lineage_seconds", "lineage_examples")

Draw = Callable[[Genome], str]
# Controls and the marks that reorder text, which would let a name forge what stands around it.
INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def family(
    candidates: Mapping[int, Candidate],
    evaluations: Mapping[int, Evaluation],
    runs: Mapping[int, str] | None = None,
    axis: str = "parameters",
) -> dict[str, Any]:
    """Returns what the page tells of a family, as JSON values: `members` and `details`, both by rising number.

    A candidate without an evaluation has the status `pending`. Parents that are not in `candidates` are left out.

    Args:
        candidates: by number.
        evaluations: by number.
        runs: MLflow's ids of those that it shows, by number.
        axis: the objective of the front beside the error.
    """
    gained, against, known = gains(candidates, evaluations), controls(candidates, evaluations), runs or {}
    numbers = sorted(candidates)
    pairs = [(candidates[number], evaluations.get(number, Evaluation(number, "lost"))) for number in numbers]
    members = [_member(candidate, evaluation, axis) for candidate, evaluation in pairs]
    for member in members:
        member["status"] = member["status"] if member["number"] in evaluations else "pending"
        member["parents"] = [parent for parent in member["parents"] if parent in candidates]
        member["gain"], member["against"] = _short(gained.get(member["number"])), against.get(member["number"])
    details = [{**_detail(c, evaluation), "run": known.get(c.number)} for c, evaluation in pairs]
    return {"members": members, "details": details}


def page(
    title: str,
    candidates: Mapping[int, Candidate],
    evaluations: Mapping[int, Evaluation],
    draw: Draw | None = None,
    runs: Mapping[int, str] | None = None,
    place: str = "",
    axis: str = "parameters",
) -> str:
    """Returns the page as HTML in ASCII.

    Args:
        title: the search's name.
        candidates: by number.
        evaluations: by number; those that are missing are shown as pending.
        draw: makes a genome's picture, an SVG; that of `genomes.drawing` by default. The best candidate's ancestors,
            the front, the best and the newest come first; those beyond `PICTURES` or `CHARACTERS` go without.
        runs: MLflow's ids of those candidates that it shows, by number.
        place: the address to which a run's id is added to look at it; empty if it is not known.
        axis: the objective of the front beside the error.
    """
    told = family(candidates, evaluations, runs, axis)
    columns = {name: [member[name] for member in told["members"]] for name in told["members"][0]} if candidates else {}
    document = {
        "title": _visible(title),
        "place": place,
        "axis": axis,
        "columns": columns,
        "payoffs": [_worth(payoff) for payoff in payoffs(candidates, evaluations)],
        "block": BLOCK,
        "details": [_pack(block) for block in _blocks(told["details"], BLOCK)],
        "sheet": SHEET,
        "pictures": [],
    }
    room = CHARACTERS - len(_assemble(document))
    sheets, places = _pictures(candidates, _importance(told["members"], axis), draw or _default_draw(), room)
    columns["picture"] = [places.get(number) for number in sorted(candidates)]
    return _assemble({**document, "pictures": sheets})


def _member(candidate: Candidate, evaluation: Evaluation, axis: str) -> dict[str, Any]:
    return {
        "number": candidate.number,
        "status": evaluation.status,
        "parents": list(candidate.parents),
        "control": int(candidate.control),
        "promotes": candidate.promotes,
        "fidelity": candidate.fidelity.examples,
        "twin": evaluation.twin,
        "rules": [_visible(edit.rule) for edit in candidate.edits],
        **{name: _short(evaluation.objectives.get(name)) for name in dict.fromkeys((*OBJECTIVES, axis))},
        **{name: _short(evaluation.cost.get(name)) for name in COSTS},
    }


def _worth(payoff: Payoff) -> dict[str, Any]:
    ends = {name: _short(getattr(payoff, name)) for name in ("mean", "low", "high", "best")}
    return {**asdict(payoff), **ends, "rule": _visible(payoff.rule)}


def _detail(candidate: Candidate, evaluation: Evaluation) -> dict[str, Any]:
    proofs = zip_longest(candidate.edits, evaluation.certificates[: len(candidate.edits)])
    return {
        "digest": candidate.genome.digest,
        "reason": evaluation.reason,
        "objectives": {name: _short(value) for name, value in evaluation.objectives.items()},
        "cost": {name: _short(value) for name, value in evaluation.cost.items()},
        "machine": {name: _visible(value) for name, value in evaluation.machine.items()},
        "edits": [_edit(edit, certificate) for edit, certificate in proofs],
        "curve": _curve(evaluation.curve),
    }


def _edit(edit: Edit, certificate: Certificate | None) -> dict[str, Any]:
    told = {"rule": edit.rule, "site": dict(edit.site), "modes": sorted(edit.modes)}
    if certificate is None:
        return told
    errors = {mode: _short(certificate.errors.get(mode)) for mode in certificate.modes}
    return {**told, "verdict": certificate.verdict, "errors": errors, "proved": list(certificate.proved)}


def _curve(curve: Sequence[Mapping[str, float]]) -> dict[str, list[float | None]]:
    """Returns the learning curve by columns, thinned evenly; its first and last points stay."""
    last, count = len(curve) - 1, min(len(curve), CURVE_POINTS)
    points = [curve[round(i * last / max(count - 1, 1))] for i in range(count)]
    names = dict.fromkeys(chain.from_iterable(points))
    return {name: [_short(point.get(name)) for point in points] for name in names}


def _short(value: float | None) -> float | None:
    """Returns six significant digits, as an integer where it is one; None for what JSON has no number for."""
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.6g}")
    return int(value) if float(value).is_integer() else rounded


def _importance(members: Sequence[Mapping[str, Any]], axis: str) -> list[int]:
    """Returns the numbers in the order in which people will want to see pictures of them."""
    table = {member["number"]: member for member in members}
    judged = [member for member in members if member["status"] == "ok" and member["error"] is not None]
    ranked = sorted(judged, key=lambda m: (m["error"], m["parameters"] or 0, m["number"]))
    path = _ancestors(ranked[0]["number"], table) if ranked else []
    front, least = [], math.inf
    for member in ranked:
        if (member[axis] or 0) < least:
            least = member[axis] or 0
            front.append(member["number"])
    newest = (member["number"] for member in reversed(members))
    rest = chain.from_iterable(zip_longest((member["number"] for member in ranked), newest))
    return list(dict.fromkeys(number for number in chain(path, front, rest) if number is not None))


def _ancestors(number: int, table: Mapping[int, Mapping[str, Any]]) -> list[int]:
    path = [number]
    while parents := [parent for parent in table[path[-1]]["parents"][:1] if parent < path[-1]]:
        path += parents
    return path


def _default_draw() -> Draw:
    from genomes.drawing import draw  # a layout library, which the rest of this module does without

    return draw


def _pictures(
    candidates: Mapping[int, Candidate], order: Iterable[int], draw: Draw, room: int
) -> tuple[list[str], dict[int, int]]:
    """Returns the packed sheets of pictures, until `room` characters are full, and each drawn candidate's place."""
    drawn: dict[str, int] = {}
    sheets: list[str] = []
    sheet: list[str] = []
    for number in order:
        genome = candidates[number].genome
        if genome.digest in drawn or (picture := _picture(genome, draw)) is None:
            continue
        drawn[genome.digest] = len(drawn)
        sheet.append(picture)
        if len(sheet) == SHEET:
            sheets.append(_pack(sheet))
            sheet = []
        if len(drawn) >= PICTURES or sum(map(len, sheets)) >= room:
            break
    sheets += [_pack(sheet)] if sheet else []
    return sheets, {n: drawn[c.genome.digest] for n, c in candidates.items() if c.genome.digest in drawn}


def _picture(genome: Genome, draw: Draw) -> str | None:
    try:
        return draw(genome).encode("utf-8", "replace").decode()  # half a surrogate is not text for a browser
    except InvalidGenome:  # a candidate that failed because it cannot be built cannot be drawn either
        return None


def _blocks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _pack(value: Any) -> str:
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def _visible(text: str) -> str:
    """Returns `text` with what cannot be seen written as escapes."""
    return INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _assemble(document: Mapping[str, Any]) -> str:
    """Returns the template filled in one pass, so that nothing in the data is taken for a place to fill."""
    folder = files("flows") / "page"
    style = (folder / "page.css").read_text("utf-8")
    scripts = "\n".join((folder / f"{name}.js").read_text("utf-8") for name in SCRIPTS)
    script = f"(() => {{\n'use strict';\n{scripts}}})();\n"
    parts = {
        "title": html.escape(document["title"]).encode("ascii", "xmlcharrefreplace").decode(),
        "policy": _policy(script),
        "style": style,
        "script": script,
        "data": _embedded(document),
    }
    return re.sub("@@([a-z]+)@@", lambda match: parts[match[1]], (folder / "page.html").read_text("utf-8"))


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"


def _embedded(document: Mapping[str, Any]) -> str:
    """Returns JSON that an HTML parser takes for nothing but text; json.dumps has made it ASCII."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
