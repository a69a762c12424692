"""Changes widths: the only code that does. What grows or shrinks is said class by class; all tensors follow.

The new channel list of each tensor is its old one with every channel replaced *in place* by its copies, so that what
is added, concatenated or flattened stays aligned by construction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from genomes import Expansion, Genome, InvalidGenome, Module, Primitive, expand
from genomes.operations import MAX_CHANNELS, Conv, Linear, Operation, Slice
from morphism.channels import ChannelMap, Entry, Symbol, channels, depthwise, grouped
from morphism.errors import Inapplicable
from morphism.names import derived_seed
from morphism.tensors import Gather, New, Share, Source, TensorExpr

Marker = Literal["old", "new", "plus", "minus"]
OLD: Marker = "old"
NEW: Marker = "new"
PLUS: Marker = "plus"
MINUS: Marker = "minus"
INDEX: Mapping[Marker, int] = {NEW: -1, PLUS: -1, MINUS: -2}
Copies = Mapping[Symbol, tuple[Marker, ...]]
ROUNDS = 64  # of the fixpoint of group balance


def rewire(
    genome: Genome, copies: Copies, seed: int = 0, share: Share = "split"
) -> tuple[Genome, dict[str, TensorExpr]]:
    """Returns the genome with other widths, and the expressions of the tensors that change.

    Each class in `copies` is replaced, wherever it occurs, by one channel for each of its markers: `OLD` is the channel
    itself, repeated `OLD`s are replicas of it, whose column in every consumer is shared between them; `NEW` is a
    channel with random rows whose column in every consumer is zero; `PLUS` and the `MINUS` behind it are a pair of
    channels with the same random rows and opposite random columns; no marker prunes the channel. `NEW` and `PLUS` do
    not occur together.

    Preserves: exactly in both modes if each class keeps at least one `OLD`; see `balanced` for grouped convolutions.
    Source: Chen et al. 2016, Net2Net, section 2.3 (replicas); Wei et al. 2016, Network Morphism (zero columns); Yuan
        et al. 2023 (pairs); element-wise split and channel symbols: ours.

    Args:
        genome: what to change.
        copies: by class representative of `channels(genome)`; classes that are left out stay as they are.
        seed: of shares and new rows.
        share: how consumers share the column of a replicated channel.

    Raises:
        Inapplicable: a class is unknown or frozen, a node would be left without channels or get too many, the groups of
            a convolution would differ in width, or a norm over channels would read others than replicas of all alike.
    """
    expansion, table = expand(genome), channels(genome)
    _allowed(table, copies)
    copies = {symbol: markers for symbol, markers in copies.items() if markers != (OLD,)}
    if (uneven := next(_uneven(expansion, table, copies), None)) is not None:
        raise Inapplicable(f"groups must be equally wide, got {[_width(part, copies) for part in uneven]} channels")
    try:
        child = genome.changed(_modules(genome, expansion, table, copies))
        expand(child)
    except InvalidGenome as error:
        raise Inapplicable(f"the widths do not fit: {error}") from None
    tensors: dict[str, TensorExpr] = {}
    for primitive in _touched(expansion, table, copies):
        tensors.update(_tensors(primitive, expansion, table, copies, (seed, share)))
    return child, tensors


def _allowed(table: ChannelMap, copies: Copies) -> None:
    """Refuses changes of classes that must stay, or stay alike."""
    for symbol, markers in copies.items():
        if symbol not in table.classes:
            raise Inapplicable(f"{symbol} must represent a class of channels of the genome")
        if symbol in table.frozen and markers != (OLD,):
            raise Inapplicable(f"the class of {symbol} is frozen: its width is given")
    for coupled in table.coupled:
        kinds = {copies.get(symbol, (OLD,)) for symbol in coupled}
        if len(kinds) > 1 or set(kinds.pop()) != {OLD}:
            raise Inapplicable(f"a norm over channels allows only replicas of all alike, not of {min(coupled)} alone")


def balanced(
    genome: Genome, copies: Copies, added: tuple[Marker, ...] | None = (OLD,)
) -> dict[Symbol, tuple[Marker, ...]]:
    """Returns `copies` with more classes changed until the groups of each grouped convolution are equally wide.

    Args:
        genome: what is to be changed.
        copies: what is wanted.
        added: what a group that is too narrow gets more of; None prunes the groups that are too wide instead.

    Raises:
        Inapplicable: a group consists of frozen classes only, or the groups do not come to an agreement.
    """
    expansion, table, result = expand(genome), channels(genome), dict(copies)
    for _ in range(ROUNDS):
        agreed = True
        for parts in _uneven(expansion, table, result):
            agreed = False
            _level(parts, table.frozen | table.joined, result, added)
        if agreed:
            return result
    raise Inapplicable(f"the groups of grouped convolutions do not become equally wide within {ROUNDS} rounds")


def _level(
    parts: Sequence[Sequence[Entry]],
    frozen: frozenset[Symbol],
    copies: dict[Symbol, tuple[Marker, ...]],
    added: tuple[Marker, ...] | None,
) -> None:
    """Makes groups equally wide, in place; where a class lies in several, one may end wider: for the next round."""
    widths = [_width(part, copies) for part in parts]
    for part in parts:
        while _width(part, copies) > min(widths) if added is None else _width(part, copies) < max(widths):
            chosen = _narrowest(part, frozen, copies, prune=added is None)
            copies[chosen] = () if added is None else (*copies.get(chosen, (OLD,)), *added)


def _narrowest(part: Sequence[Entry], frozen: frozenset[Symbol], copies: Copies, *, prune: bool) -> Symbol:
    """Returns the free class with the fewest channels, so that replicas spread over the group."""
    free = sorted({entry.symbol for entry in part} - frozen)
    free = [symbol for symbol in free if not prune or copies.get(symbol, (OLD,))]
    if not free:
        raise Inapplicable(f"a group of {_width(part, copies)} frozen channels cannot become as wide as the others")
    return min(free, key=lambda symbol: len(copies.get(symbol, (OLD,))))


def _uneven(expansion: Expansion, table: ChannelMap, copies: Copies) -> Iterator[Sequence[Sequence[Entry]]]:
    for path, groups in grouped(expansion):
        parts = _parts(table.entries[path], groups)
        if len({_width(part, copies) for part in parts}) > 1:
            yield parts


def _parts(entries: Sequence[Entry], groups: int) -> list[Sequence[Entry]]:
    size = len(entries) // groups
    return [entries[start : start + size] for start in range(0, len(entries), size)]


def _groups(operation: Operation) -> int:
    return operation.groups if isinstance(operation, Conv) else 1


def _width(entries: Sequence[Entry], copies: Copies) -> int:
    return sum(len(copies.get(entry.symbol, (OLD,))) for entry in entries)


@dataclass(frozen=True)
class _Positions:
    """The new positions along one axis.

    Attributes:
        sources: the old position behind each.
        index: the same, with -1 where a new channel is and -2 where its partner is.
    """

    sources: tuple[int, ...]
    index: tuple[int, ...]


def _positions(entries: Sequence[Entry], copies: Copies) -> _Positions | None:
    """Returns the substituted positions; None if they stay as they are, as no class in `copies` does."""
    if copies.keys().isdisjoint([symbol for symbol, _ in entries]):
        return None
    sources: list[int] = []
    index: list[int] = []
    offset = 0
    for symbol, block in entries:
        for marker in copies.get(symbol, (OLD,)):
            positions = range(offset, offset + block)
            sources.extend(positions)
            index.extend(positions if marker == OLD else [INDEX[marker]] * block)
        offset += block
    return _Positions(tuple(sources), tuple(index))


def _touched(expansion: Expansion, table: ChannelMap, copies: Copies) -> Iterator[Primitive]:
    """Yields the primitives with tensors that make or read a channel of these classes."""
    moved = {id(entries) for entries in table.lists if not copies.keys().isdisjoint([symbol for symbol, _ in entries])}
    values = {path for path, entries in table.entries.items() if id(entries) in moved}
    for path, primitive in expansion.primitives.items():
        if (path in values or not values.isdisjoint(primitive.inputs)) and primitive.tensor_shapes():
            yield primitive


def _tensors(
    primitive: Primitive, expansion: Expansion, table: ChannelMap, copies: Copies, draws: tuple[int, Share]
) -> Iterator[tuple[str, TensorExpr]]:
    operation = primitive.operation
    if isinstance(operation, (Conv, Linear)):
        yield from _mixing(primitive, expansion, table, copies, draws)
    elif (
        not operation.shared
        and (names := primitive.tensor_shapes())
        and (kept := _positions(table.entries[primitive.path], copies))
    ):
        yield from ((name, _vector(name, kept)) for name in names)


def _vector(name: str, kept: _Positions) -> TensorExpr:
    """Returns the expression of a tensor that holds something for each channel."""
    parameter = name.rpartition(".")[2]
    if parameter.startswith("running"):
        # statistics of a new channel are unknown; its elder's are of the right size
        return Gather(Source(name), 0, kept.sources)
    return Gather(Source(name), 0, kept.index, new="one" if parameter == "weight" else "zero")


def _mixing(
    primitive: Primitive, expansion: Expansion, table: ChannelMap, copies: Copies, draws: tuple[int, Share]
) -> Iterator[tuple[str, TensorExpr]]:
    name, (seed, share) = f"{primitive.path}.weight", draws
    weight: TensorExpr = Source(name)
    rows = _positions(table.entries[primitive.path], copies)
    if rows:
        weight = Gather(weight, 0, rows.index, new="random", seed=derived_seed(seed, f"{name} rows"))
        if f"{primitive.path}.bias" in primitive.tensor_shapes():
            yield f"{primitive.path}.bias", Gather(Source(f"{primitive.path}.bias"), 0, rows.index)
    if not depthwise(expansion, primitive.module, primitive.id):
        given, groups = table.entries[primitive.inputs[0]], _groups(primitive.operation)
        if columns := _columns(given, groups, copies):
            new: New = "opposite" if -2 in columns else "zero"
            split = derived_seed(seed, f"{name} columns")
            weight = Gather(weight, 1, columns, share=share, new=new, seed=split, groups=groups)
    if weight != Source(name):
        yield name, weight


def _columns(entries: Sequence[Entry], groups: int, copies: Copies) -> tuple[int, ...]:
    """Returns the index of the columns, group by group; empty if they stay as they are."""
    if not _positions(entries, copies):
        return ()
    parts = _parts(entries, groups)
    kept = [_positions(part, copies) for part in parts]
    whole = [range(sum(entry.block for entry in part)) for part in parts]
    return tuple(i for some, all_ in zip(kept, whole, strict=True) for i in (some.index if some else all_))


def _modules(genome: Genome, expansion: Expansion, table: ChannelMap, copies: Copies) -> dict[str, Module]:
    changed: dict[str, dict[str, Operation]] = {}
    makers = dict.fromkeys((module, node) for symbol in copies for module, node, _ in table.classes[symbol])
    for module, node in makers:
        made = table.made[module, node]
        width = sum(len(copies.get(symbol, (OLD,))) for symbol in made)
        operation = genome[module].operations[node]
        if width != len(made):
            changed.setdefault(module, {})[node] = _resized(operation, width, depthwise(expansion, module, node))
    for (module, node), paths in expansion.instances.items():
        operation = genome[module].operations[node]
        if isinstance(operation, Slice):
            cuts = {_cut(operation, table.entries[expansion.primitives[path].inputs[0]], copies) for path in paths}
            if len(cuts) > 1:
                raise Inapplicable(f"slice {node} of module {module} would have to cut differently in each call")
            changed.setdefault(module, {})[node] = cuts.pop()
    return {name: genome[name].changed(nodes) for name, nodes in changed.items()}


def _cut(operation: Slice, entries: Sequence[Entry], copies: Copies) -> Slice:
    if any(entry.block > 1 for entry in entries):
        return operation  # frozen
    return Slice(_width(entries[: operation.start], copies), _width(entries[: operation.stop], copies))


def _resized(operation: Operation, width: int, is_depthwise: bool) -> Operation:
    if not 1 <= width <= MAX_CHANNELS:
        raise Inapplicable(f"a {operation.kind} must have 1 to {MAX_CHANNELS} channels, got {width}")
    if isinstance(operation, Conv):
        return replace(operation, out_channels=width, groups=width if is_depthwise else operation.groups)
    if isinstance(operation, Linear):
        return replace(operation, out_features=width)
    raise Inapplicable(f"the width of {operation.kind} is not the genome's to change")
