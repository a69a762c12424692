"""Stable names: the same structural edit gives a new node the same id in every lineage, with no counter to share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache

from genomes import Module
from genomes.operations import Operation

_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def stable_id(rule: str, parents: Sequence[str], parameters: Operation, ordinal: int = 0) -> str:
    """Returns the id `kind_xxxxxxxx` of a new node.

    Args:
        rule: the edit that makes the node.
        parents: ids of the nodes that it is made from or placed behind.
        parameters: the node's operation with its fields.
        ordinal: tells apart nodes that agree in all of this.
    """
    return (
        f"{parameters.kind}_{_hashed(f'[{_json(rule)},{_json(list(parents))},{_fields(parameters.text)},{ordinal}]')}"
    )


@lru_cache(maxsize=4096)
def _fields(text: tuple[str, str]) -> str:
    """Returns the fields of an operation as JSON, given its own text (`Operation.text`)."""
    fields: dict[str, object] = json.loads('""'.join(text))
    return _json({name: value for name, value in fields.items() if name not in ("id", "op")})


def new_id(module: Module, rule: str, parents: Sequence[str], parameters: Operation, ordinal: int = 0) -> str:
    """Returns the stable id of the first ordinal, counted from `ordinal`, that `module` does not use yet."""
    while (name := stable_id(rule, parents, parameters, ordinal)) in module.operations:
        ordinal += 1
    return name


def new_ids(module: Module, rule: str, parents: Sequence[str], operations: Sequence[Operation]) -> list[str]:
    """Returns stable ids, all different, for several new nodes; their ordinals are counted from their places."""
    found: list[str] = []
    for ordinal, operation in enumerate(operations):
        while (name := stable_id(rule, parents, operation, ordinal)) in module.operations or name in found:
            ordinal += 1
        found.append(name)
    return found


def short_hash(*parts: object) -> str:
    """Returns eight hexadecimal digits of the SHA-256 of JSON values."""
    return _hashed(_json(parts))


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def derived_seed(seed: int, name: str) -> int:
    """Returns a seed of 48 bits for the tensor or the purpose called `name`."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:6], "big")
