"""Evidence: what is known of a champion, as a page and as the files that lie beside its model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows import report
from flows.champions.champion import COUNTED, Contender, Decision
from flows.standings import spread
from search import Ledger, Retraining

HEAD = ("child", "second validation error", "seeds", "failed", "parameters", "MACs")


def page(name: str, decision: Decision, test: float | None = None) -> str:
    """Returns a decision with its evidence as Markdown.

    Args:
        name: of the search.
        decision: who is champion, and why.
        test: the challenger's test error, if the test part was read for it.
    """
    when = "until then" if decision.outcome == "promoted" else "still"
    rows = [("", decision.finalists), (f"champion {when}: ", (decision.present,) if decision.present else ())]
    table = [HEAD, ("---",) * len(HEAD), *(_row(title, one) for title, some in rows for one in some)]
    limits = ", ".join(f"{decision.limits[limit]:,} {words}" for limit, words in COUNTED.items())
    told = [
        f"# Champion of search {name}",
        f"{decision.words}.",
        "\n".join(f"| {' | '.join(row)} |" for row in table),
        f"Means ± standard deviations over the seeds of full trainings, of {decision.images} images that no "
        "selection in the search has seen. The first row is the challenger.",
        f"Constraint of the champion: at most {limits}.",
    ]
    if decision.bound is not None:
        told.append(f"To be promoted it had to be better by more than {decision.bound:.4f}: {decision.noise}.")
    if test is not None:
        told.append(f"Test error of the challenger: {test:.4f}; it had no part in the decision.")
    return "\n\n".join(told) + "\n"


def lineage(ledger: Ledger, number: int) -> list[dict[str, Any]]:
    """Returns the members of a candidate's line with their edits and certificates, as JSON values."""
    line = ledger.line(number)
    candidates, evaluations = ledger.candidates(line), ledger.evaluations(line)
    return [
        {
            "number": one,
            "parents": list(candidates[one].parents),
            "genome": candidates[one].genome.digest,
            "edits": [
                {"rule": edit.rule, "site": dict(edit.site), "modes": sorted(edit.modes)}
                for edit in candidates[one].edits
            ],
            "objectives": dict(evaluations[one].objectives),
            "certificates": [certificate.to_json() for certificate in evaluations[one].certificates],
        }
        for one in line
    ]


def certified(ledger: Ledger, number: int) -> dict[str, float]:
    """Returns how many edits a candidate's line has, and what is known of those that promise to keep the function.

    See `report.proofs` for the numbers of the proofs.
    """
    members = ledger.evaluations(ledger.line(number)).values()
    certificates = [certificate for evaluation in members for certificate in evaluation.certificates]
    exact = [certificate for certificate in certificates if certificate.modes]
    held = sum(certificate.verdict for certificate in exact)
    return {"edits": len(certificates), "exact": len(exact), "certified": held, **report.proofs(certificates)}


def write(name: str, ledger: Ledger, decision: Decision, one: Retraining, test: float | None, directory: Path) -> None:
    """Writes `evidence.md`, `evidence.json` and `lineage.json` of a champion into a directory.

    Args:
        name: of the search.
        ledger: of the search.
        decision: that made it champion.
        one: its training.
        test: its test error, if the test part was read for it.
        directory: that is there.
    """
    number, trained = one.number, {"setting": one.setting, "weights": one.evaluation.weights, "test_error": test}
    told = {"search": name, **asdict(decision), **trained, "certificates": certified(ledger, number)}
    (directory / "evidence.md").write_text(page(name, decision, test))
    (directory / "evidence.json").write_text(json.dumps(told, indent=1))
    (directory / "lineage.json").write_text(json.dumps(lineage(ledger, number), indent=1))


def _row(title: str, one: Contender) -> Sequence[str]:
    counts = (str(len(one.errors)), str(one.failures), f"{one.parameters:,}", f"{one.macs:,}")
    return (f"{title}{one.number}", spread(one.errors), *counts)
