"""Prunes channels that are known only when weights are: those whose batch norm has the smallest weights.

The child's genome depends on how many go, its tensors on which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

from genomes import Expansion, Genome, Primitive, expand
from genomes.operations import BatchNorm, Conv, Linear, Slice
from morphism.channels import ChannelMap, Entry, Symbol, channels, depthwise, grouped
from morphism.errors import Inapplicable
from morphism.rewire import rewire
from morphism.tensors import Ranked, Source, TensorExpr


@lru_cache(maxsize=64)
def rankable(genome: Genome) -> Mapping[tuple[Symbol, ...], Sequence[str]]:
    """Returns sets of channels that can be ranked, with the batch norms that read exactly these, in their order.

    Left out are channels that are frozen, that lie in groups, slices or norms over channels, or that occur somewhere
    without the others of their set: there it would matter which ones go.
    """
    expansion, table = expand(genome), channels(genome)
    fixed, found = _fixed(expansion, table), dict[tuple[Symbol, ...], list[str]]()
    for path, primitive in expansion.primitives.items():
        entries = table.entries[path]
        if isinstance(primitive.operation, BatchNorm) and all(entry.block == 1 for entry in entries):
            found.setdefault(tuple(entry.symbol for entry in entries), []).append(path)
    return {s: norms for s, norms in found.items() if not fixed & set(s) and _together(frozenset(s), table)}


def ranked(genome: Genome, symbols: Sequence[Symbol], keep: int) -> tuple[Genome, dict[str, TensorExpr]]:
    """Returns the genome with `keep` of these channels, and tensors that keep those of the largest |γ|.

    A call whose channels meet no other call's ranks them by a norm of its own; else all rank by the first norm.

    Raises:
        Inapplicable: the channels cannot be ranked, or none would be left.
    """
    norms = rankable(genome).get(tuple(symbols))
    if not norms or not 1 <= keep < len(symbols):
        raise Inapplicable(f"a ranking needs channels that one batch norm reads and keeps some, got {keep} to be kept")
    expansion, table = expand(genome), channels(genome)
    child, pruned = rewire(genome, dict.fromkeys(symbols[keep:], ()))
    members, judges = {symbol: n for n, symbol in enumerate(symbols)}, _judges(expansion, table, symbols, norms)
    tensors: dict[str, TensorExpr] = {}
    for name in pruned:
        tensors[name] = Source(name)
        path, _, parameter = name.rpartition(".")
        for axis, entries in _axes(expansion, table, expansion.primitives[path], parameter):
            index = tuple(members.get(entry.symbol, -1) for entry in entries for _ in range(entry.block))
            if max(index) >= 0:
                tensors[name] = Ranked(tensors[name], axis, index, Source(f"{judges[path]}.weight"), keep)
    return child, tensors


def _fixed(expansion: Expansion, table: ChannelMap) -> set[Symbol]:
    cut = [p.inputs[0] for p in expansion.primitives.values() if isinstance(p.operation, Slice)]
    placed = [*cut, *(path for path, _ in grouped(expansion))]
    return {*table.frozen, *(s for path in placed for s, _ in table.entries[path])}.union(*table.coupled)


def _together(symbols: frozenset[Symbol], table: ChannelMap) -> bool:
    """Says whether every value has as much of each of these channels as of any other."""
    for entries in table.lists:
        counts = Counter[Symbol]()
        for symbol, block in entries:
            if symbol in symbols:
                counts[symbol] += block
        if counts and (len(counts) < len(symbols) or len({*counts.values()}) > 1):
            return False
    return True


def _judges(
    expansion: Expansion, table: ChannelMap, symbols: Sequence[Symbol], norms: Sequence[str]
) -> Mapping[str, str]:
    """Returns, by path, the norm whose weights rank the channels there."""
    chosen = frozenset(symbols)
    met = {id(entries) for entries in table.lists if not chosen.isdisjoint([symbol for symbol, _ in entries])}
    touched = {path for path, entries in table.entries.items() if id(entries) in met}
    calls = {norm: norm[: -len(expansion.primitives[norm].id)] for norm in norms}
    own = {path: next((n for n in norms if path.startswith(calls[n])), "") for path in expansion.primitives}
    for path, primitive in expansion.primitives.items():
        ends = touched & {path, *primitive.inputs}
        if ends and (not own[path] or {own[other] for other in ends} != {own[path]}):
            return dict.fromkeys(own, norms[0])
    return own


def _axes(
    expansion: Expansion, table: ChannelMap, primitive: Primitive, parameter: str
) -> list[tuple[int, Sequence[Entry]]]:
    """Returns the axes of a tensor that stand for channels, with these channels."""
    axes: list[tuple[int, Sequence[Entry]]] = [(0, table.entries[primitive.path])]
    mixes = isinstance(primitive.operation, (Conv, Linear)) and parameter == "weight"
    if mixes and not depthwise(expansion, primitive.module, primitive.id):
        axes.append((1, table.entries[primitive.inputs[0]]))
    return axes
