"""Depot: files by the SHA-256 of their content, in a place that machines without a common directory all reach."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec

from flows.home import BadInput
from search import CorruptWeights, Evaluation, sha256

if TYPE_CHECKING:
    from training.trainer import Trainer


class Depot:
    """A directory of any kind that fsspec knows, such as a bucket; what it holds can always be put there again.

    Credentials are where fsspec looks for them, in the environment or in files of each machine.
    """

    def __init__(self, address: str) -> None:
        """Takes its address, such as `s3://bucket/searches`.

        Raises:
            ValueError: no kind that fsspec knows.
            ImportError: the package for its kind is not installed.
        """
        self._files, root = fsspec.core.url_to_fs(address)
        self._root = root.rstrip("/")

    def put(self, digest: str, file: Path) -> None:
        """Copies a local file there, unless one of its size is there; an upload that was cut off is smaller.

        Raises:
            OSError: it cannot be written.
        """
        place = self._place(digest)
        try:
            if self._files.size(place) == file.stat().st_size:
                return
        except FileNotFoundError:
            self._files.makedirs(self._root, exist_ok=True)
        self._files.put_file(str(file), place)

    def get(self, digest: str, file: Path) -> None:
        """Copies a file from there, unless it is here and whole.

        Raises:
            CorruptWeights: what is there has another content.
            OSError: it is not there, or cannot be read.
        """
        if file.exists() and sha256(file) == digest:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix="partial-") as scratch:
            partial = Path(scratch) / file.name
            self._files.get_file(self._place(digest), str(partial))
            if (found := sha256(partial)) != digest:
                raise CorruptWeights(f"{self._place(digest)} is damaged, its SHA-256 is {found}: remove it, and resume")
            partial.rename(file)

    def _place(self, digest: str) -> str:
        return f"{self._root}/{digest}.safetensors"


class Supply:
    """What the machine of a search puts into a depot for the nodes, and takes from it; without a depot, nothing.

    The search's own directory stays whole: the depot may be emptied whenever the search does not run.

    Attributes:
        data: the digest of the data's file; None without a depot.
    """

    def __init__(self, address: str | None, evaluator: Trainer) -> None:
        """Puts the data's file there.

        Raises:
            BadInput: the depot cannot be written.
        """
        self._store, self._there = evaluator.store, set[str]()
        self._depot: Depot | None = None
        self.data: str | None = None
        if address is None:
            return
        try:
            self._depot, self.data = Depot(address), sha256(evaluator.prepared.file)
            self._depot.put(self.data, evaluator.prepared.file)
        except (OSError, ValueError, ImportError) as error:
            raise BadInput(
                f"slots.ray.store must be what fsspec can write, with the credentials that it looks for; {address}: "
                f"{' '.join(str(error).split())[:300]}"
            ) from None

    def send(self, weights: Iterable[str]) -> None:
        """Puts weights there that a node will need, by their digests.

        Raises:
            OSError: one is not here, or cannot be written there.
        """
        if self._depot is None:
            return
        for digest in set(weights) - self._there:
            self._depot.put(digest, self._store.path(digest))
            self._there.add(digest)

    def receive(self, evaluation: Evaluation) -> Evaluation:
        """Returns an evaluation whose weights are in the search's store; `io_error` if they could not be had."""
        if self._depot is None or evaluation.weights is None:
            return evaluation
        try:
            self._depot.get(evaluation.weights, self._store.path(evaluation.weights))
        except (OSError, CorruptWeights) as error:
            return Evaluation(
                evaluation.number, "io_error", reason=f"its weights were trained and not received: {error}"
            )
        self._there.add(evaluation.weights)
        return evaluation
