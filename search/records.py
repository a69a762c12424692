"""Records: candidates and evaluations as JSON, both ways."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from genomes import Genome
from morphism import Certificate, Edit
from search.protocol import Candidate, Evaluation, Fidelity


def dump(value: Any) -> str:
    """Returns canonical JSON: sorted, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def edits_json(candidate: Candidate) -> str:
    """Returns a candidate's edits as JSON."""
    return dump([edit.to_json() for edit in candidate.edits])


def fidelity_json(candidate: Candidate) -> str:
    """Returns a candidate's fidelity as JSON."""
    return dump(asdict(candidate.fidelity))


def candidate(number: int, genome: str, parents: tuple[int, ...], edits: str, fidelity: str) -> Candidate:
    """Reads a candidate from the ledger's columns."""
    return Candidate(
        number,
        Genome.from_json(genome.encode()),
        parents,
        tuple(Edit.from_json(edit) for edit in json.loads(edits)),
        Fidelity(**json.loads(fidelity)),
    )


def evaluation_json(evaluation: Evaluation) -> str:
    """Returns an evaluation as JSON.

    Raises:
        ValueError: a number in it is not finite.
    """
    certificates = [certificate.to_json() for certificate in evaluation.certificates]
    facts = {name: getattr(evaluation, name) for name in ("number", "status", "weights", "reason", "twin")}
    numbers = {name: dict(getattr(evaluation, name)) for name in ("objectives", "cost")}
    return dump({**facts, **numbers, "curve": [dict(p) for p in evaluation.curve], "certificates": certificates})


def evaluation(record: str) -> Evaluation:
    """Reads an evaluation from its JSON."""
    document: Mapping[str, Any] = json.loads(record)
    certificates = tuple(Certificate.from_json(entry) for entry in document["certificates"])
    return Evaluation(**{**document, "curve": tuple(document["curve"]), "certificates": certificates})
