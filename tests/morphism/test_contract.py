"""What every morphism promises; a newcomer joins by being in the catalogue."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from genomes import Genome, InvalidGenome, Limits, check, expand
from morphism import CATALOGUE, EXACT, Edit, Inapplicable, Morphism, compose
from morphism.certificate import TOLERANCES, certify, relative_error
from morphism.interpreter import run
from morphism.realise import realise
from morphism.tensors import Constant, Gather, Source
from tests.morphism.samples import drawn, messy, probes, uneven_calls

GENOMES = 60
LEAST_APPLICATIONS = 60  # of each morphism, else a test proves nothing
STEPS = 3  # gradients at the start and after each of two steps of gradient descent

each = pytest.mark.parametrize("morphism", CATALOGUE, ids=lambda morphism: morphism.name)


def planned(morphism: Morphism, genomes: int = GENOMES, tries: int = 3) -> Iterator[tuple[int, Genome, Edit]]:
    """Yields random genomes with edits at random sites."""
    for seed in range(genomes):
        genome, rng = drawn(seed), random.Random(seed)
        sites = morphism.sites(genome)
        for site in rng.sample(list(sites), min(tries, len(sites))):
            try:
                yield seed, genome, morphism.plan(genome, site, rng)
            except Inapplicable:
                continue


@each
def test_the_function_is_preserved_in_each_claimed_mode(morphism: Morphism) -> None:
    assert morphism.modes == EXACT
    applied = 0
    for seed, genome, edit in planned(morphism, genomes=3 * GENOMES if morphism.name == "inline" else GENOMES):
        check(edit.genome)
        assert edit.rule == morphism.name
        assert edit.modes == morphism.modes
        weights = messy(genome, seed)
        certificate = certify(genome, edit, weights, realise(edit, weights), seed)
        assert set(certificate.errors) == morphism.modes
        assert certificate.verdict, f"genome {seed}: {edit.rule} at {edit.site}: {certificate.errors}"
        applied += 1
    assert applied >= LEAST_APPLICATIONS


@each
def test_calls_may_differ_in_width_and_extent(morphism: Morphism) -> None:
    genome, applied = uneven_calls(), 0
    weights = messy(genome, 0)
    for site in morphism.sites(genome):
        edit = morphism.plan(genome, site, random.Random(0))
        check(edit.genome)
        assert certify(genome, edit, weights, realise(edit, weights), 0).verdict, edit.site
        applied += 1
    assert applied >= 2
    if morphism.name in ("deepen.residual", "deepen.identity"):
        with pytest.raises(Inapplicable):  # no convolution can have both widths
            morphism.plan(genome, {"module": "cell", "node": "r"}, random.Random(0))


@each
def test_in_float32_only_the_order_of_sums_is_felt(morphism: Morphism) -> None:
    for seed, genome, edit in planned(morphism, tries=1):
        weights, images = messy(genome, seed, torch.float32), probes(seed).float()
        error = relative_error(run(genome, weights, images), run(edit.genome, realise(edit, weights), images))
        assert error <= 1e-5, f"genome {seed}: {edit.site}"


@each
def test_every_offered_site_can_nearly_always_be_planned(morphism: Morphism) -> None:
    outcomes: Counter[bool] = Counter()
    for seed in range(GENOMES):
        genome = drawn(seed)
        for site in morphism.sites(genome):
            json.dumps(site)
            try:
                edit = morphism.plan(genome, site, random.Random(seed))
            except Inapplicable:
                outcomes[False] += 1
            else:
                check(edit.genome)
                assert edit.genome != genome
                outcomes[True] += 1
    assert outcomes[True] >= LEAST_APPLICATIONS // 2
    assert outcomes[False] <= 0.05 * outcomes[True]


@each
def test_planning_is_a_function_of_genome_site_and_seed(morphism: Morphism) -> None:
    for seed in range(10):
        for site in morphism.sites(drawn(seed))[:2]:
            first, second = (morphism.plan(drawn(seed), site, random.Random(7)) for _ in range(2))
            assert first == second
            assert first.digest == second.digest


@each
def test_an_impossible_site_is_refused(morphism: Morphism) -> None:
    for site in ({}, {"module": "net", "node": "nowhere"}, {"module": "net", "node": "in0", "source": "in0"}):
        if morphism.name == "deepen.residual" and site.get("node") == "in0":
            continue  # legal, though no site of its own choice
        with pytest.raises(Inapplicable):
            morphism.plan(drawn(0), site, random.Random(0))


@each
def test_parents_are_not_modified_and_untouched_tensors_are_the_same_objects(morphism: Morphism) -> None:
    for seed, genome, edit in planned(morphism, genomes=20, tries=1):
        weights = messy(genome, seed)
        before = {name: tensor.clone() for name, tensor in weights.items()}
        child = realise(edit, weights)
        assert all(torch.equal(before[name], weights[name]) for name in weights)
        assert all(child[name] is weights[name] for name in child if name not in edit.tensors)
        storages = [tensor.untyped_storage().data_ptr() for tensor in child.values()]
        assert len(set(storages)) == len(storages), "two names must never share memory"


@each
def test_edits_survive_json(morphism: Morphism) -> None:
    for _, _, edit in planned(morphism, genomes=20, tries=1):
        text = json.dumps(edit.to_json(), allow_nan=False)
        assert Edit.from_json(json.loads(text)) == edit
        assert Edit.from_json(json.loads(text)).digest == edit.digest


@each
def test_new_parameters_get_a_gradient_within_two_steps(morphism: Morphism) -> None:
    seen = silent = 0
    for seed, genome, edit in planned(morphism, genomes=GENOMES, tries=1):
        weights = messy(genome, seed)
        alive = _gradients(genome, weights, seed, steps=1)
        moved = _gradients(edit.genome, realise(edit, weights), seed, STEPS)
        for name, gradient in moved.items():
            if name.endswith("bias") or name not in edit.tensors:
                continue  # a bias before a norm has no gradient at all in train mode
            expression = edit.tensors[name]
            old = name in alive and expression.kind in ("gather", "pad")
            if old and not alive[name].max() > 0:
                continue  # dead in the parent already: its relu never opens
            seen += 1
            silent += not gradient.max() > 0
            if old:
                assert gradient.max() > 0, f"genome {seed}: {name}"
    assert seen >= 20 or morphism.name == "inline"
    # what is new behind a relu that is dead in the parent stays silent, and nothing else
    assert silent <= 0.06 * seen


def test_new_channels_get_a_gradient_within_two_steps() -> None:
    (widen,) = (morphism for morphism in CATALOGUE if morphism.name == "widen.zero_fanout")
    seen = silent = 0
    for seed, genome, edit in planned(widen, genomes=GENOMES, tries=1):
        moved = _gradients(edit.genome, realise(edit, messy(genome, seed)), seed, STEPS)
        for name, expression in edit.tensors.items():
            if not isinstance(expression, Gather) or name not in moved or name.endswith("bias"):
                continue
            new = [k for k, old in enumerate(expression.index) if old < 0] if expression.groups == 1 else []
            seen += len(new)
            silent += sum(not moved[name].select(expression.axis, k).max() > 0 for k in new)
    assert seen >= 200
    assert silent <= 0.15 * seen  # units of relu that no probe opens


@pytest.mark.parametrize("name", ["widen.split", "branch.replicate"])
def test_replicas_part_ways(name: str) -> None:
    (morphism,) = (morphism for morphism in CATALOGUE if morphism.name == name)
    compared = 0
    for seed, genome, edit in planned(morphism):
        weights = realise(edit, messy(genome, seed))
        trained = _trained(edit.genome, weights, seed, steps=3)
        for (first, second), (before, _) in zip(_replicas(edit, trained), _replicas(edit, weights), strict=True):
            if not torch.equal(first, before):  # else the channel is dead
                compared += 1
                assert not torch.equal(first, second), f"genome {seed}: {edit.site}"
    assert compared >= 20


def test_a_lineage_of_thirty_edits_preserves_the_function() -> None:
    applied: Counter[str] = Counter()
    for seed in range(8):
        first, weights, edits = _lineage(seed, 30)
        child = dict(weights)
        for edit in edits:
            child = realise(edit, child)
            applied[edit.rule] += 1
        for mode, tolerance in TOLERANCES.items():
            outputs = (run(g, w, probes(seed), mode == "train") for g, w in ((first, weights), (edit.genome, child)))
            assert relative_error(*outputs) <= tolerance
    assert len(applied) == len(CATALOGUE)
    assert applied.total() == 8 * 30


def test_a_composed_lineage_realises_to_the_same_tensors() -> None:
    for seed in range(6):
        _, weights, edits = _lineage(seed, 12)
        composed, child = edits[0], realise(edits[0], weights)
        for edit in edits[1:]:
            composed, child = compose(composed, edit), realise(edit, child)
        at_once = realise(composed, weights)
        assert composed.modes == EXACT
        assert Edit.from_json(composed.to_json()) == composed
        assert set(at_once) == set(child)
        assert all(torch.equal(at_once[name], child[name]) for name in child)


def test_the_catalogue_has_distinct_names_and_positive_weights() -> None:
    assert len({morphism.name for morphism in CATALOGUE}) == len(CATALOGUE)
    assert all(morphism.weight > 0 for morphism in CATALOGUE)


def test_zero_gamma_and_zero_convolutions_are_never_in_series() -> None:
    # static form of the trap: one edit makes at most one zero tensor for each call
    for morphism in CATALOGUE:
        for _, genome, edit in planned(morphism, genomes=20, tries=1):
            known = expand(genome).tensor_shapes()
            zeros = [n for n, e in edit.tensors.items() if isinstance(e, Constant) and not e.value]
            weights = [name for name in zeros if name.endswith("weight") and name not in known]
            calls = Counter(name.rpartition("/")[0] for name in weights)
            assert all(count == 1 for count in calls.values())


def _lineage(seed: int, length: int) -> tuple[Genome, dict[str, torch.Tensor], list[Edit]]:
    rng, first = random.Random(seed), drawn(seed)
    genome, edits = first, list[Edit]()
    while len(edits) < length:
        morphism = rng.choice(CATALOGUE)
        try:
            edit = morphism.plan(genome, rng.choice(morphism.sites(genome) or [{}]), rng)
            check(edit.genome, Limits(parameters=100_000, macs=4_000_000))
        except (Inapplicable, InvalidGenome):
            continue
        edits.append(edit)
        genome = edit.genome
    return first, messy(first, seed), edits


def _gradients(
    genome: Genome, weights: dict[str, torch.Tensor], seed: int, steps: int, rate: float = 0.05
) -> dict[str, torch.Tensor]:
    """Returns the largest gradient that each number has had during a few steps of gradient descent."""
    return _descend(genome, weights, seed, steps, rate)[1]


def _trained(genome: Genome, weights: dict[str, torch.Tensor], seed: int, steps: int) -> dict[str, torch.Tensor]:
    return _descend(genome, weights, seed, steps, 0.05)[0]


def _descend(
    genome: Genome, weights: dict[str, torch.Tensor], seed: int, steps: int, rate: float
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    current = {name: tensor.clone() for name, tensor in weights.items()}
    names = [name for name in current if "running" not in name]
    largest = {name: torch.zeros_like(current[name]) for name in names}
    labels = torch.arange(len(probes(seed))) % 3
    for _ in range(steps):
        for name in names:
            current[name].requires_grad_(True)
        loss = torch.nn.functional.cross_entropy(run(genome, current, probes(seed), train=True), labels)
        for name, gradient in zip(names, torch.autograd.grad(loss, [current[n] for n in names]), strict=True):
            largest[name] = torch.maximum(largest[name], gradient.abs())
            current[name] = (current[name] - rate * gradient).detach()
    return current, largest


def _replicas(edit: Edit, trained: dict[str, torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields pairs of rows, or of tensors, that were equal when they were made."""
    for name, expression in edit.tensors.items():
        if edit.rule == "widen.split" and isinstance(expression, Gather) and expression.share == "copy":
            positions = [k for k, i in enumerate(expression.index) if expression.index.count(i) == 2]
            if len(positions) >= 2 and name.endswith("weight") and trained[name].dim() == 4:
                index = expression.index[positions[0]]
                one, other = (k for k in positions if expression.index[k] == index)
                yield trained[name][one], trained[name][other]
        elif edit.rule == "branch.replicate" and isinstance(expression, Source) and name.endswith("weight"):
            yield trained[name], trained[expression.name]
