"""WeightStore: tensors in safetensors files that are named by the SHA-256 of their content.

A file is written under another name, flushed and renamed, so that a name always stands for a whole file; what is read is
hashed again, since a flipped bit loads without complaint.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from genomes import Genome
from search.errors import CorruptWeights, DiskFull

if TYPE_CHECKING:
    from torch import Tensor

DIGEST = re.compile(r"[0-9a-f]{64}")
PARTIAL = "partial-"


class WeightStore:
    """The weights of one search.

    Attributes:
        directory: where the files lie; made if it is not there.
    """

    def __init__(self, directory: Path) -> None:
        """Takes the directory."""
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def put(self, genome: Genome, tensors: Mapping[str, Tensor]) -> str:
        """Stores a network's tensors, with the genome that they belong to, and returns the digest of their file.

        Raises:
            CorruptWeights: a tensor holds NaN or infinity.
            DiskFull: there is no room.
        """
        from safetensors.torch import save

        if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
            raise CorruptWeights(f"weights must be finite, {broken[0]} is not")
        ordered = {name: tensors[name].contiguous() for name in sorted(tensors)}
        content = save(ordered, {"genome": genome.to_json().decode()})
        digest = hashlib.sha256(content).hexdigest()
        if not self.path(digest).exists():
            self._write(content, self.path(digest))
        return digest

    def get(self, digest: str) -> tuple[Genome, dict[str, Tensor]]:
        """Returns the genome and the tensors of a digest.

        Raises:
            CorruptWeights: the file is missing or damaged.
        """
        from safetensors import safe_open
        from safetensors.torch import load

        try:
            content = self.path(digest).read_bytes()
        except OSError as error:
            raise CorruptWeights(f"weights {digest} cannot be read: {error.strerror}") from None
        if (found := hashlib.sha256(content).hexdigest()) != digest:
            raise CorruptWeights(f"weights {digest} are damaged: the content's SHA-256 is {found}")
        with safe_open(self.path(digest), "pt") as file:
            genome = Genome.from_json(file.metadata()["genome"].encode())
        return genome, load(content)

    def path(self, digest: str) -> Path:
        """Returns the file of a digest.

        Raises:
            CorruptWeights: not the form of a digest.
        """
        if not DIGEST.fullmatch(digest):
            raise CorruptWeights(f"a digest must be 64 hexadecimal digits, got {digest[:80]!r}")
        return self.directory / f"{digest}.safetensors"

    def collect(self, keep: set[str]) -> int:
        """Removes the files that no digest of `keep` names and those that were never finished; returns how many.

        Only for a time when nobody writes: at the opening of a search.
        """
        names = {self.path(digest).name for digest in keep}
        loose = [path for path in self.directory.iterdir() if path.name not in names]
        for path in loose:
            path.unlink()
        return len(loose)

    def _write(self, content: bytes, target: Path) -> None:
        handle, name = tempfile.mkstemp(prefix=PARTIAL, dir=self.directory)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).rename(target)
        except OSError as error:
            Path(name).unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise DiskFull(f"weights could not be written to {self.directory}: make room, then resume") from None
            raise
        directory = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
