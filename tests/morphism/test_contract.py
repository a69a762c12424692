"""What every morphism promises; a newcomer joins by being in the catalogue."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import cache

import pytest
import torch

from genomes import Genome, InvalidGenome, Limits, check, expand
from morphism import CATALOGUE, EXACT, Edit, Inapplicable, Morphism, compose
from morphism.certificate import TOLERANCES, certify, relative_error
from morphism.interpreter import run
from morphism.realise import realise
from morphism.tensors import Constant, Gather, Source
from tests.morphism.samples import drawn, messy, probes, uneven_calls

APPLICATIONS = 60  # of each morphism, else a test proves nothing
MOST_GENOMES = 600
STEPS = 3  # gradients at the start and after each of two steps of gradient descent
BIT_IDENTICAL = (
    "deepen.residual", "deepen.identity", "deepen.prelu", "deepen.blend", "skip.add", "skip.gate", "act.blend",
    "se.insert", "attention.insert", "inline",
)  # fmt: skip
NEEDS_ONE_WIDTH = ("deepen.residual", "deepen.identity", "deepen.prelu", "deepen.blend")
PARTS_WAYS = ("widen.split", "widen.pair", "branch.replicate")
TABLE: dict[str, Morphism] = {morphism.name: morphism for morphism in CATALOGUE}

each = pytest.mark.parametrize("morphism", CATALOGUE, ids=lambda morphism: morphism.name)


@cache
def planned(morphism: Morphism, count: int = APPLICATIONS) -> tuple[tuple[int, Genome, Edit], ...]:
    """Returns so many seeds of random genomes, the genomes, and edits of them, at most two of one genome."""
    found: list[tuple[int, Genome, Edit]] = []
    for seed in range(MOST_GENOMES):
        genome, rng = drawn(seed), random.Random(seed)
        sites = morphism.sites(genome)
        for site in rng.sample(list(sites), min(2, len(sites))):
            with suppress(Inapplicable):
                found.append((seed, genome, morphism.plan(genome, site, rng)))
        if len(found) >= count:
            return tuple(found[:count])
    raise AssertionError(f"only {len(found)} sites of {morphism.name} in {MOST_GENOMES} genomes")


@each
def test_the_function_is_preserved_in_each_claimed_mode(morphism: Morphism) -> None:
    assert morphism.modes
    assert morphism.modes <= EXACT
    for seed, genome, edit in planned(morphism):
        check(edit.genome)
        assert edit.rule == morphism.name
        assert edit.modes == morphism.modes
        weights = messy(genome, seed)
        certificate = certify(genome, edit, weights, realise(edit, weights), seed)
        assert set(certificate.errors) == morphism.modes
        assert certificate.verdict, f"genome {seed}: {edit.rule} at {edit.site}: {certificate.errors}"


@each
def test_calls_may_differ_in_width_and_extent(morphism: Morphism) -> None:
    genome, applied = uneven_calls(), 0
    weights = messy(genome, 0)
    for site in morphism.sites(genome):
        edit = morphism.plan(genome, site, random.Random(0))
        check(edit.genome)
        assert certify(genome, edit, weights, realise(edit, weights), 0).verdict, edit.site
        applied += 1
    assert applied >= 1 or morphism.name == "attention.head"  # for which there is none
    if morphism.name in NEEDS_ONE_WIDTH:
        with pytest.raises(Inapplicable):  # no convolution can have both widths
            morphism.plan(genome, {"module": "cell", "node": "r"}, random.Random(0))


@each
def test_in_float32_only_the_order_of_sums_is_felt(morphism: Morphism) -> None:
    for seed, genome, edit in planned(morphism)[::2]:
        weights, images = messy(genome, seed, torch.float32), probes(seed).float()
        error = relative_error(run(genome, weights, images), run(edit.genome, realise(edit, weights), images))
        assert error <= 1e-5, f"genome {seed}: {edit.site}"


@pytest.mark.parametrize("name", BIT_IDENTICAL)
def test_what_starts_at_zero_or_as_the_identity_keeps_every_bit(name: str) -> None:
    for seed, genome, edit in planned(TABLE[name])[::2]:
        weights = messy(genome, seed)
        child = realise(edit, weights)
        for train in (False, True):
            before, after = run(genome, weights, probes(seed), train), run(edit.genome, child, probes(seed), train)
            assert torch.equal(before, after), f"genome {seed}: {edit.site}"


@each
def test_every_offered_site_can_nearly_always_be_planned(morphism: Morphism) -> None:
    outcomes: Counter[bool] = Counter()
    for seed in range(MOST_GENOMES):
        genome = drawn(seed)
        for site in morphism.sites(genome)[:3]:
            json.dumps(site)
            try:
                edit = morphism.plan(genome, site, random.Random(seed))
            except Inapplicable:
                outcomes[False] += 1
            else:
                check(edit.genome)
                assert edit.genome != genome
                outcomes[True] += 1
        if outcomes.total() >= 3 * APPLICATIONS:
            break
    assert outcomes[True] >= APPLICATIONS
    assert outcomes[False] <= 0.08 * outcomes[True]


@each
def test_planning_is_a_function_of_genome_site_and_seed(morphism: Morphism) -> None:
    for _, genome, edit in planned(morphism)[:10]:
        for site in morphism.sites(genome)[:2]:
            first, second = (morphism.plan(genome, site, random.Random(7)) for _ in range(2))
            assert first == second
            assert first.digest == second.digest
        assert edit == Edit.from_json(edit.to_json())


@each
def test_an_impossible_site_is_refused(morphism: Morphism) -> None:
    for site in ({}, {"module": "net", "node": "nowhere"}, {"module": "net", "node": "y", "source": "y"}):
        with pytest.raises(Inapplicable):
            morphism.plan(drawn(0), site, random.Random(0))


@each
def test_parents_are_not_modified_and_untouched_tensors_are_the_same_objects(morphism: Morphism) -> None:
    for seed, genome, edit in planned(morphism)[:20]:
        weights = messy(genome, seed)
        before = {name: tensor.clone() for name, tensor in weights.items()}
        child = realise(edit, weights)
        assert all(torch.equal(before[name], weights[name]) for name in weights)
        assert all(child[name] is weights[name] for name in child if name not in edit.tensors)
        storages = [tensor.untyped_storage().data_ptr() for tensor in child.values()]
        assert len(set(storages)) == len(storages), "two names must never share memory"


@each
def test_edits_survive_json(morphism: Morphism) -> None:
    for _, _, edit in planned(morphism)[:20]:
        text = json.dumps(edit.to_json(), allow_nan=False)
        assert Edit.from_json(json.loads(text)) == edit
        assert Edit.from_json(json.loads(text)).digest == edit.digest


@each
def test_new_parameters_get_a_gradient_within_two_steps(morphism: Morphism) -> None:
    seen = silent = 0
    for seed, genome, edit in planned(morphism)[::2]:
        weights = messy(genome, seed)
        alive = _gradients(genome, weights, seed, steps=1)
        moved = _gradients(edit.genome, realise(edit, weights), seed, STEPS)
        for name, gradient in moved.items():
            if name.endswith("bias") or name not in edit.tensors:
                continue  # a bias before a norm has no gradient at all in train mode
            expression = edit.tensors[name]
            old = name in alive and expression.kind in ("gather", "pad", "spread", "dense")
            if old and not alive[name].max() > 0:
                continue  # dead in the parent already: its relu never opens
            seen += 1
            silent += not gradient.max() > 0
            if old:
                assert gradient.max() > 0, f"genome {seed}: {name}"
    # what is new behind a relu that is dead in the parent stays silent, and nothing else
    assert silent <= 0.06 * seen


@pytest.mark.parametrize("name", ["widen.zero_fanout", "widen.pair"])
def test_new_channels_get_a_gradient_within_two_steps(name: str) -> None:
    seen = silent = 0
    for seed, genome, edit in planned(TABLE[name]):
        moved = _gradients(edit.genome, realise(edit, messy(genome, seed)), seed, STEPS)
        for tensor, expression in edit.tensors.items():
            if not isinstance(expression, Gather) or tensor not in moved or tensor.endswith("bias"):
                continue
            new = [k for k, old in enumerate(expression.index) if old < 0] if expression.groups == 1 else []
            seen += len(new)
            silent += sum(not moved[tensor].select(expression.axis, k).max() > 0 for k in new)
    assert seen >= 200
    assert silent <= 0.15 * seen  # units of relu that no probe opens


@pytest.mark.parametrize("name", PARTS_WAYS)
def test_copies_part_ways(name: str) -> None:
    equal = [torch.equal(first, second) for first, second in _trained_copies(TABLE[name])]
    assert len(equal) >= 10
    # a unit that no relu opens is moved by its norm alone, and so is its copy
    assert sum(equal) <= 0.02 * len(equal)


def test_replicas_with_equal_shares_stay_equal_for_ever() -> None:
    compared = 0
    for first, second in _trained_copies(TABLE["widen.replicate"]):
        compared += 1
        torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-12)
    assert compared >= 20


def test_a_lineage_of_thirty_edits_preserves_the_function() -> None:
    applied: Counter[str] = Counter()
    for seed in range(8):
        first, weights, edits = _lineage(seed, 30)
        child = dict(weights)
        for edit in edits:
            child = realise(edit, child)
            applied[edit.rule] += 1
        for mode in frozenset.intersection(*(edit.modes for edit in edits)):
            outputs = (run(g, w, probes(seed), mode == "train") for g, w in ((first, weights), (edit.genome, child)))
            assert relative_error(*outputs) <= TOLERANCES[mode]
    assert len(applied) == len(CATALOGUE)
    assert applied.total() == 8 * 30


def test_a_composed_lineage_realises_to_the_same_tensors() -> None:
    for seed in range(6):
        _, weights, edits = _lineage(seed, 12)
        composed, child = edits[0], realise(edits[0], weights)
        for edit in edits[1:]:
            composed, child = compose(composed, edit), realise(edit, child)
        at_once = realise(composed, weights)
        assert composed.modes == frozenset.intersection(*(edit.modes for edit in edits))
        assert Edit.from_json(composed.to_json()) == composed
        assert set(at_once) == set(child)
        assert all(torch.equal(at_once[name], child[name]) for name in child)


def test_the_catalogue_has_distinct_names_and_only_replicas_are_never_drawn() -> None:
    assert len(TABLE) == len(CATALOGUE)
    assert [morphism.name for morphism in CATALOGUE if not morphism.weight > 0] == ["widen.replicate"]


def test_zero_gamma_and_zero_convolutions_are_never_in_series() -> None:
    # static form of the trap: one edit makes at most one zero tensor for each call
    for morphism in CATALOGUE:
        for _, genome, edit in planned(morphism)[:20]:
            known = expand(genome).tensor_shapes()
            zeros = [n for n, e in edit.tensors.items() if isinstance(e, Constant) and not e.value]
            weights = [name for name in zeros if name.endswith("weight") and name not in known]
            calls = Counter(name.rpartition("/")[0] for name in weights)
            assert all(count == 1 for count in calls.values())


def _lineage(seed: int, length: int) -> tuple[Genome, dict[str, torch.Tensor], list[Edit]]:
    """Returns a genome, its weights, and edits one after the other; those of odd seeds all hold in train mode too."""
    choices = [morphism for morphism in CATALOGUE if seed % 2 == 0 or morphism.modes == EXACT]
    rng, first = random.Random(seed), drawn(seed)
    genome, edits = first, list[Edit]()
    while len(edits) < length:
        morphism = rng.choice(choices)
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


def _trained_copies(morphism: Morphism) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields pairs of what was equal when it was made, after three steps, but for pairs that no gradient reaches."""
    for seed, genome, edit in planned(morphism, 2 * APPLICATIONS):
        weights = realise(edit, messy(genome, seed))
        trained = _trained(edit.genome, weights, seed, steps=3)
        for pair, (before, _) in zip(_copies(edit, trained), _copies(edit, weights), strict=True):
            if not torch.equal(pair[0], before):
                yield pair


def _copies(edit: Edit, tensors: dict[str, torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields pairs of rows, or of tensors, that are copies of each other."""
    for name, expression in edit.tensors.items():
        if not name.endswith("weight") or (isinstance(expression, Gather) and tensors[name].dim() < 2):
            continue
        if isinstance(expression, Gather) and expression.axis == 0 and expression.share == "copy":
            yield from ((tensors[name][one], tensors[name][other]) for one, other in _twins(expression.index))
        elif edit.rule == "branch.replicate" and isinstance(expression, Source):
            yield tensors[name], tensors[expression.name]


def _twins(index: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yields the places of a channel and of its replica, or of the two of a pair."""
    for place, source in enumerate(index):
        if source == -1:
            yield place, place + 1
        elif source >= 0 and source in index[:place]:
            yield index.index(source), place


def test_every_copy_is_compared() -> None:
    assert list(_twins((0, 0, 1, 2, 2, 2))) == [(0, 1), (3, 4), (3, 5)]
    assert list(_twins((0, -1, -2, -1, -2, 1))) == [(1, 2), (3, 4)]
