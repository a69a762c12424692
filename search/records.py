"""Records: candidates and evaluations as JSON, both ways."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from genomes import Genome, InvalidGenome, fingerprint
from morphism import Certificate, Edit
from morphism.tensors import from_json
from search.protocol import Candidate, Evaluation, Fidelity

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def dump(value: Any) -> str:
    """Returns canonical JSON: sorted, no spaces, no NaN."""
    return _CANONICAL.encode(value)


def identity(candidate: Candidate) -> str:
    """Returns a hash of all that a candidate is."""
    edits = [edit.digest for edit in candidate.edits]
    trained = [asdict(candidate.fidelity), candidate.promotes]
    fields = [candidate.number, candidate.genome.digest, candidate.parents, edits, *trained]
    return hashlib.sha256(dump(fields).encode()).hexdigest()


def twin_key(candidate: Candidate, parent: Evaluation | None) -> str:
    """Returns the key under which two candidates are the same evaluation: function, fidelity and lineage age."""
    age = parent.cost.get("lineage_examples", 0.0) if parent else 0.0
    rest = [fidelity_json(candidate), age]
    try:
        function = fingerprint(candidate.genome)
    except InvalidGenome:  # the evaluator will say what is wrong with it
        function, rest = "", [candidate.genome.digest, *rest]
    return f"{function}-{hashlib.sha256(dump(rest).encode()).hexdigest()[:16]}"


def function(key: str) -> str:
    """Returns the fingerprint in a twin key; empty if there is none, as in keys of early versions."""
    found, dash, _ = key.partition("-")
    return found if dash else ""


def genomes(candidate: Candidate) -> dict[str, str]:
    """Returns the JSON of a candidate's genome and of those that its edits pass through, by digest."""
    passed = (candidate.genome, *(edit.genome for edit in candidate.edits))
    return {genome.digest: genome.to_json().decode() for genome in passed}


def edits_json(candidate: Candidate) -> str:
    """Returns a candidate's edits as JSON, with digests for genomes."""
    return f"[{','.join(edit.text(dump(edit.genome.digest)) for edit in candidate.edits)}]"


def fidelity_json(candidate: Candidate) -> str:
    """Returns a candidate's fidelity as JSON."""
    return dump(asdict(candidate.fidelity))


def edits(text: str, known: Mapping[str, Genome]) -> tuple[Edit, ...]:
    """Reads what `edits_json` wrote, given the genomes by digest."""
    return tuple(
        Edit(
            document["rule"],
            document["site"],
            known[document["genome"]],
            {name: from_json(value, name) for name, value in document["tensors"].items()},
            frozenset(document["modes"]),
            tuple(from_json(value, "zeros") for value in document["zeros"]),
        )
        for document in json.loads(text)
    )


def fidelity(text: str) -> Fidelity:
    """Reads what `fidelity_json` wrote."""
    return Fidelity(**json.loads(text))


def evaluation_json(evaluation: Evaluation) -> str:
    """Returns an evaluation as JSON.

    Raises:
        ValueError: a number in it is not finite.
    """
    certificates = [certificate.to_json() for certificate in evaluation.certificates]
    texts = ("number", "status", "weights", "reason", "twin", "initial", "slot")
    facts = {name: getattr(evaluation, name) for name in texts}
    names = ("objectives", "cost", "gradients", "machine", "features")
    mappings = {name: dict(getattr(evaluation, name)) for name in names}
    return dump({**facts, **mappings, "curve": [dict(p) for p in evaluation.curve], "certificates": certificates})


def evaluation(record: str) -> Evaluation:
    """Reads an evaluation from its JSON."""
    document: Mapping[str, Any] = json.loads(record)
    certificates = tuple(Certificate.from_json(entry) for entry in document["certificates"])
    return Evaluation(**{**document, "curve": tuple(document["curve"]), "certificates": certificates})


def candidate_json(candidate: Candidate) -> str:
    """Returns all that a candidate is as JSON, for whoever has no ledger."""
    return dump(
        {
            "number": candidate.number,
            "genome": candidate.genome.digest,
            "genomes": genomes(candidate),
            "parents": candidate.parents,
            "edits": edits_json(candidate),
            "fidelity": asdict(candidate.fidelity),
            "promotes": candidate.promotes,
        }
    )


def candidate(record: str) -> Candidate:
    """Reads what `candidate_json` wrote.

    Raises:
        InvalidGenome: one of its genomes is none.
    """
    document: Mapping[str, Any] = json.loads(record)
    known = {digest: Genome.from_json(text.encode()) for digest, text in document["genomes"].items()}
    return Candidate(
        document["number"],
        known[document["genome"]],
        tuple(document["parents"]),
        edits(document["edits"], known),
        Fidelity(**document["fidelity"]),
        document["promotes"],
    )
