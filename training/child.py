"""Child: what is done with one candidate, from its parents' weights to its own; runs in a process of its own."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genomes import Genome, cost, features
from search import CorruptWeights, Fidelity, WeightStore
from training import data
from training.devices import claim
from training.errors import NonFinite
from training.evaluate import error, judged
from training.inherit import Heritage, inherit
from training.latency import latency, machine
from training.loop import train
from training.measurement import LatencySettings
from training.network import build, state
from training.recipe import Recipe
from training.sensitivity import sensitivities
from training.sources import Labelled
from training.stillness import Stillness

Request = Mapping[str, Any]


def evaluate(
    request: Request,
    file: str,
    directory: str,
    device: str = "cpu",
    share: float = 1.0,
    stillness: Stillness | None = None,
) -> dict[str, Any]:
    """Inherits, certifies, trains, judges, and stores the weights.

    First weights are made and certified on the CPU whatever the device, so that whoever has none can derive them.

    Args:
        request: see `Trainer.request`.
        file: of the prepared data.
        directory: of the weight store.
        device: that it trains and judges on, as torch names it.
        share: of the device's memory that it may use.
        stillness: what it gives way to, in training and in judging alike.

    Raises:
        BuildError: the weights do not fit, the edits do not lead to the genome, or a morphism failed its certificate.
        NonFinite: the loss or a weight became NaN or infinite.
        DataError: the data file is missing or damaged.
        SearchError: weights to inherit are damaged, or the disk is full.
    """
    store, prepared = WeightStore(Path(directory)), data.Prepared.at(Path(file))
    split, place = data.load(prepared), claim(device, share)
    heritage = Heritage.from_json(request["heritage"])
    genome, start = heritage.genome, inherit(heritage, store, split.train.images, prepared.normal)
    network = build(genome, start.weights).to(place)
    generator = torch.Generator(place).manual_seed(heritage.seed)
    recipe, fidelity = Recipe(**request["recipe"]), Fidelity(**request["fidelity"])
    shown_to, judged_on = _uploaded(file, place)
    give_way = stillness.give_way if stillness else lambda: None
    curve = train(network, *shown_to, recipe, fidelity, generator, prepared.normal, give_way)
    if stillness:
        stillness.attend(network)
    count = judged(fidelity, len(judged_on.labels))
    wrong = error(network, judged_on.images[:count], judged_on.labels[:count], prepared.normal)
    counted, shown, weights = cost(genome), curve[-1]["examples"], state(network.cpu())
    wanted = sensitivities(genome, weights, *split.train, prepared.normal) if request["gradients"] else {}
    return {
        "objectives": {"error": wrong, **asdict(counted)},
        # a backward pass takes twice the MACs of a forward pass
        "cost": {"examples": shown, "train_macs": 3 * counted.macs * shown},
        "curve": [*curve[:-1], {**curve[-1], "validation_error": wrong, "validation_images": count}],
        "weights": _stored(store, genome, weights),
        "certificates": [certificate.to_json() for certificate in start.certificates],
        "initial": start.digest,
        "gradients": wanted,
        "features": dict(features(genome)),
    }


def evaluate_timed(
    request: Request, file: str, directory: str, device: str, share: float, scratch: str
) -> dict[str, Any]:
    """As `evaluate`, with the latency of what was trained; while it is measured, all others in `scratch` stand still.

    A no-op control has its parent's network, and takes over what was measured of that on a machine like this one.
    """
    with Stillness(Path(scratch)) as stillness:
        value = evaluate(request, file, directory, device, share, stillness)
        settings, place = LatencySettings(**request["latency"]), claim(device, share)
        measured, here = request["measured"], machine(settings, place)
        if not measured or measured["machine"] != here:
            genome, weights = WeightStore(Path(directory)).get(value["weights"])
            network, shape = build(genome, weights), data.Prepared.at(Path(file)).shape
            with stillness.alone():
                found = latency(network, shape, settings, place)
            measured = {"objectives": found.objectives, "machine": here}
    return {**value, "objectives": {**value["objectives"], **measured["objectives"]}, "machine": measured["machine"]}


@functools.lru_cache(maxsize=1)
def _uploaded(file: str, device: torch.device) -> tuple[Labelled, Labelled]:
    """Returns what to train and to judge on, on a device; a warm worker uploads it once. On the CPU nothing is copied.

    Raises:
        DataError: the file is missing or damaged.
    """
    split = data.load(data.Prepared.at(Path(file)))
    training, validation = (Labelled(*(t.to(device) for t in part)) for part in (split.train, split.validation))
    return training, validation


def _stored(store: WeightStore, genome: Genome, weights: Mapping[str, Tensor]) -> str:
    try:
        return store.put(genome, weights)
    except CorruptWeights as failure:
        raise NonFinite(str(failure)) from None
