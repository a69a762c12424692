"""Heirs: what a search takes over from its predecessor, among founders of its own that know nothing of it.

Of three founders one is a starter of the space, one is among the predecessor's best and begins with the weights that it
left, and one is among the best too and begins with fresh weights. What the old family has learned can be a trap for the
new search, so it has to win against starters that have the same schedule; and the cost of an heir counts what its
predecessor spent on it, so that selection by the corrected judgement compares all at equal lineage age.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from flows.config import SearchConfig, stored
from flows.finalists import finalists
from flows.home import BadInput, Home
from genomes import Genome, InvalidGenome, Limits, check, equivalent
from search import Evaluation, Ledger, WeightStore, records

FOUNDERS = "founders"  # of one search, in its directory: their genomes
HEIRS = "heirs"  # there: the predecessor's evaluations by the digests of genomes
KINDS = 3  # of founders: starters, heirs with weights, heirs with fresh ones


@dataclass(frozen=True)
class Bequest:
    """What a search that has a predecessor begins with.

    Attributes:
        founders: their genomes, in the order in which they are proposed.
        heirs: the predecessor's evaluations of those that begin with its weights, by the digest of the genome.
    """

    founders: tuple[Genome, ...]
    heirs: Mapping[str, Evaluation]

    def write(self, directory: Path) -> None:
        """Writes it into a new directory."""
        directory.mkdir()
        for number, genome in enumerate(self.founders):
            (directory / f"{number:06}.json").write_bytes(genome.to_json())
        document = {digest: json.loads(records.evaluation_json(heir)) for digest, heir in self.heirs.items()}
        (directory / HEIRS).write_text(json.dumps(document))

    def copy_weights(self, old: WeightStore, new: WeightStore) -> None:
        """Copies the weights of the heirs.

        Raises:
            CorruptWeights: the predecessor's are missing or damaged.
            DiskFull: there is no room.
        """
        for heir in self.heirs.values():
            new.put(*old.get(heir.weights or ""))


def kept(directory: Path) -> Bequest | None:
    """Returns a search's own copy of what it took over; None if it has none.

    Raises:
        BadInput: the copy is damaged.
    """
    if not (file := directory / FOUNDERS / HEIRS).exists():
        return None
    try:
        heirs = {digest: records.evaluation(json.dumps(one)) for digest, one in json.loads(file.read_text()).items()}
        genomes = [Genome.from_json(one.read_bytes()) for one in sorted(file.parent.glob("*.json"))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file.parent} must hold the founders as they were written, restore a copy: {error}") from None
    return Bequest(tuple(genomes), heirs)


def source(config: SearchConfig, home: Home) -> Path:
    """Returns the directory of the predecessor, whose data the search must go on with.

    Else the weights that are handed on could have been trained on images that now judge them.

    Raises:
        BadInput: it has other data.
        SearchMissing: it is not there.
    """
    directory = home.search(config.predecessor or "")
    with Ledger.read(directory) as ledger:
        theirs = stored(ledger).data
    if theirs != config.data:
        raise BadInput(f"data must be that of the predecessor {directory.name}, {theirs}, got {config.data}")
    return directory


def bequest(directory: Path, starters: Sequence[Genome], limits: Limits, founders: int) -> Bequest:
    """Returns what a predecessor hands on: a third of the founders are starters, and as many of each kind of heir.

    Args:
        directory: of the predecessor.
        starters: of the space, the first ones first.
        limits: of the new search; best networks that are over them are left out.
        founders: how many are proposed before the first child.

    Raises:
        BadInput: the predecessor has nothing to hand on.
    """
    fresh = tuple(starters)[: -(-founders // KINDS)]
    with Ledger.read(directory) as ledger:
        best = finalists(ledger, (KINDS - 1) * len(fresh) + len(starters))
        genomes = {n: candidate.genome for n, candidate in ledger.candidates([e.number for e in best]).items()}
    old = [e for e in best if _wanted(genomes[e.number], fresh, limits)][: (KINDS - 1) * len(fresh)]
    if not old:
        raise BadInput(
            f"the predecessor {directory.name} must have a network that was trained with success, fits the limits of "
            "`space` and is no starter: it has none"
        )
    trained = [e for e in old[::2] if e.weights]
    others = [e for e in old if e not in trained]
    rows = zip_longest(fresh, (genomes[e.number] for e in trained), (genomes[e.number] for e in others))
    first = [genome for genome in chain.from_iterable(rows) if genome][:founders]
    heirs = {genomes[e.number].digest: e for e in trained if genomes[e.number] in first}
    return Bequest(tuple(first), heirs)


def _wanted(genome: Genome, starters: Sequence[Genome], limits: Limits) -> bool:
    """Says whether a genome is within the limits, and another network than the starters."""
    try:
        check(genome, limits)
    except InvalidGenome:
        return False
    return not any(equivalent(genome, starter) for starter in starters)
