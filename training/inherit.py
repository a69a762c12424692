"""Inheritance: the weights that a training begins with, made from those of the parents, each edit certified.

A child's first weights are a function of what `Heritage` says, of the weights it names and of the training images, so
whoever holds these can derive them again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from genomes import Genome
from morphism import Certificate, Edit
from morphism.certificate import certify
from morphism.realise import initial, realise
from morphism.tensors import Source, within
from search import Candidate, Evaluation, WeightStore
from training.errors import BuildError
from training.loop import normalised
from training.statistics import reestimate

MEASURED = 256  # training images on which the statistics of a new norm are measured


def givers(candidate: Candidate) -> tuple[int, ...]:
    """Returns the parents whose tensors a candidate takes: the first, and the second if an edit names it."""
    named = (e for edit in candidate.edits for made in edit.tensors.values() for e in within(made))
    donated = any(isinstance(e, Source) and e.donor for e in named)
    return candidate.parents if donated else candidate.parents[:1]


@dataclass(frozen=True)
class Heritage:
    """All that determines a candidate's first weights, but for the training images.

    Attributes:
        genome: the candidate's.
        edits: from the first parent's genome to it.
        parent: the digest of the first parent's weights; None for a fresh start.
        donor: that of the second parent's; None without one.
        origin: that of the weights that a founder of their very genome begins with; None for a fresh start.
        seed: of fresh weights, of the probes of certificates and of training.
    """

    genome: Genome
    edits: tuple[Edit, ...]
    parent: str | None
    donor: str | None
    origin: str | None
    seed: int

    @classmethod
    def of(
        cls, candidate: Candidate, parents: Mapping[int, Evaluation], seed: int, origin: str | None = None
    ) -> Heritage:
        """Returns the heritage of a candidate.

        Args:
            candidate: whose.
            parents: the evaluations of its parents, by number.
            seed: of the search; the candidate's own is derived from it and from its number.
            origin: the digest of the user's own network; only founders begin with it.
        """
        parent, donor, *_ = (*(parents[number].weights for number in givers(candidate)), None, None)
        own = int.from_bytes(hashlib.sha256(f"{seed}:{candidate.number}".encode()).digest()[:7], "big")
        return cls(candidate.genome, candidate.edits, parent, donor, None if candidate.parents else origin, own)

    def to_json(self) -> dict[str, Any]:
        """Returns the heritage as JSON values."""
        edits = [edit.to_json() for edit in self.edits]
        return {**vars(self), "genome": self.genome.to_json().decode(), "edits": edits}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Heritage:
        """Reads what `to_json` wrote.

        Raises:
            Inapplicable: an edit is malformed.
            InvalidGenome: the genome is.
        """
        edits = tuple(Edit.from_json(entry) for entry in document["edits"])
        return cls(**{**document, "genome": Genome.from_json(document["genome"].encode()), "edits": edits})


@dataclass(frozen=True)
class Start:
    """What training begins with.

    Attributes:
        weights: the tensors by name; some may be the parent's: clone before training.
        certificates: one for each edit.
        digest: SHA-256 of the tensors in the store's format.
    """

    weights: Mapping[str, Tensor]
    certificates: tuple[Certificate, ...]
    digest: str


def inherit(heritage: Heritage, store: WeightStore, images: Tensor, normal: tuple[float, float]) -> Start:
    """Returns the weights that training begins with, and the proofs of how they were made.

    After a disruption the statistics of batch norms are measured anew.

    Args:
        heritage: of the candidate.
        store: of the search's weights.
        images: to train on, uint8 `[M, C, H, W]`.
        normal: as in `training.loop.train`.

    Raises:
        BuildError: the weights do not fit, the edits do not lead to the genome, or a morphism failed its certificate.
        Inapplicable: an edit cannot be realised on these weights.
        CorruptWeights: weights are missing or damaged.
    """
    genome, edits = heritage.genome, heritage.edits
    weights, certificates = _handed_down(heritage, store, images, normal)
    if certificates and any(not edit.modes for edit in edits):
        weights = reestimate(genome, weights, images, normal)
    return Start(weights, certificates, WeightStore.digest(genome, weights))


def _handed_down(
    heritage: Heritage, store: WeightStore, images: Tensor, normal: tuple[float, float]
) -> tuple[dict[str, Tensor], tuple[Certificate, ...]]:
    if heritage.parent is None:
        return _founded(heritage, store), ()
    at, weights = store.get(heritage.parent)
    donor = store.get(heritage.donor)[1] if heritage.donor else None
    batch, certificates = normalised(images[:MEASURED], normal), []
    for edit in heritage.edits:
        child = realise(edit, weights, donor=donor, batch=batch)
        certificates.append(_proven(certify(at, edit, weights, child, heritage.seed, donor=donor, batch=batch)))
        weights, at = child, edit.genome
    if at != heritage.genome:
        wanted = heritage.genome.digest[:12]
        raise BuildError(f"the edits must lead to genome {wanted}, they lead to {at.digest[:12]}")
    return weights, tuple(certificates)


def _proven(certificate: Certificate) -> Certificate:
    if certificate.verdict:
        return certificate
    measured = ", ".join(f"{mode} {error:.2g}" for mode, error in certificate.errors.items()) or "no mode"
    raise BuildError(f"{certificate.rule} failed its certificate ({measured}), a bug: please report this genome")


def _founded(heritage: Heritage, store: WeightStore) -> dict[str, Tensor]:
    if heritage.origin:
        genome, weights = store.get(heritage.origin)
        if genome == heritage.genome:
            return weights
    return initial(heritage.genome, heritage.seed)
