"""Orders: all that another machine needs to train a child, as one line of JSON, and what it does with it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flows.assembly import DATA, WEIGHTS, trainer
from flows.cluster.depot import Depot
from flows.config import SearchConfig, validated
from flows.home import BadInput, Home
from search import Candidate, CorruptWeights, Evaluation, WeightStore, records

if TYPE_CHECKING:
    from training.slots import Slot


@dataclass(frozen=True)
class Order:
    """One child that is to be trained elsewhere.

    Attributes:
        config: of the search.
        home: the directory of the searches, which both machines see under this path if there is no depot.
        data: the digest of the data's file in the depot; None without one.
        origin: the digest of the weights that founders may begin with.
        candidate: the child.
        parents: the evaluations of its parents, by number.
        heir: the predecessor's evaluation of a founder that goes on from it; None for all others.
    """

    config: SearchConfig
    home: Path
    data: str | None
    origin: str | None
    candidate: Candidate
    parents: Mapping[int, Evaluation]
    heir: Evaluation | None = None

    @property
    def weights(self) -> set[str]:
        """The digests of the weights that training may begin with."""
        founding = self.heir.weights if self.heir else self.origin
        inherited = (parent.weights for parent in self.parents.values())
        return set(filter(None, inherited if self.parents else [founding]))

    def to_json(self) -> str:
        """Returns the order as JSON."""
        return records.dump(
            {
                "config": self.config.model_dump(mode="json"),
                "home": str(self.home),
                "data": self.data,
                "origin": self.origin,
                "heir": self.heir and records.evaluation_json(self.heir),
                "candidate": records.candidate_json(self.candidate),
                "parents": [records.evaluation_json(parent) for parent in self.parents.values()],
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Order:
        """Reads what `to_json` wrote.

        Raises:
            BadInput: the configuration is none of this version.
            InvalidGenome: a genome is none.
        """
        document = json.loads(text)
        parents = [records.evaluation(parent) for parent in document["parents"]]
        return cls(
            validated(document["config"], f"the search, as this version on {socket.gethostname()} reads it"),
            Path(document["home"]),
            document["data"],
            document["origin"],
            records.candidate(document["candidate"]),
            {parent.number: parent for parent in parents},
            document["heir"] and records.evaluation(document["heir"]),
        )


def settled(config: SearchConfig) -> SearchConfig:
    """Returns a configuration whose recipe means the same on all machines of a cluster.

    On the CPU `auto` is what is fast on this machine; of GPUs each node asks its own.
    """
    import torch

    from training.loop import settled as settled_on

    if config.slots.ray is None or config.slots.ray.kind != "cpu":
        return config
    recipe = asdict(settled_on(config.recipe, torch.device("cpu")))
    return validated({**config.model_dump(mode="json"), "recipe": recipe}, config.name)


def fulfilled(order: Order, slot: Slot) -> Evaluation:
    """Trains and judges the child of an order, in a process of its own on this machine.

    Args:
        order: of another machine.
        slot: where; that nobody else uses its device is not taken for granted.

    Raises:
        BadInput: this machine does not see the search's directory.
        DataError: the search's data cannot be read.
    """
    ray = order.config.slots.ray
    if ray is None or ray.store is None:
        return _trained(order, Home(order.home), slot)
    try:
        return _supplied(order, Depot(ray.store), slot)
    except (OSError, CorruptWeights) as error:
        reason = f"{ray.store} must be in reach of {socket.gethostname()}: {' '.join(str(error).split())}"
        return Evaluation(order.candidate.number, "io_error", reason=reason)


def _supplied(order: Order, depot: Depot, slot: Slot) -> Evaluation:
    """Returns what became of a child whose inputs come from a depot, and its weights go there.

    Here they lie in a cache, apart for each data file: it may be removed whenever nothing is trained.
    """
    data = str(order.data)
    home = Home(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "morphogen" / data)
    directory = home.search(order.config.name)
    store = WeightStore(directory / WEIGHTS)
    depot.get(data, directory / DATA)
    for digest in order.weights:
        depot.get(digest, store.path(digest))
    evaluation = _trained(order, home, slot)
    if evaluation.weights:
        depot.put(evaluation.weights, store.path(evaluation.weights))
    return evaluation


def _trained(order: Order, home: Home, slot: Slot) -> Evaluation:
    from training.data import Prepared

    file = home.search(order.config.name) / DATA
    if not file.is_file():
        raise BadInput(
            f"--home must be a directory that all nodes of the Ray cluster share, under one path, or slots.ray.store "
            f"must name what they reach: {file} is not on {socket.gethostname()}"
        )
    built = trainer(order.config, home, Prepared.at(file), (slot,))
    heirs = {order.candidate.genome.digest: order.heir} if order.heir else {}
    return replace(built, origin=order.origin, heirs=heirs, sole=False)(order.candidate, order.parents)
