"""Disruptions of convolutions and linear maps that inherit most of what they compute."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from genomes import Genome, expand
from genomes.operations import Conv, Linear, Operation
from morphism import INEXACT, Edit, Inapplicable
from morphism.edit import Modes, Site
from morphism.names import derived_seed, new_id
from morphism.planning import channel_count, finish, in_front, node_of, nodes, seed_of
from morphism.tensors import Crop, Noise, Separated, Source, TensorExpr

DEVIATION = 1e-2  # of noise, relative to the weights' root mean square


@dataclass(frozen=True)
class ShrinkKernel:
    """Takes the outer ring off a convolution's kernel; the inner taps are inherited."""

    name: str = "shrink.kernel"
    modes: Modes = INEXACT
    weight: float = 0.5

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the convolutions whose padding allows it."""
        return [{"module": m, "node": n} for m, n, op in nodes(genome) if isinstance(op, Conv) and _shrinkable(op)]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the node is no convolution of 3 or more with padding to match.
        """
        module, node, op = node_of(genome, site)
        if not isinstance(op, Conv) or not _shrinkable(op):
            raise Inapplicable(f"{self.name} needs a padded convolution of 3 or more, got {op.kind} {node}")
        smaller, name = replace(op, kernel=op.kernel - 2, padding=op.padding - op.dilation), str(site["module"])
        tensors = {weight: Crop(Source(weight), 1) for weight in _weights(genome, name, node)}
        child = genome.changed({name: module.changed({node: smaller})})
        return finish(self.name, {**site, "kernel": smaller.kernel}, genome, child, tensors, rng, INEXACT)


@dataclass(frozen=True)
class Separate:
    """Replaces a k x k convolution by a depthwise k x k and a 1 x 1 one that come closest to it.

    Source: Chollet 2017, Xception (the layer); one singular value of the weights of each input channel: ours.
    """

    name: str = "replace.separable"
    modes: Modes = INEXACT
    weight: float = 0.5

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the dense convolutions of 3 x 3 and more."""
        return [{"module": m, "node": n} for m, n, op in nodes(genome) if _separable(genome, m, n, op)]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit; the node becomes the 1 x 1 convolution and keeps its bias.

        Raises:
            Inapplicable: the node is no dense convolution of 3 x 3 or more that reads two channels or more, as many in
                every call.
        """
        module, node, op = node_of(genome, site)
        name = str(site["module"])
        if not isinstance(op, Conv) or not (channels := _separable(genome, name, node, op)):
            raise Inapplicable(f"{self.name} needs a dense convolution of 3 x 3 or more, got {op.kind} {node}")
        first = replace(op, out_channels=channels, groups=channels, bias=False)
        window = new_id(module, self.name, [node], first)
        child = genome.changed({name: in_front(module, node, window, first, Conv(op.out_channels, 1, bias=op.bias))})
        tensors: dict[str, TensorExpr] = {}
        for weight in _weights(genome, name, node):
            tensors[weight] = Separated(Source(weight), "second")
            tensors[f"{weight.removesuffix(f'{node}.weight')}{window}.weight"] = Separated(Source(weight), "first")
        return finish(self.name, site, genome, child, tensors, rng, INEXACT)


@dataclass(frozen=True)
class AddNoise:
    """Adds a little noise to the weights of a convolution or linear map, so that replicas among its rows part ways.

    The genome stays as it is: it is a tool to follow `widen.replicate`, and is never drawn by itself.

    Source: Chen et al. 2016, Net2Net, section 2.3.
    """

    name: str = "widen.noise"
    modes: Modes = INEXACT
    weight: float = 0.0

    def sites(self, genome: Genome) -> Sequence[Site]:
        """Returns the convolutions and linear maps."""
        return [{"module": m, "node": n} for m, n, op in nodes(genome) if isinstance(op, (Conv, Linear))]

    def plan(self, genome: Genome, site: Site, rng: random.Random) -> Edit:
        """Returns the edit.

        Raises:
            Inapplicable: the node is neither a convolution nor a linear map.
        """
        _, node, op = node_of(genome, site)
        if not isinstance(op, (Conv, Linear)):
            raise Inapplicable(f"{self.name} needs a convolution or linear map, got {op.kind} {node}")
        seed = seed_of(rng)
        weights = _weights(genome, str(site["module"]), node)
        tensors = {weight: Noise(Source(weight), DEVIATION, derived_seed(seed, weight)) for weight in weights}
        return finish(self.name, site, genome, genome.changed({}), tensors, rng, INEXACT)


def _weights(genome: Genome, module: str, node: str) -> list[str]:
    return [f"{path}.weight" for path in expand(genome).instances[module, node]]


def _shrinkable(op: Conv) -> bool:
    return op.kernel >= 3 and op.padding >= op.dilation


def _separable(genome: Genome, module: str, node: str, op: Operation) -> int:
    """Returns how many channels a convolution reads that can be replaced; 0 if it cannot."""
    if not isinstance(op, Conv) or op.kernel < 3 or op.groups > 1:
        return 0
    channels = channel_count(expand(genome), module, genome[module].sources[node][0]) or 0
    return channels if channels > 1 else 0
