"""Stored: a genome as the JSON that was kept of it, which is read when somebody looks into it.

Reading costs a hundred times what hashing does, and of the thousands that a search has kept few are looked into.
"""

from __future__ import annotations

import hashlib
from functools import cached_property

from genomes.errors import InvalidGenome
from genomes.genome import Genome, Module


class Stored(Genome):
    """A genome of which only the bytes are known at first: enough to compare and to hash it, as any genome is.

    Looking into it reads it by `Genome.from_json`, which trusts nothing.

    Raises:
        InvalidGenome: on the first look: what was stored is no genome, or not as `Genome.to_json` writes it.
    """

    fingerprint: str

    def __init__(self, data: bytes, fingerprint: str = "") -> None:
        """Takes what `Genome.to_json` wrote, and what `fingerprint` said of it, if that was kept."""
        object.__setattr__(self, "_data", data)
        object.__setattr__(self, "fingerprint", fingerprint)

    @cached_property
    def _read(self) -> Genome:
        genome = Genome.from_json(self.to_json())
        if genome.digest != self.digest:  # equal genomes would not be equal bytes
            raise InvalidGenome(f"a stored genome must be canonical JSON, of digest {genome.digest}, got {self.digest}")
        return genome

    @cached_property
    def modules(self) -> tuple[tuple[str, Module], ...]:
        """The modules, as of any genome."""
        return self._read.modules

    @cached_property
    def root(self) -> str:
        """The name of the module that is the network."""
        return self._read.root

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what was stored."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def to_json(self) -> bytes:
        """Returns what was stored."""
        data: bytes = self.__dict__["_data"]
        return data
