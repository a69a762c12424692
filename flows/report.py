"""Report: what a ledger says, as numbers, words, tables and pictures, for the terminal and for MLflow alike."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from evo import Judging, judged
from flows.home import BadInput
from flows.lineage import page
from genomes import InvalidGenome
from genomes.drawing import draw
from morphism import Certificate
from search import Candidate, Evaluation, Ledger

AXES = ("error", "parameters")  # of the front, if the strategy has fewer than two objectives
CHARACTERS = 4000  # of a tag; MLflow keeps 8000 bytes
LABEL_DISTANCE = 1.25  # as a factor of what is drawn across


def edits(candidate: Candidate) -> str:
    """Returns in a few words how a candidate differs from its first parent, or whose promotion it is."""
    if candidate.promotes is not None:
        return f"{candidate.promotes} promoted to {candidate.fidelity.examples:,} examples"
    if candidate.control:
        return "no-op control"
    return " + ".join(edit.rule for edit in candidate.edits) or "founder"


def descent(candidate: Candidate) -> str:
    """Returns the candidate's parents and its edits, or whose promotion it is."""
    if candidate.promotes is not None or not candidate.parents:
        return edits(candidate)
    return f"{', '.join(map(str, candidate.parents))}: {edits(candidate)}"


def best(ledger: Ledger) -> Evaluation | None:
    """Returns the evaluation with the least error; ties go to fewer parameters, then to the earlier one."""
    good = [evaluation for evaluation in ledger.evaluations().values() if evaluation.ok]
    return min(good, key=lambda e: (e.objectives["error"], e.objectives["parameters"], e.number), default=None)


def chosen(ledger: Ledger, name: str, number: int | None) -> int:
    """Returns the number that the user named, or that of the best candidate.

    Raises:
        SearchMissing: there is no candidate of this number.
        BadInput: none is named, and none is evaluated yet.
    """
    if number is not None:
        return ledger.candidate(number).number
    if found := best(ledger):
        return found.number
    raise BadInput(f"search {name} has no evaluated candidate yet: name one, or wait")


def front(ledger: Ledger) -> list[Evaluation]:
    """Returns the evaluations that no other beats in all objectives of the search, smallest network first."""
    return sorted(ledger.front(axes(ledger)), key=lambda e: (e.objectives["parameters"], e.number))


def axes(ledger: Ledger) -> tuple[str, ...]:
    """Returns the objectives that a search's front is of: those of NSGA-II; otherwise error and parameters."""
    chosen = ledger.config.get("strategy", {})
    names = () if chosen.get("kind") == "aging" else tuple(chosen.get("nsga2", {}).get("objectives", ()))
    return names if len(names) > 1 else AXES


def beside_error(names: Sequence[str]) -> str:
    """Returns the objective that a front of these is drawn against, beside the error: the first other one."""
    return next((name for name in names if name != "error"), "parameters")


def judgements(ledger: Ledger) -> dict[int, float]:
    """Returns the error that each success is taken to have, by number, with all that is known by now.

    Empty for a search that goes by the measured error: there is nothing to add.
    """
    kind: Judging = ledger.config.get("strategy", {}).get("judgement", "raw")
    return {} if kind == "raw" else judged(kind, ledger.evaluations().values())


def proofs(certificates: Iterable[Certificate]) -> dict[str, float]:
    """Returns what certificates of morphisms say, as metrics; nothing for disruptions, which promise nothing.

    `certificate/eval` and `certificate/train` are the largest errors in the modes that are claimed,
    `certificate/proved` is the share of the claims that are proven statically too.
    """
    claims = [(certificate, mode) for certificate in certificates for mode in certificate.modes]
    if not claims:
        return {}
    worst = {m: max(c.errors[m] for c, mode in claims if mode == m) for m in sorted({mode for _, mode in claims})}
    proved = sum(mode in certificate.proved for certificate, mode in claims) / len(claims)
    return {"certificate/proved": proved, **{f"certificate/{mode}": error for mode, error in worst.items()}}


def _seen(evaluation: Evaluation, judgements: Mapping[int, float]) -> dict[str, float]:
    return {"judged_error": judgements[evaluation.number]} if evaluation.number in judgements else {}


def tags(name: str, candidate: Candidate, evaluation: Evaluation) -> dict[str, str]:
    """Returns the MLflow tags of a child run."""
    told = {
        "kind": "child",
        "search": name,
        "number": str(candidate.number),
        "parents": json.dumps(candidate.parents),
        "edits": edits(candidate),
        "status": evaluation.status,
        "genome": candidate.genome.digest,
        "certified": "yes" if all(c.verdict for c in evaluation.certificates) else "no",
    }
    told |= {"reason": evaluation.reason} if evaluation.reason else {}
    told |= {"twin": str(evaluation.twin)} if evaluation.twin is not None else {}
    told |= {"promotes": str(candidate.promotes)} if candidate.promotes is not None else {}
    told |= {"machine": json.dumps(evaluation.machine)} if evaluation.machine else {}
    return {f"morphogen.{key}": value[:CHARACTERS] for key, value in told.items()}


def child_files(candidate: Candidate, evaluation: Evaluation) -> dict[str, str]:
    """Returns the artifacts of a child run by file name; a genome that cannot be built has no picture."""
    certificates = [certificate.to_json() for certificate in evaluation.certificates]
    changes = [{"rule": edit.rule, "site": dict(edit.site), "modes": sorted(edit.modes)} for edit in candidate.edits]
    told = {
        "genome.json": candidate.genome.to_json().decode(),
        "edits.json": json.dumps(changes, indent=1),
        "certificates.json": json.dumps(certificates, indent=1),
    }
    with suppress(InvalidGenome):
        told["architecture.svg"] = draw(candidate.genome, f"candidate {candidate.number}")
    return told


def artifacts(ledger: Ledger, name: str, directory: Path, place: str = "") -> dict[str, float]:
    """Writes the search run's artifacts into a directory and returns its metrics.

    Args:
        ledger: of the search.
        name: of the search.
        directory: to write into.
        place: the address to which a run's id is added to look at it; empty if it is not known.
    """
    evaluations = ledger.evaluations()  # before the candidates, which may grow meanwhile
    candidates, spent = ledger.candidates(), ledger.spent()
    best_ones = front(ledger)
    runs, axis = ledger.external_ids(evaluations), beside_error(axes(ledger))
    (directory / "lineage.html").write_text(page(name, candidates, evaluations, runs=runs, place=place, axis=axis))
    seen = judgements(ledger)
    rows = [{"number": e.number, **e.objectives, **e.cost, **_seen(e, seen)} for e in best_ones]
    (directory / "front.json").write_text(json.dumps(rows, indent=1))
    draw_front(evaluations, best_ones, directory / "front.png", axes(ledger))
    winner = best(ledger)
    certificates = [certificate for evaluation in evaluations.values() for certificate in evaluation.certificates]
    return {
        "evaluations": spent.evaluations,
        "failures": spent.failures,
        "seconds": spent.elapsed_seconds,
        "examples": spent.examples,
        "certified": sum(certificate.verdict for certificate in certificates if certificate.modes),
        **proofs(certificates),
        **({"best_error": winner.objectives["error"]} if winner else {}),
    }


def draw_front(
    evaluations: Mapping[int, Evaluation], best_ones: Sequence[Evaluation], file: Path, names: Sequence[str] = AXES
) -> None:
    """Draws error against another objective into a picture file, with the Pareto front, as steps if it is of these."""
    from matplotlib.figure import Figure  # half a second, and only this needs it

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    across = beside_error(names)
    best_ones = sorted(best_ones, key=lambda e: (e.objectives[across], -e.objectives["error"]))
    points = [e.objectives for e in evaluations.values() if e.ok]
    chosen = [e.objectives for e in best_ones]
    axes.scatter([p[across] for p in points], [p["error"] for p in points], s=18, c="#9aa5b1", label="candidates")
    axes.step(
        [p[across] for p in chosen],
        [p["error"] for p in chosen],
        where="post",
        linestyle="solid" if set(names) == {"error", across} else "none",
        c="#d9480f",
        marker="o",
        label="Pareto front",
    )
    for one in _apart(best_ones, across):
        place = (one.objectives[across], one.objectives["error"])
        axes.annotate(str(one.number), place, xytext=(5, 5), textcoords="offset points")
    axes.set(xlabel=across.replace("_", " "), ylabel="validation error", xscale="log")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right")  # where a front leaves room; to look for it is slow
    figure.savefig(file, dpi=120)


def _apart(best_ones: Sequence[Evaluation], across: str) -> list[Evaluation]:
    """Returns those whose labels do not cover each other, from the best one on."""
    kept: list[Evaluation] = []
    for one in reversed(best_ones):
        if not kept or kept[-1].objectives[across] > LABEL_DISTANCE * one.objectives[across]:
            kept.append(one)
    return kept
