"""Edit: any genome change as a record of the child genome and of how its tensors are made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from genomes import Genome, InvalidGenome
from morphism import tensors as expressions
from morphism.errors import Inapplicable
from morphism.tensors import TensorExpr

Site = Mapping[str, Any]
Modes = frozenset[str]
EXACT: Modes = frozenset({"eval", "train"})  # the function is kept in both modes
INEXACT: Modes = frozenset()  # a disruption: no promise


@dataclass(frozen=True)
class Edit:
    """One change of a genome.

    Attributes:
        rule: the name of the morphism or disruption, such as `widen.split`.
        site: where, in words of JSON values (module, node, …); with `rule` it is what people read.
        genome: the child.
        tensors: an expression for each child tensor that is not the parent's tensor of the same name.
        modes: the modes in which the function is preserved; empty for a disruption.
        zeros: what must be zero in the parent's weights for that, such as the ring that a crop takes away.
    """

    rule: str
    site: Site
    genome: Genome
    tensors: Mapping[str, TensorExpr] = field(default_factory=dict)
    modes: Modes = INEXACT
    zeros: tuple[TensorExpr, ...] = ()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.text(self.genome.to_json().decode()).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Returns the edit as JSON values."""
        values: dict[str, Any] = json.loads(self.text(self.genome.to_json().decode()))
        return values

    def text(self, genome: str) -> str:
        """Returns the canonical JSON, with this JSON in the genome's place: its own, or what stands for it."""
        return f'{{"genome":{genome},{self._rest[1:]}'  # the first key in the alphabet

    @cached_property
    def _rest(self) -> str:
        """The canonical JSON of all but the genome."""
        values = {
            "rule": self.rule,
            "site": dict(self.site),
            "tensors": {name: expressions.to_json(self.tensors[name]) for name in sorted(self.tensors)},
            "modes": sorted(self.modes),
            "zeros": [expressions.to_json(value) for value in self.zeros],
        }
        return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, document: Any) -> Edit:
        """Reads what `to_json` wrote.

        Raises:
            Inapplicable: a key is missing or unknown, or a value is not what it should be.
        """
        expected = {"rule", "site", "genome", "tensors", "modes", "zeros"}
        if not isinstance(document, dict) or set(document) != expected:
            raise Inapplicable(f"an edit must have exactly the keys {sorted(expected)}, got {str(document)[:80]}")
        rule, site, modes = document["rule"], document["site"], document["modes"]
        if not isinstance(rule, str) or not isinstance(site, dict) or not isinstance(document["tensors"], dict):
            raise Inapplicable(f"an edit needs a rule's name, a site and tensors, got {str(document)[:80]}")
        if not isinstance(modes, list) or not all(isinstance(mode, str) and mode in EXACT for mode in modes):
            raise Inapplicable(f"an edit's modes must be among {sorted(EXACT)}, got {str(modes)[:80]}")
        made = {name: expressions.from_json(value, name) for name, value in document["tensors"].items()}
        if not isinstance(document["zeros"], list):
            raise Inapplicable(f"an edit's zeros must be a list, got {str(document['zeros'])[:80]}")
        zeros = tuple(expressions.from_json(value, "zeros") for value in document["zeros"])
        return cls(rule, site, _genome(document["genome"]), made, frozenset(modes), zeros)


def place(rule: str, site: Site) -> str:
    """Returns one word for a rule and a site, as a key of tables."""
    return f"{rule} {json.dumps(dict(site), sort_keys=True)}"


def _genome(document: Any) -> Genome:
    try:
        return Genome.from_json(json.dumps(document).encode())
    except InvalidGenome as error:
        raise Inapplicable(f"an edit's genome is not valid: {error}") from None
