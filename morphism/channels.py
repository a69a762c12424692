"""Channel symbols by union-find: which channels of which values are one and the same, so that widths move together.

A convolution or linear map makes new channels; most operations hand them on; concat joins the lists; add, mean and mul
unite them position by position; flatten turns each into a block of features. A depthwise convolution hands on its
input's channels and unites them with its own, so that all calls of its module keep one width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import repeat
from typing import NamedTuple

from genomes import Expansion, Genome, Primitive, expand
from genomes.operations import Attention, ChannelShuffle, Conv, Flatten, GroupNorm, Input, Slice, Trait


class Symbol(NamedTuple):
    """Channel number `channel` of what the node `node` of a module makes: the same in every call of the module."""

    module: str
    node: str
    channel: int


class Entry(NamedTuple):
    """One channel of a value.

    Attributes:
        symbol: the representative of its class.
        block: how many consecutive positions it takes: above 1 only behind a flatten.
    """

    symbol: Symbol
    block: int


@dataclass(frozen=True)
class ChannelMap:
    """The channels of every value of a genome's expansion.

    Attributes:
        entries: by path, the channels in their order; a value has one position for each, or a block of them.
        classes: representative to all symbols that are one with it, itself first: the most upstream one.
        made: by module and node that makes channels, the representatives of these channels in their order.
        frozen: representatives of the classes whose width is given: the network's input and its output, the queries
            and keys of attention, and what a shuffle deals out.
        coupled: sets of representatives that a norm over channels reads: no edit keeps its function but one that
            replicates every channel of a set equally often. Sets that share a channel are one.
    """

    entries: Mapping[str, tuple[Entry, ...]]
    classes: Mapping[Symbol, tuple[Symbol, ...]]
    made: Mapping[tuple[str, str], tuple[Symbol, ...]]
    frozen: frozenset[Symbol]
    coupled: tuple[frozenset[Symbol], ...] = ()

    @cached_property
    def lists(self) -> tuple[tuple[Entry, ...], ...]:
        """The lists of `entries`, those of several values once: most values have the very list of what they read."""
        return tuple({id(entries): entries for entries in self.entries.values()}.values())

    @cached_property
    def joined(self) -> frozenset[Symbol]:
        """The representatives that some norm over channels reads: all of `coupled`."""
        return frozenset().union(*self.coupled)


@lru_cache(maxsize=1024)
def channels(genome: Genome) -> ChannelMap:
    """Returns the channels of a genome.

    Raises:
        InvalidGenome: the genome does not expand.
    """
    walk = _Walk(expand(genome))
    return walk.result()


def depthwise(expansion: Expansion, module: str, node: str) -> bool:
    """Says whether a node is in every call a convolution with one channel in and one out of each of several groups."""
    return all(_depthwise(expansion.primitives[path]) for path in expansion.instances[module, node])


def grouped(expansion: Expansion) -> Iterator[tuple[str, int]]:
    """Yields paths whose values consist of groups that must stay equally wide, and how many groups there are.

    These are what a convolution with groups reads and makes, unless it is depthwise, the values that attention reads
    and makes (heads), and what a group norm reads.
    """
    for path, primitive in expansion.primitives.items():
        match primitive.operation:
            case Conv(groups=groups) if groups > 1 and not depthwise(expansion, primitive.module, primitive.id):
                yield from ((end, groups) for end in (primitive.inputs[0], path))
            case Attention(heads=groups) if groups > 1:
                yield from ((end, groups) for end in (primitive.inputs[2], path))
            case GroupNorm(groups=groups) if groups > 1:
                yield path, groups


def _depthwise(primitive: Primitive) -> bool:
    operation = primitive.operation
    if not isinstance(operation, Conv):
        return False
    return 1 < operation.groups == operation.out_channels == primitive.in_shapes[0][0]


@lru_cache(maxsize=1024)
def _symbols(module: str, node: str, count: int) -> tuple[Symbol, ...]:
    return tuple([Symbol(module, node, channel) for channel in range(count)])


_Entries = tuple[tuple[int, int], ...]  # (number of the symbol, block)
BY_THEMSELVES = frozenset({Input, Flatten, Attention, Slice, ChannelShuffle})  # more than their trait says


class _Walk:
    """The state of one union-find; symbols are numbered in the order of their making."""

    def __init__(self, expansion: Expansion) -> None:
        self.expansion = expansion
        self.symbols: list[Symbol] = []
        self.parent: list[int] = []
        self.first: dict[tuple[str, str], int] = {}
        self.frozen: set[int] = set()
        self.coupled: list[_Entries] = []
        self.entries: dict[str, _Entries] = {}
        for path, primitive in expansion.primitives.items():
            self.entries[path] = self.of(primitive)
        self.freeze(self.entries[expansion.output])

    def of(self, primitive: Primitive) -> _Entries:
        """Returns the channels of one value."""
        operation, inputs = primitive.operation, [self.entries[source] for source in primitive.inputs]
        if type(operation) not in BY_THEMSELVES:
            return self.by_trait(primitive, inputs)
        match operation:
            case Input():
                made = self.make(primitive)
                self.freeze(made)
                return made
            case Flatten():
                extent = math.prod(primitive.in_shapes[0][1:])
                return tuple((symbol, block * extent) for symbol, block in inputs[0])
            case Attention():
                self.freeze(inputs[0])
                self.freeze(inputs[1])
                return inputs[2]
            case Slice(start, stop):
                return self.positions(inputs[0])[start:stop]
            case ChannelShuffle():
                self.freeze(inputs[0])
                return tuple(inputs[0][channel] for channel in operation.order(len(inputs[0])))
            case _:
                raise AssertionError(f"{operation.kind} must be one of those above")

    def by_trait(self, primitive: Primitive, inputs: Sequence[_Entries]) -> _Entries:
        """Returns the channels of one value as the trait of its operation says."""
        match primitive.operation.trait:
            case Trait.MIXES:
                return self.mixed(primitive, inputs[0])
            case Trait.STACKS:
                return tuple(entry for entries in inputs for entry in entries)
            case Trait.UNITES:
                return self.united(inputs)
            case Trait.COUPLES:
                self.coupled.append(inputs[0])
        return inputs[0]

    def positions(self, entries: _Entries) -> _Entries:
        """Returns one entry for each position; freezes blocks, which cannot be cut."""
        if all(block == 1 for _, block in entries):
            return entries
        self.freeze(entries)
        return tuple((symbol, 1) for symbol, block in entries for _ in range(block))

    def mixed(self, primitive: Primitive, given: _Entries) -> _Entries:
        """Returns the channels that a convolution or linear map makes."""
        made = self.make(primitive)
        if depthwise(self.expansion, primitive.module, primitive.id):
            return self.united([made, given])
        if _depthwise(primitive):
            # one operation cannot follow two widths: depthwise here, but not in another call
            self.freeze(made)
            self.freeze(given)
        return made

    def make(self, primitive: Primitive) -> _Entries:
        """Returns the node's own channels, the same ones in each call."""
        key, count = (primitive.module, primitive.id), primitive.shape[0]
        if key not in self.first:
            self.first[key] = len(self.symbols)
            self.parent.extend(range(len(self.symbols), len(self.symbols) + count))
            self.symbols.extend(_symbols(*key, count))
        return tuple(zip(range(self.first[key], self.first[key] + count), repeat(1)))

    def united(self, inputs: Sequence[_Entries]) -> _Entries:
        """Unites channels position by position; freezes them where blocks do not match."""
        if len({tuple([block for _, block in entries]) for entries in inputs}) > 1:
            for entries in inputs:
                self.freeze(entries)
        else:
            for entries in inputs[1:]:
                for (one, _), (other, _) in zip(inputs[0], entries, strict=True):
                    self.unite(one, other)
        return inputs[0]

    def unite(self, one: int, other: int) -> None:
        """Makes two symbols one; the older represents both, so that no symbol is older than its parent."""
        one, other = self.root(one), self.root(other)
        self.parent[max(one, other)] = min(one, other)

    def root(self, symbol: int) -> int:
        """Returns the representative, halving the way to it."""
        parent = self.parent
        while parent[symbol] != symbol:
            parent[symbol] = symbol = parent[parent[symbol]]
        return symbol

    def freeze(self, entries: _Entries) -> None:
        """Fixes the width of these channels."""
        self.frozen.update([symbol for symbol, _ in entries])

    def result(self) -> ChannelMap:
        """Returns the map, with each symbol replaced by its representative."""
        roots: list[int] = []
        for number, parent in enumerate(self.parent):
            roots.append(number if parent == number else roots[parent])
        table, classes = [self.symbols[root] for root in roots], dict[int, list[Symbol]]()
        for root, symbol in zip(roots, self.symbols, strict=True):
            classes.setdefault(root, []).append(symbol)
        alone = {root: Entry(self.symbols[root], 1) for root in classes}
        ends = [*self.first.values(), len(table)][1:]
        # most values have the very list of what they read
        lists = {id(found): found for found in self.entries.values()}
        made = {
            key: tuple([alone[roots[n]] if block == 1 else Entry(table[n], block) for n, block in found])
            for key, found in lists.items()
        }
        return ChannelMap(
            {path: made[id(found)] for path, found in self.entries.items()},
            {self.symbols[root]: tuple(members) for root, members in classes.items()},
            {key: tuple(table[start:stop]) for (key, start), stop in zip(self.first.items(), ends, strict=True)},
            frozenset(table[number] for number in self.frozen),
            _merged([frozenset(table[number] for number, _ in entries) for entries in self.coupled]),
        )


def _merged(sets: Sequence[frozenset[Symbol]]) -> tuple[frozenset[Symbol], ...]:
    """Returns the unions of sets that overlap."""
    merged: list[frozenset[Symbol]] = []
    for found in sets:
        apart = [other for other in merged if not other & found]
        merged = [*apart, found.union(*(other for other in merged if other & found))]
    return tuple(merged)
