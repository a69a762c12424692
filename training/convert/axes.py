"""Axes: how the axes of a tensor in a model hold the channels and positions of a genome's value.

A genome's value is an image `[C, H, W]` or a vector `[F]`. Models also permute, flatten and split what they compute:
`[N, H, W, C]`, `[N, L, D]`, `[N, g, C / g, H, W]`. Each axis of a tensor is a row of atoms; an atom counts `size` steps
of `stride` along the batch, the channels, or the positions (row by row), so that a view cuts or joins atoms, and a
permutation moves them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from genomes.operations import Shape


class Atom(NamedTuple):
    """A factor of an axis: `kind` is `n` (batch), `c` (channels) or `p` (positions)."""

    kind: str
    stride: int
    size: int


Axis = tuple[Atom, ...]
Axes = tuple[Axis, ...]


def natural(shape: Shape, batch: int) -> Axes:
    """Returns the axes of `[N, C, H, W]` or `[N, F]`."""
    atoms = [Atom("n", 1, batch), Atom("c", 1, shape[0])]
    if len(shape) == 3:
        atoms += [Atom("p", shape[2], shape[1]), Atom("p", 1, shape[2])]
    return tuple(joined([atom]) for atom in atoms)


def joined(atoms: Sequence[Atom]) -> Axis:
    """Returns one axis of these atoms, the last running fastest: neighbours that continue each other become one."""
    row: list[Atom] = []
    for atom in atoms:
        if atom.size == 1:
            continue
        if row and row[-1].kind == atom.kind and row[-1].stride == atom.stride * atom.size:
            row[-1] = Atom(atom.kind, atom.stride, row[-1].size * atom.size)
        else:
            row.append(atom)
    return tuple(row)


def sizes(axes: Axes) -> tuple[int, ...]:
    """Returns the shape of the tensor."""
    return tuple(math.prod(atom.size for atom in axis) for axis in axes)


def viewed(axes: Axes, shape: Sequence[int]) -> Axes | None:
    """Returns the axes of a view with this shape, in which one extent may be -1; None if an atom cannot be cut so."""
    total, known = math.prod(sizes(axes)), math.prod(extent for extent in shape if extent != -1)
    wanted = [total // known if extent == -1 else extent for extent in shape]
    if math.prod(wanted) != total:
        return None
    rest = [atom for axis in axes for atom in axis][::-1]
    made = []
    for extent in wanted:
        row = _taken(rest, extent)
        if row is None:
            return None
        made.append(joined(row))
    return tuple(made)


def _taken(rest: list[Atom], extent: int) -> list[Atom] | None:
    """Takes atoms from the end of `rest` until they make up an extent; the last may be cut."""
    row: list[Atom] = []
    while extent > 1:
        kind, stride, size = rest.pop()
        part = math.gcd(size, extent)
        if part == 1 or (part < size and part != extent):
            return None
        if part < size:
            rest.append(Atom(kind, stride, size // part))
        row.append(Atom(kind, stride * (size // part), part))
        extent //= part
    return row


def arranged(tensor: Tensor, axes: Axes, shape: Shape) -> Tensor | None:
    """Returns what a constant adds to, or multiplies, a genome's value of `shape`: a tensor of that shape.

    None if the constant does not fit the axes or is not the same for the whole batch.
    """
    try:
        full = tensor.expand(sizes(axes))
    except RuntimeError:
        return None
    flat = full.reshape([atom.size for axis in axes for atom in axis])
    atoms = [atom for axis in axes for atom in axis]
    if not all(bool((flat.select(n, 0).unsqueeze(n) == flat).all()) for n in _places(atoms, "n")):
        return None
    order = [*_places(atoms, "n"), *_places(atoms, "c"), *_places(atoms, "p")]
    found = flat.permute(order)
    for _ in _places(atoms, "n"):
        found = found[0]
    return found.reshape(shape) if found.numel() == math.prod(shape) else None


def _places(atoms: Sequence[Atom], kind: str) -> list[int]:
    """Returns where the atoms of a kind stand, the slowest first."""
    found: Iterator[int] = (place for place, atom in enumerate(atoms) if atom.kind == kind)
    return sorted(found, key=lambda place: -atoms[place].stride)
