"""Reads untrusted JSON into typed parts; every fault is an InvalidGenome that names its place."""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from functools import lru_cache
from itertools import accumulate
from typing import Any

from genomes.errors import InvalidGenome
from genomes.operations import MAX_EXTENT, OPERATIONS, Operation

MAX_BYTES = 256 * 1024
MAX_NESTING = 64
MAX_MODULES = 256
MAX_NODES = 256
MAX_EDGES = 1024
MAX_NAME = 48
IDENTIFIER = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")  # no double underscore: exported attributes join names by it


def document(data: bytes) -> Mapping[str, Any]:
    """Returns the JSON object in `data`, read strictly: no duplicate keys, no NaN, bounded size and nesting."""
    if len(data) > MAX_BYTES:
        raise InvalidGenome(f"genome JSON must be at most {MAX_BYTES} bytes, got {len(data)}")
    try:
        text = data.decode()
        if _nesting(text) > MAX_NESTING:
            raise InvalidGenome(f"genome JSON must nest at most {MAX_NESTING} deep")
        return mapping(
            json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite), "genome"
        )
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidGenome(f"genome must be UTF-8 JSON: {error}") from None
    except ValueError as error:  # an integer of more digits than Python converts
        raise error if isinstance(error, InvalidGenome) else InvalidGenome(f"genome JSON: {error}") from None


def module(content: Any, place: str) -> tuple[dict[str, Operation], list[tuple[str, str, int]]]:
    """Returns the nodes and edges of one module."""
    keys(mapping(content, place), {"nodes", "edges"}, place)
    nodes, edges = sequence(content["nodes"], place, MAX_NODES), sequence(content["edges"], place, MAX_EDGES)
    table: dict[str, Operation] = {}
    for entry in nodes:
        name = identifier(mapping(entry, place).get("id"), f"{place}: id")
        if name in table:
            raise InvalidGenome(f"{place}: node id {name} must be unique")
        table[name] = operation(entry, f"{place}: node {name}")
    return table, [edge(entry, table, place) for entry in edges]


def operation(entry: Mapping[str, Any], place: str) -> Operation:
    """Returns the operation that a node's entry describes; the same object wherever the same is written."""
    try:
        return _operation_of(json.dumps({name: value for name, value in entry.items() if name != "id"}))
    except InvalidGenome:
        return _operation(entry, place)  # says what is wrong, and where


@lru_cache(maxsize=4096)
def _operation_of(text: str) -> Operation:
    """Returns the operation of an entry without its id; by its text, since as values 0, 0.0 and false are equal."""
    return _operation(json.loads(text), "node")


def _operation(entry: Mapping[str, Any], place: str) -> Operation:
    kind = entry.get("op")
    if not isinstance(kind, str) or kind not in OPERATIONS:
        raise InvalidGenome(f"{place}: op must be one of {', '.join(OPERATIONS)}, got {_short(kind)}")
    declared = {field.name: field for field in fields(OPERATIONS[kind])}
    if unknown := sorted(set(entry) - set(declared) - {"id", "op"}):
        raise InvalidGenome(f"{place}: {kind} has no field {_short(', '.join(unknown))}")
    required = {name for name, field in declared.items() if field.default is MISSING}
    if missing := sorted(required - set(entry)):
        raise InvalidGenome(f"{place}: {kind} needs {', '.join(missing)}")
    return OPERATIONS[kind](**{n: _value(entry[n], f, f"{place}: {n}") for n, f in declared.items() if n in entry})


def edge(entry: Any, nodes: Mapping[str, Operation], place: str) -> tuple[str, str, int]:
    """Returns `(source, target, port)` between nodes that exist."""
    source, target, port = sequence(entry, f"{place}: edge", 3, exactly=True)
    for end in (source, target):
        if not isinstance(end, str) or end not in nodes:
            raise InvalidGenome(f"{place}: edge {_short(entry)} must join nodes of the module, got {_short(end)}")
    return source, target, integer(port, 0, MAX_EDGES, f"{place}: port of edge {source} -> {target}")


@lru_cache(maxsize=4096)
def reproduced(text: tuple[str, str]) -> bool:
    """Says whether reading an operation's JSON (`Operation.text`) brings back the very same JSON."""
    try:
        return operation(json.loads(f'{text[0]}"x"{text[1]}'), "node").text == text
    except InvalidGenome:
        return False


def keys(content: Mapping[str, Any], expected: set[str], place: str) -> None:
    """Refuses a missing or an unknown key."""
    if set(content) != expected:
        raise InvalidGenome(f"{place} must have exactly the keys {sorted(expected)}, got {_short(sorted(content))}")


def mapping(value: Any, place: str) -> Mapping[str, Any]:
    """Returns a JSON object."""
    if not isinstance(value, dict):
        raise InvalidGenome(f"{place} must be an object, got {type(value).__name__}")
    if len(value) > MAX_MODULES:
        raise InvalidGenome(f"{place} must have at most {MAX_MODULES} entries, got {len(value)}")
    return value


def sequence(value: Any, place: str, limit: int, *, exactly: bool = False) -> Sequence[Any]:
    """Returns a JSON array of at most (or exactly) `limit` entries."""
    if not isinstance(value, list) or len(value) > limit or (exactly and len(value) != limit):
        bound = "exactly" if exactly else "at most"
        raise InvalidGenome(f"{place} must be an array of {bound} {limit} entries, got {_short(value)}")
    return value


def identifier(value: Any, place: str) -> str:
    """Returns a name made of small letters, digits and underscores."""
    if not isinstance(value, str) or not _spelled(value):
        raise InvalidGenome(
            f"{place} must be at most {MAX_NAME} small letters, digits and single underscores, got {_short(value)}"
        )
    return value


@lru_cache(maxsize=4096)
def _spelled(name: str) -> bool:
    return len(name) <= MAX_NAME and IDENTIFIER.fullmatch(name) is not None


def integer(value: Any, low: int, high: int, place: str) -> int:
    """Returns an integer of a range, both ends included."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidGenome(f"{place} must be an integer in [{low}, {high}], got {_short(value)}")
    return value


def _value(value: Any, field: Field[Any], place: str) -> Any:
    low, high = field.metadata.get("low", 0), field.metadata.get("high", 0)
    match field.type:
        case "int":
            return integer(value, low, high, place)
        case "bool":
            if not isinstance(value, bool):
                raise InvalidGenome(f"{place} must be true or false, got {_short(value)}")
            return value
        case "float":
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise InvalidGenome(f"{place} must be a number in [{low}, {high}], got {_short(value)}")
            return float(value) + 0.0  # no -0.0: it equals 0.0, but its bytes do not
        case "Shape":
            return tuple(integer(extent, 1, MAX_EXTENT, place) for extent in sequence(value, place, 3))
        case _:
            return identifier(value, place)


def _short(value: Any) -> str:
    return reprlib.repr(value)


def _nesting(text: str) -> int:
    brackets = re.sub(r'(?s)"(?:[^"\\]|\\.)*+"?|[^][{}"]++', "", text)  # possessive: linear on any text
    return max(accumulate((1 if bracket in "[{" else -1 for bracket in brackets), initial=0))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise InvalidGenome(f"keys must be unique, got {_short(twice)} twice")
    return table


def _refuse(constant: str) -> Any:
    raise InvalidGenome(f"numbers must be finite, got {constant}")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise InvalidGenome(f"numbers must be finite, got {text[:60]}")
    return number
