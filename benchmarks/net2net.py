"""Plain Net2Net, as it is usually written: what it does to a network whose batch norms are not new.

Our own plain re-implementation of the published recipe, in nobody's package: Net2Wider and Net2Deeper of Chen et al.
2016, Net2Net, with the handling of batch norm that follows from `BatchNorm2d(channels)`: what is new gets weight 1,
bias 0, mean 0, variance 1; and a ReLU inserted behind any layer, as Auto-Keras 0.4 did. New channels are appended.

Usage: python benchmarks/net2net.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for tests.drawing

import torch
from torch import Tensor

from genomes import Genome, expand
from genomes.operations import GELU, AvgPool, BatchNorm, Conv, Input, MaxPool, Operation, ReLU, SiLU
from morphism.certificate import relative_error
from morphism.interpreter import run
from tests.drawing import messy_weights, seeded_genome
from tests.morphism.samples import drawn, messy

Weights = Mapping[str, Tensor]
Child = tuple[Genome, dict[str, Tensor]]
Errors = tuple[float, float]  # in eval mode, and with batch statistics
KEEPS_CHANNELS = (ReLU, GELU, SiLU, MaxPool, AvgPool)
DEFAULTS = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}


def wider(genome: Genome, weights: Weights, seed: int, *, fresh: bool = True) -> Iterator[Child]:
    """Yields children, one for each convolution and norm that a dense one reads, with half as many channels again.

    Args:
        genome: the parent; only plain chains of its root module are widened.
        weights: its tensors.
        seed: of which channels are replicated.
        fresh: whether the norm of a replica is new; else it is the norm of what it replicates.
    """
    net = genome[genome.root]
    for node, norms, reader in _chains(genome):
        conv = net.operations[node]
        assert isinstance(conv, Conv)
        old = conv.out_channels
        extra = torch.randint(old, (max(1, old // 2),), generator=torch.Generator().manual_seed(seed))
        index = torch.cat([torch.arange(old), extra])
        made = dict(weights)
        for name in expand(genome).primitives[node].tensor_shapes():
            made[name] = weights[name][index]
        for norm in norms:
            for parameter, value in DEFAULTS.items():
                kept = weights[f"{norm}.{parameter}"]
                made[f"{norm}.{parameter}"] = (
                    torch.cat([kept, kept.new_full((len(extra),), value)]) if fresh else kept[index]
                )
        counts = torch.bincount(index)[index].to(weights[f"{reader}.weight"])
        made[f"{reader}.weight"] = weights[f"{reader}.weight"][:, index] / counts[:, None, None]
        yield genome.changed({genome.root: net.changed({node: replace(conv, out_channels=len(index))})}), made


def deeper(genome: Genome, weights: Weights) -> Iterator[Child]:
    """Yields children, one for each ReLU of an image: an identity convolution, a new norm and a ReLU behind it."""
    for node, operation in _images(genome):
        if isinstance(operation, ReLU):
            channels = expand(genome).shape(node)[0]
            child = _behind(genome, node, {"deep": Conv.same(channels, 3), "deep_bn": BatchNorm(), "deep_re": ReLU()})
            like = next(iter(weights.values()))
            kernel = torch.nn.init.dirac_(like.new_empty(channels, channels, 3, 3))
            norm = {f"deep_bn.{name}": like.new_full((channels,), value) for name, value in DEFAULTS.items()}
            yield child, {**weights, "deep.weight": kernel, **norm}


def activated(genome: Genome, weights: Weights) -> Iterator[Child]:
    """Yields children, one for each layer of images that does not end in a ReLU, with a ReLU behind it."""
    for node, operation in _images(genome):
        if not isinstance(operation, (ReLU, Input)):
            yield _behind(genome, node, {"act_re": ReLU()}), dict(weights)


RECIPES: Mapping[str, Callable[[Genome, Weights], Iterator[Child]]] = {
    "Net2Wider, new channels' norm is new": lambda g, w: wider(g, w, 0),
    "Net2Wider, norm replicated too (control)": lambda g, w: wider(g, w, 0, fresh=False),
    "Net2Deeper with a new norm": deeper,
    "ReLU behind any layer": activated,
}


def measure(genome: Genome, weights: Weights, seed: int, most: int = 4) -> dict[str, list[Errors]]:
    """Returns, for each recipe, the relative errors of up to `most` children, in float64."""
    shape = next(p.shape for p in expand(genome).primitives.values() if isinstance(p.operation, Input))
    images = torch.randn((4, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    precise = {name: tensor.double() for name, tensor in weights.items()}
    found: dict[str, list[Errors]] = {}
    with torch.no_grad():
        wanted = [run(genome, precise, images, train) for train in (False, True)]
        for name, recipe in RECIPES.items():
            children = list(recipe(genome, precise))
            chosen = random.Random(seed).sample(children, min(most, len(children)))
            found[name] = [
                (relative_error(wanted[0], run(*child, images)), relative_error(wanted[1], run(*child, images, True)))
                for child in chosen
            ]
    return found


def sweep(genomes: int) -> dict[str, list[Errors]]:
    """Returns the errors on random genomes."""
    found: dict[str, list[Errors]] = {name: [] for name in RECIPES}
    for seed in range(genomes):
        genome, weigh = (seeded_genome(seed), messy_weights) if seed % 2 else (drawn(seed), messy)
        for name, errors in measure(genome, weigh(genome, seed), seed).items():
            found[name] += errors
    return found


def summary(found: list[Errors]) -> dict[str, float]:
    """Returns how many there are, their median, the worst, and the share above the tolerance of our certificates."""
    errors = [error for error, _ in found]
    return {
        "pairs": len(errors),
        "median": statistics.median(errors),
        "worst": max(errors),
        "worst_train": max(error for _, error in found),
        "share_above_1e-12": sum(error > 1e-12 for error in errors) / len(errors),
    }


def _chains(genome: Genome) -> Iterator[tuple[str, list[str], str]]:
    """Yields a dense convolution, the norms behind it, and the dense convolution that alone reads them."""
    net = genome[genome.root]
    readers = {node: [edge.target for edge in net.edges if edge.source == node] for node in net.operations}

    def dense(node: str) -> bool:
        operation = net.operations[node]
        return isinstance(operation, Conv) and operation.groups == 1

    for node in filter(dense, net.order):
        norms, at = list[str](), readers[node]
        while len(at) == 1 and isinstance(net.operations[at[0]], (BatchNorm, *KEEPS_CHANNELS)):
            norms += [at[0]] if isinstance(net.operations[at[0]], BatchNorm) else []
            at = readers[at[0]]
        if norms and len(at) == 1 and dense(at[0]):
            yield node, norms, at[0]


def _images(genome: Genome) -> list[tuple[str, Operation]]:
    """Returns the nodes of the root module that are primitives and whose value is an image."""
    primitives, net = expand(genome).primitives, genome[genome.root]
    return [(node, op) for node, op in net.nodes if node in primitives and len(primitives[node].shape) == 3]


def _behind(genome: Genome, node: str, added: Mapping[str, Operation]) -> Genome:
    net, chain = genome[genome.root], [node, *added]
    old = [edge for edge in net.edges if edge.source == node]
    steps = [(before, after, 0) for before, after in pairwise(chain)]
    moved = [(chain[-1], edge.target, edge.port) for edge in old]
    return genome.changed({genome.root: net.changed(added, [*steps, *moved], old)})


def main() -> None:
    """Measures, and prints the result as JSON in the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer genomes")
    torch.set_num_threads(1)
    found = {name: summary(errors) for name, errors in sweep(40 if parser.parse_args().quick else 400).items()}
    for name, numbers in found.items():
        print(
            f"{name:42} {numbers['pairs']:5} pairs, median {numbers['median']:8.1e}, worst {numbers['worst']:8.1e}, "
            f"with batch statistics {numbers['worst_train']:8.1e}, {numbers['share_above_1e-12']:.0%} above 1e-12"
        )
    print("RESULT", json.dumps({"net2net": found, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
