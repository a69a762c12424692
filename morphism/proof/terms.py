"""Terms: what a network computes, written so that equal terms are equal functions in real arithmetic.

A term is an integer that stands for its key; equal keys get the same integer, so comparing two terms is comparing two
integers. A term is an atom or a sum of atoms with coefficients; a product of terms is an atom.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

STEPS = 10**12  # to each power of two: coefficients that are a step apart differ by rounding alone
SAME = 1 / STEPS  # of what was added up: the rest of a sum that is smaller is what rounding left
NEVER_NEGATIVE = ("relu", "relu6", "sigmoid", "hardsigmoid", "one")
Key = tuple[Any, ...]
Sum = tuple[tuple[int, float], ...]


class Geometry(NamedTuple):
    """Which positions the taps of a kernel read: tap j reads `stride` · position + `start` + `step` · j.

    Attributes:
        taps: in each direction; 0 for a linear map.
        start: where the first tap is.
        step: from tap to tap.
        stride: from position to position.
        given: the extents of the input.
        made: the extents of the output.
    """

    taps: int
    start: int
    step: int
    stride: int
    given: tuple[int, ...]
    made: tuple[int, ...]

    @property
    def in_place(self) -> bool:
        """Says whether the middle tap reads the position itself."""
        return self.stride == 1 and self.start + self.step * (self.taps // 2) == 0 and self.given == self.made


class Share(NamedTuple):
    """What makes an atom one of several parts of a whole.

    Attributes:
        family: what all parts of one whole, and no others, have in common.
        number: of the part.
        count: of the parts.
        whole: what all parts together are: a term, or the label of a column.
        rest: what the whole is still to be multiplied with.
        value: what the column reads, if it is one.
    """

    family: Hashable
    number: int
    count: int  # type: ignore[assignment]
    whole: int
    rest: tuple[int, ...] = ()
    value: int | None = None


@dataclass
class Terms:
    """All terms that have been made so far.

    Attributes:
        keys: by term, its key.
        table: by key, its term.
        shares: the atoms that are parts.
        loose: columns that hold something else in each row, so that no two rows that read them are one.
        numbers: the coefficients, by their place in steps that are as fine as they are small.
    """

    keys: list[Key] = field(default_factory=list)
    table: dict[Key, int] = field(default_factory=dict)
    shares: dict[int, Share] = field(default_factory=dict)
    loose: set[int] = field(default_factory=set)
    numbers: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Makes the two terms that everything needs, 0 and 1."""
        self.zero = self.term("sum", ())
        self.one = self.term("one")

    def copy(self) -> Terms:
        """Returns a copy that may grow on its own."""
        return Terms(self.keys.copy(), self.table.copy(), self.shares.copy(), self.loose.copy(), self.numbers.copy())

    def term(self, *key: Hashable) -> int:
        """Returns the term with this key."""
        found = self.table.get(key)
        if found is None:
            found = self.table[key] = len(self.keys)
            self.keys.append(key)
        return found

    def exact(self, value: float) -> float:
        """Returns the number that was seen before and differs from a value by rounding alone, else the value."""
        mantissa, exponent = math.frexp(abs(value))
        steps = (exponent + 2_000) * STEPS + round((2 * mantissa - 1) * STEPS)  # the least exponent is -1,073
        place = steps if value > 0 else -steps
        known = next((self.numbers[near] for near in (place, place - 1, place + 1) if near in self.numbers), None)
        return self.numbers.setdefault(place, value) if known is None else known

    def unknown(self) -> int:
        """Returns a term that is equal to no other."""
        return self.term("unknown", len(self.keys))

    def number(self, value: float) -> int:
        """Returns a constant."""
        return self.scaled(self.one, value)

    def value(self, term: int) -> float | None:
        """Returns the number that a term is, if it is one."""
        if term == self.zero:
            return 0.0
        coefficient, body = self.content(term)
        return coefficient if body == self.one else None

    def summands(self, term: int) -> Sum:
        """Returns the atoms of a term with their coefficients."""
        key = self.keys[term]
        return key[1] if key[0] == "sum" else ((term, 1.0),)

    def total(self, addends: Iterable[tuple[int, float]]) -> int:
        """Returns the sum of terms, each times a number; parts of one whole become the whole."""
        found: dict[int, list[float]] = {}  # what is added up for each atom
        for term, factor in addends:
            for atom, coefficient in self.summands(term):
                found.setdefault(atom, []).append(factor * coefficient)
        merging = True
        while merging:
            merging = not self.shares.keys().isdisjoint(found) and self._merge(found)
        kept = tuple(sorted((atom, number) for atom, parts in found.items() if (number := self._sum(parts))))
        return kept[0][0] if len(kept) == 1 and kept[0][1] == 1 else self.term("sum", kept)

    def _sum(self, parts: list[float]) -> float:
        """Returns the sum of coefficients, as `exact` has it; 0 if rounding alone is left of them."""
        whole = sum(parts)
        return self.exact(whole) if abs(whole) > SAME * sum(map(abs, parts)) else 0.0

    def _merge(self, found: dict[int, list[float]]) -> bool:
        """Replaces complete families of equally weighted parts by their wholes, in place; says whether it did."""
        families: dict[Hashable, dict[int, int]] = {}
        for atom in found.keys() & self.shares.keys():
            share = self.shares[atom]
            families.setdefault((share.family, share.rest, share.value), {})[share.number] = atom
        merged = False
        for members in families.values():
            share = self.shares[next(iter(members.values()))]
            if len(members) == share.count and len({self._sum(found[atom]) for atom in members.values()}) == 1:
                factor = next(iter([self._sum(found.pop(atom)) for atom in members.values()]))
                for atom, coefficient in self._whole(share):
                    found.setdefault(atom, []).append(factor * coefficient)
                merged = True
        return merged

    def _whole(self, share: Share) -> Sum:
        if share.value is not None:
            return (self.column(share.whole, share.value),)
        return self.summands(self.product(share.whole, *share.rest))

    def added(self, *terms: int) -> int:
        """Returns the sum of terms."""
        return self.total((term, 1.0) for term in terms)

    def scaled(self, term: int, factor: float) -> int:
        """Returns a term times a number."""
        return term if factor == 1 else self.total([(term, factor)])

    def content(self, term: int) -> tuple[float, int]:
        """Returns a number and a term whose first coefficient is 1: their product is `term`, which must not be zero."""
        if self.keys[term][0] != "sum":
            return 1.0, term
        first = self.summands(term)[0][1]
        return first, self.scaled(term, 1 / first)

    def product(self, *terms: int) -> int:
        """Returns the product of terms."""
        if self.zero in terms:
            return self.zero
        number, factors = 1.0, list[int]()
        for term in terms:
            coefficient, body = self.content(term)
            number *= coefficient
            key = self.keys[body]
            if key[0] == "product":
                factors.extend(key[1])
            elif body != self.one:
                factors.append(body)
        simpler = self._simplified(factors)
        return self.scaled(self._atom(tuple(sorted(factors))) if simpler is None else simpler, number)

    def _simplified(self, factors: list[int]) -> int | None:
        """Returns the product with what is known about one factor applied to another, if there are such two."""
        rules = {"dirac": self._same, "second": self._refactored, "measured": self._centred}
        for one in factors:
            if rule := rules.get(self.keys[one][0]):
                for other in factors:
                    if (simpler := rule(one, other)) is not None:
                        return self.product(simpler, *(rest for rest in factors if rest not in (one, other)))
        return None

    def _centred(self, deviation: int, normal: int) -> int | None:
        """Returns x - m for (x - m) / √(v + ε) · √(v + ε)."""
        (_, what, channel), (kind, *told) = self.keys[deviation], self.keys[normal]
        if kind != "normal" or what[0] != "deviation" or len(told) != 4:
            return None
        eps, mean, variance, value = told
        wanted = [("measured", (statistic, *what[1:]), channel) for statistic in ("mean", "variance")]
        if eps != what[-1] or [self.keys[mean], self.keys[variance]] != wanted:
            return None
        return self.total([(value, 1.0), (mean, -1.0)])

    def _same(self, row: int, read: int) -> int | None:
        """Returns what a row of the identity matrix makes of its input."""
        if self.keys[read][0] != "read" or not self.keys[read][2].in_place:
            return None
        (_, number), (_, columns, _) = self.keys[row], self.keys[read]
        found = list[tuple[int, float]]()
        for atom, coefficient in self.summands(columns):
            _, label, value = self.keys[atom]
            if self.keys[label][0] != "place":
                return None
            if self.keys[label][1] == number:
                found.append((value, coefficient))
        return self.total(found)

    def _refactored(self, row: int, read: int) -> int | None:
        """Returns what a row of a product of two matrices makes of the input of the first one."""
        if self.keys[read][0] != "read":
            return None
        (_, name, whole, rank), (_, columns, geometry) = self.keys[row], self.keys[read]
        inner = self._inner(name, columns, rank) if geometry.taps <= 1 and geometry.in_place else None
        return None if inner is None else self.product(whole, inner)

    def _inner(self, name: Hashable, columns: int, rank: int) -> int | None:
        """Returns what all the rows of the first factor read, if that is one and the same, and they are all there."""
        key = ("inner", name, columns)
        if key in self.table:
            return self.table[key]
        reads, seen = set[int](), set[int]()
        for atom, coefficient in self.summands(columns):
            _, label, value = self.keys[atom]
            if coefficient != 1 or self.keys[value][0] != "product" or self.keys[label][0] != "place":
                return None
            place = self.keys[label][1]
            rest = [one for one in self.keys[value][1] if self.keys[one] != ("first", name, place)]
            if len(rest) != 1 or len(self.keys[value][1]) != 2:
                return None
            reads.add(rest[0])
            seen.add(place)
        if len(reads) != 1 or seen != set(range(rank)):
            return None
        self.table[key] = reads.pop()
        return self.table[key]

    def _atom(self, factors: tuple[int, ...]) -> int:
        if len(factors) < 2:
            return factors[0] if factors else self.one
        atom = self.term("product", factors)
        if atom not in self.shares:
            for place, factor in enumerate(factors):
                if factor in self.shares:
                    share = self.shares[factor]
                    others = (*factors[:place], *factors[place + 1 :])
                    self.shares[atom] = share._replace(rest=tuple(sorted((*share.rest, *others))))
                    break
        return atom

    def part(self, whole: int, family: Hashable, number: int, count: int) -> int:
        """Returns part `number` of `count` that sum to `whole`; zero has no parts."""
        if whole == self.zero:
            return whole
        atom = self.term("part", whole, family, number, count)
        self.shares[atom] = Share((whole, family, count), number, count, whole)
        return atom

    def drawn(self, label: int) -> int:
        """Returns the label of a column, marked as one that holds something else in each row."""
        self.loose.add(label)
        return label

    def column(self, label: int, value: int) -> tuple[int, float]:
        """Returns the atom that says that a column called `label` reads `value`, which is not zero; and its factor."""
        factor, body = self.content(value)
        atom = self.term("column", label, body)
        if label in self.loose and atom not in self.loose:
            self.loose.add(atom)
            if label in self.shares:
                self.shares[atom] = self.shares[label]._replace(value=body)
        return atom, factor

    def non_negative(self, term: int) -> bool:
        """Says whether a term is surely never negative."""
        return all(c > 0 and self._non_negative(self.keys[atom]) for atom, c in self.summands(term))

    def _non_negative(self, key: Key) -> bool:
        if key[0] == "product":
            return all(self.non_negative(factor) for factor in key[1])
        if key[0] in ("pool", "global_pool", "at"):
            return self.non_negative(key[-1])
        return key[0] in NEVER_NEGATIVE
