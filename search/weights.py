"""WeightStore: tensors in safetensors files that are named by the SHA-256 of their content.

A file is written under another name, flushed and renamed, so that a name always stands for a whole file; what is read
is hashed again, since a flipped bit loads without complaint.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from genomes import Genome
from search.errors import CorruptWeights
from search.files import PARTIAL, make, write

if TYPE_CHECKING:
    from torch import Tensor

DIGEST = re.compile(r"[0-9a-f]{64}")
SUFFIX = ".safetensors"


class WeightStore:
    """The weights of one search.

    Attributes:
        directory: where the files lie; made if it is not there.
    """

    def __init__(self, directory: Path) -> None:
        """Takes the directory.

        Raises:
            UnreadableLedger: it cannot be made.
            DiskFull: there is no room for it.
        """
        self.directory = directory
        make(directory)

    def put(self, genome: Genome, tensors: Mapping[str, Tensor]) -> str:
        """Stores a network's tensors, with the genome that they belong to, and returns the digest of their file.

        Raises:
            CorruptWeights: a tensor holds NaN or infinity.
            DiskFull: there is no room.
        """
        if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
            raise CorruptWeights(f"weights must be finite, {broken[0]} is not")
        content = _written(genome, tensors)
        digest = hashlib.sha256(content).hexdigest()
        if self._content(digest) != content:  # a damaged file is mended
            write(self.path(digest), content)
        return digest

    @staticmethod
    def digest(genome: Genome, tensors: Mapping[str, Tensor]) -> str:
        """Returns the digest of the file that would hold these tensors; writes nothing."""
        return hashlib.sha256(_written(genome, tensors)).hexdigest()

    def get(self, digest: str) -> tuple[Genome, dict[str, Tensor]]:
        """Returns the genome and the tensors of a digest.

        Raises:
            CorruptWeights: the file is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        content = self._content(digest)
        if content is None:
            raise CorruptWeights(f"weights {digest} must be in {self.directory}, they are missing: resume another copy")
        if (found := hashlib.sha256(content).hexdigest()) != digest:
            raise CorruptWeights(f"weights {digest} are damaged: the content's SHA-256 is {found}")
        try:
            return _genome(content), load(content)
        except (SafetensorError, ValueError, KeyError) as error:
            raise CorruptWeights(f"weights {digest} must be a network's safetensors: {error}") from None

    def path(self, digest: str) -> Path:
        """Returns the file of a digest.

        Raises:
            CorruptWeights: not the form of a digest.
        """
        if not DIGEST.fullmatch(digest):
            raise CorruptWeights(f"a digest must be 64 hexadecimal digits, got {digest[:80]!r}")
        return self.directory / f"{digest}{SUFFIX}"

    def collect(self, keep: set[str]) -> int:
        """Removes the files that no digest of `keep` names and those that were never finished; returns how many.

        Only for a time when nobody writes: at the opening of a search.
        """
        names = {self.path(digest).name for digest in keep}
        ours = [*self.directory.glob(f"*{SUFFIX}"), *self.directory.glob(f"{PARTIAL}*")]
        loose = [path for path in ours if path.name not in names]
        for path in loose:
            path.unlink()
        return len(loose)

    def _content(self, digest: str) -> bytes | None:
        try:
            return self.path(digest).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CorruptWeights(f"weights {digest} must be readable: {error.strerror}") from None


def _written(genome: Genome, tensors: Mapping[str, Tensor]) -> bytes:
    """Returns a file's content, alike for equal values: the order of names and the layout in memory do not matter."""
    from safetensors.torch import save

    ordered = {name: tensors[name].contiguous() for name in sorted(tensors)}
    return save(ordered, {"genome": genome.to_json().decode()})


def _genome(content: bytes) -> Genome:
    """Returns the genome in a safetensors header, which is JSON after its length in 8 bytes."""
    length = int.from_bytes(content[:8], "little")
    return Genome.from_json(json.loads(content[8 : 8 + length])["__metadata__"]["genome"].encode())
