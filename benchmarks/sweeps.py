"""The sweeps of exactness.py: what is applied to what, and what counts as a violation. Work for its processes."""

from __future__ import annotations

import random
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the generators of the tests

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from genomes import Genome, InvalidGenome, Limits, check, expand
from genomes.operations import BatchNorm, Input
from morphism import CATALOGUE, EXACT, Edit, Inapplicable, Morphism, Site
from morphism.certificate import certify, relative_error
from morphism.interpreter import run
from morphism.realise import realise
from morphism.shrink import INVERSES
from tests.drawing import messy_weights, seeded_genome
from tests.morphism.samples import drawn, messy

Weights = dict[str, Tensor]
BOUNDS = {"float64": 1e-12, "float32": 1e-5, "train": 1e-10}
SMALL = Limits(parameters=100_000, macs=4_000_000)
RULES: tuple[Morphism, ...] = tuple(dict.fromkeys((*CATALOGUE, *INVERSES)))
TABLE: Mapping[str, Morphism] = {morphism.name: morphism for morphism in RULES}
UNDOES = {  # what each undoes, so that there is something to undo
    "kernel.crop": ("kernel.grow",),
    "narrow.zero_fanout": ("widen.zero_fanout",),
    "narrow.merge": ("widen.replicate", "widen.split"),
    "branch.drop_zero": ("skip.add", "deepen.residual"),
}
HOSTS = {"attention.head": ("attention.insert",)}  # what it needs in a network, with weights that are not zero
UNPROVEN = {"bn.fold"}  # export only: measured, beyond the rules of the static proof
MODELS = ("resnet18", "mobilenet_v3_small")
IMAGE = (3, 64, 64)
TRIES, LENGTH = 60, 30
EXAMPLES = 3  # of violations that are kept for each morphism


@dataclass
class Tally:
    """What was seen of one morphism: applications, refusals, violations with examples, worst errors, proofs.

    `coarse` are differences in float32 above its bound of a parent and a child that round to opposite sides: each is
    within the bound of the function in float64.
    """

    applied: int = 0
    refused: int = 0
    proved: int = 0
    violations: int = 0
    worst: dict[str, float] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)
    coarse: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Takes in what another has seen."""
        for name in ("applied", "refused", "proved", "violations"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.worst = {n: max(self.worst.get(n, 0.0), other.worst.get(n, 0.0)) for n in {*self.worst, *other.worst}}
        self.examples = (self.examples + other.examples)[:EXAMPLES]
        self.coarse += other.coarse

    def violate(self, what: str) -> None:
        """Counts a violation."""
        self.violations += 1
        self.examples = [*self.examples, what][:EXAMPLES]


Tallies = dict[str, Tally]


class NoTensors(TorchDispatchMode):
    """While it is entered, no operation of torch may be called."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuses."""
        raise AssertionError(f"planning called {func}")


def planned(morphism: Morphism, genome: Genome, rng: random.Random, near: Site | None = None) -> Edit:
    """Returns an edit at a random site, or where another edit was made; planned without any tensor."""
    with NoTensors():
        edit = morphism.plan(genome, site_of(morphism, genome, rng, near), rng)
    check(edit.genome)
    return edit


def site_of(morphism: Morphism, genome: Genome, rng: random.Random, near: Site | None) -> Site:
    """Returns a random site, one that names the node of `near` if there is one; an impossible site if there is none."""
    sites = morphism.sites(genome)
    there = [site for site in sites if near and all(site.get(key) == near.get(key) for key in ("module", "node"))]
    return rng.choice(there or sites or [{}])


def founder(rng: random.Random) -> tuple[Genome, Callable[[Genome, int], Weights]]:
    """Returns a random genome of either generator of the tests, and what draws its messy weights."""
    seed = rng.randrange(2**31)
    return (seeded_genome(seed), messy_weights) if rng.randrange(2) else (drawn(seed), messy)


def parent(rule: str, rng: random.Random) -> tuple[Genome, Weights, Site | None]:
    """Returns a random genome, often one that has been edited before, with messy weights and something to edit."""
    genome, weigh = founder(rng)
    for name in [*rng.sample(sorted(TABLE), rng.choice((0, 0, 1, 3))), *HOSTS.get(rule, ())]:
        try:
            edit = planned(TABLE[name], genome, rng)
            check(edit.genome, SMALL)
        except (Inapplicable, InvalidGenome):
            continue
        genome = edit.genome
    return prepared(rule, genome, weigh(genome, rng.randrange(2**31)), rng)


def prepared(rule: str, genome: Genome, weights: Weights, rng: random.Random) -> tuple[Genome, Weights, Site | None]:
    """Returns the network that an inverse can be applied to, with its partner's edit, and where that was made."""
    if rule in UNDOES:
        edit = planned(TABLE[rng.choice(UNDOES[rule])], genome, rng)
        return edit.genome, realise(edit, weights), edit.site
    return genome, weights, None


def judge(genome: Genome, edit: Edit, weights: Weights, seed: int) -> Tally:
    """Applies an edit to weights in float64, and holds it to all that it claims."""
    tally, before = Tally(applied=1), {name: tensor.clone() for name, tensor in weights.items()}
    certificate = certify(genome, edit, weights, realise(edit, weights), seed)
    single = {name: tensor.float() for name, tensor in weights.items()}
    images = probes(genome, seed).float()
    with torch.no_grad():
        outputs = run(genome, single, images), run(edit.genome, realise(edit, single), images)
    named = {"eval": "float64", "train": "train"}
    tally.worst = {named[mode]: error for mode, error in certificate.errors.items()}
    tally.worst["float32"] = relative_error(*outputs)
    tally.proved = certificate.proved == certificate.modes
    for name, error in tally.worst.items():
        if error <= (0 if claims_bits(edit.rule) else BOUNDS[name]):
            continue
        if name == "float32" and (off := _off(genome, single, images, outputs[1])) <= BOUNDS[name]:
            tally.coarse.append(f"{edit.rule} {error:.1e}, the child's own {off:.1e}")
        else:
            tally.violate(f"{name} {error:.1e} at {dict(edit.site)}")
    if not certificate.verdict and edit.rule not in UNPROVEN:
        tally.violate(f"no verdict at {dict(edit.site)}: {certificate}")
    if any(not torch.equal(before[name], weights[name]) for name in weights):
        tally.violate(f"the parent was changed at {dict(edit.site)}")
    return tally


def _off(genome: Genome, weights: Weights, images: Tensor, found: Tensor) -> float:
    """Returns how far outputs in float32 are from the parent's function, of the same weights, in float64."""
    with torch.no_grad():
        exact = run(genome, {name: tensor.double() for name, tensor in weights.items()}, images.double())
    return relative_error(exact, found.double())


def claims_bits(rule: str) -> bool:
    """Says whether a morphism's docstring promises the very same bits."""
    return rule in TABLE and "Preserves: bit for bit" in (type(TABLE[rule]).__doc__ or "")


def probes(genome: Genome, seed: int) -> Tensor:
    """Returns four images in float64."""
    shape = next(p.shape for p in expand(genome).primitives.values() if isinstance(p.operation, Input))
    return torch.randn((4, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs(numbers: Sequence[int]) -> Tallies:
    """Judges one edit for each number; the morphisms take turns."""
    found: Tallies = defaultdict(Tally)
    for number in numbers:
        rule = RULES[number % len(RULES)].name
        for attempt in range(TRIES):
            rng = random.Random(f"pair {number} {attempt}")
            try:
                genome, weights, near = parent(rule, rng)
                edit = planned(TABLE[rule], genome, rng, near)
                found[rule].add(judge(genome, edit, weights, number))
                break
            except (Inapplicable, InvalidGenome):
                found[rule].refused += 1
            except Exception as error:  # counted like any other violation, never the end of the sweep
                found[rule].violate(f"pair {number} {attempt}: {type(error).__name__}: {error}")
                break
    return dict(found)


def lineages(numbers: Sequence[int]) -> Tallies:
    """Follows a lineage for each number, and compares its end with its founder in the modes that all edits claim."""
    found: Tallies = defaultdict(Tally)
    for number in numbers:
        try:
            found["lineage"].add(_lineage(number))
        except Exception as error:  # as in pairs
            found["lineage"].violate(f"lineage {number}: {type(error).__name__}: {error}")
    return dict(found)


def _lineage(number: int) -> Tally:
    rng, tally = random.Random(f"lineage {number}"), Tally(applied=1)
    first, weigh = founder(rng)
    start = weigh(first, number)
    once, images = {name: tensor.float() for name, tensor in start.items()}, probes(first, number)
    # what claims less takes part in every fourth lineage only, lest no lineage be exact in both modes
    edits, double, single = _grown(first, start, once, [m for m in RULES if m.modes == EXACT or number % 4 == 0], rng)
    last, modes = edits[-1].genome, EXACT.intersection(*(edit.modes for edit in edits))
    with torch.no_grad():
        for mode, name in {"eval": "float64", "train": "train"}.items():
            if mode in modes:
                outputs = (run(g, w, images, mode == "train") for g, w in ((first, start), (last, double)))
                tally.worst[name] = relative_error(*outputs)
        ends = (run(g, w, images.float()) for g, w in ((first, once), (last, single)))
        tally.worst["float32"] = relative_error(*ends)
    for name, error in tally.worst.items():
        if not error <= BOUNDS[name]:
            tally.violate(f"lineage {number}: {name} {error:.1e} after {', '.join(e.rule for e in edits)}")
    return tally


def _grown(
    genome: Genome, double: Weights, single: Weights, known: Sequence[Morphism], rng: random.Random
) -> tuple[list[Edit], Weights, Weights]:
    """Returns the edits of a lineage, and what they make of its founder's weights in float64 and in float32."""
    edits = list[Edit]()
    for _ in range(TRIES * LENGTH):
        try:
            edit = planned(rng.choice(known), genome, rng)
            check(edit.genome, SMALL)
            double, single = realise(edit, double), realise(edit, single)
        except (Inapplicable, InvalidGenome):
            continue
        genome = edit.genome
        edits.append(edit)
        if len(edits) == LENGTH:
            return edits, double, single
    raise Inapplicable(f"a lineage must have {LENGTH} edits within {SMALL}, it found {len(edits)}")


@lru_cache(maxsize=2)
def converted(model: str) -> tuple[Genome, Weights]:
    """Returns a model of torchvision as a genome with float32 weights: random ones, and messy norms."""
    import torchvision

    from training.convert import convert

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = getattr(torchvision.models, model)(weights=None, num_classes=10).eval()
    genome, weights = convert(network, IMAGE)
    norms = [p for p in expand(genome).primitives.values() if isinstance(p.operation, BatchNorm)]
    names = {name for norm in norms for name in norm.tensor_shapes()}
    stirred = messy(genome, 0, torch.float32)
    return genome, {name: stirred[name] if name in names else tensor for name, tensor in weights.items()}


def real(model: str, rule: str, sites: int) -> Tallies:
    """Judges edits of one kind at several sites of a real network."""
    tally, rng = Tally(), random.Random(f"{model} {rule}")
    genome, single = converted(model)
    weights = {name: tensor.double() for name, tensor in single.items()}
    for number in range(10 * sites):
        if tally.applied == sites:
            break
        try:
            at, tensors, near = ready(rule, genome, weights, rng)
            tally.add(judge(at, planned(TABLE[rule], at, rng, near), tensors, number))
        except (Inapplicable, InvalidGenome):
            tally.refused += 1
        except Exception as error:  # as in pairs
            tally.violate(f"{model}: {type(error).__name__}: {error}")
    return {rule: tally}


def ready(rule: str, genome: Genome, weights: Weights, rng: random.Random) -> tuple[Genome, Weights, Site | None]:
    """Returns the network with what the rule needs: a host with messy weights, or its partner's edit."""
    for name in HOSTS.get(rule, ()):
        edit = planned(TABLE[name], genome, rng)
        genome = edit.genome
        weights = {**messy(genome, 0, next(iter(weights.values())).dtype), **weights}
    return prepared(rule, genome, weights, rng)
