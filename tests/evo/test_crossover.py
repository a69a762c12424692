"""Crossover: replay is exact, a donor's tensors arrive bit for bit, and children have two parents."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from evo import NSGA2, AgingEvolution, VariationSettings, crossover
from evo.attempt import attempt, sound
from evo.crossover import KINDS, MOST, lineage, mate, replayed, since
from evo.donor import donated
from evo.region import LARGEST, regions, swapped
from genomes import Genome, Limits, Module, check, equivalent, expand
from genomes.operations import Add, Call, Conv, Flatten, GlobalPool, Input, Linear, Output, ReLU
from morphism import CATALOGUE, EXACT, Edit
from morphism.certificate import certify
from morphism.realise import realise
from morphism.tensors import Constant, Source
from search import Candidate
from tests.morphism.samples import drawn, messy
from tests.morphism.test_channels import chain
from tests.strategies.contract import LIMITS, STARTERS, Game, evolving, identity, toy

Operator = Callable[[Genome, Genome, Callable[[Genome], bool], random.Random, Limits], Edit | None]
FREE = Limits()
CROSSING = VariationSettings(crossover=0.7)
SURE = tuple(kind for kind in CATALOGUE if kind.modes == EXACT and kind.weight)


def grown(number: int, parent: Candidate, rng: random.Random, count: int = 3) -> Candidate:
    """Returns a child by morphisms alone."""
    edits, genome = list[Edit](), parent.genome
    while len(edits) < count:
        kind = rng.choice(SURE)
        if (sites := kind.sites(genome)) and (edit := attempt(kind, genome, rng.choice(sites), rng, LIMITS)):
            edits.append(edit)
            genome = edit.genome
    return Candidate(number, genome, (parent.number,), tuple(edits))


def family(seed: int) -> dict[int, Candidate]:
    """Returns a founder 0, its child 1, and the children 2 and 3 of that, a grandchild 4 of 3."""
    rng = random.Random(seed)
    known = {0: Candidate(0, rng.choice((*STARTERS, drawn(seed))))}
    for number, parent in ((1, 0), (2, 1), (3, 1), (4, 3)):
        known[number] = grown(number, known[parent], rng, rng.randint(1, 3))
    return known


def new_to(*parents: Genome) -> Callable[[Genome], bool]:
    return lambda genome: not any(equivalent(genome, parent) for parent in parents)


def mixed_from(edit: Edit, own: Genome, donor: Genome) -> tuple[int, int]:
    """Realises an edit and returns how many of the child's tensors are bit for bit the donor's and the receiver's."""
    mine, theirs = messy(own, 1), messy(donor, 2)
    child = realise(edit, mine, theirs)
    taken = kept = 0
    for name, tensor in child.items():
        match edit.tensors.get(name):
            case Source(name=origin, donor=1):
                assert torch.equal(tensor, theirs[origin])
                taken += 1
            case None:
                assert tensor is mine[name]
                kept += 1
    assert set(child) == set(expand(edit.genome).tensor_shapes())
    return taken, kept


@pytest.mark.parametrize("seed", range(20))
def test_a_replay_is_exact_and_certified_on_messy_weights(seed: int) -> None:
    known = family(seed)
    weights, genome = messy(known[2].genome, seed), known[2].genome
    edits = replayed(known[2], known[4], known, LIMITS)
    for edit in edits:
        child = realise(edit, weights)
        certificate = certify(genome, edit, weights, child, seed)
        assert certificate.verdict
        assert edit.modes == KINDS[edit.rule].modes
        weights, genome = child, edit.genome


def test_a_replay_does_again_what_led_to_the_giver_since_the_common_ancestor_and_no_more() -> None:
    lost = total = 0
    for seed in range(20):
        known = family(seed)
        theirs = [edit for _, edit in since(known[4], known[2], known)]
        assert theirs == [*known[3].edits, *known[4].edits]
        again = replayed(known[2], known[4], known, FREE)
        rules = iter(edit.rule for edit in theirs)
        assert all(edit.rule in rules for edit in again), "in the same order"
        lost, total = lost + len(theirs) - len(again), total + len(theirs)
    assert lost < total / 3


def test_on_the_ancestor_itself_a_replay_leads_to_the_same_nodes() -> None:
    same = 0
    for seed in range(20):
        known = family(seed)
        again = replayed(known[1], known[2], known, FREE)
        assert len(again) == len(known[2].edits)
        same += {name for name, _ in again[-1].genome.modules} == {name for name, _ in known[2].genome.modules}
        ids = [
            {(name, node) for name, m in g.modules for node in m.operations}
            for g in (again[-1].genome, known[2].genome)
        ]
        assert len(ids[0] ^ ids[1]) <= len(ids[1]) / 4  # the width of a branch may differ, and with it some names
    assert same == 20


def test_what_both_did_is_not_done_twice() -> None:
    known = family(3)
    twin = replace(known[2], number=9)
    assert replayed(known[2], twin, {**known, 9: twin}, FREE) == ()


def test_a_replay_has_eight_edits_at_most() -> None:
    known = {0: Candidate(0, STARTERS[1])}
    for number in range(1, 8):
        known[number] = grown(number, known[number - 1], random.Random(number), 2)
    assert 2 <= len(replayed(known[0], known[7], known, FREE)) <= MOST


def test_the_lineage_is_that_of_the_weights() -> None:
    known = family(0)
    known[5] = replace(known[4], number=5, parents=(4, 2))
    assert [ancestor.number for ancestor in lineage(known[5], known)] == [5, 4, 3, 1, 0]


@pytest.mark.parametrize("operator", [donated, swapped])
def test_a_donor_s_tensors_arrive_bit_for_bit_and_the_rest_stays(operator: Operator) -> None:
    found = 0
    for seed in range(60):
        one, two = drawn(seed), drawn(seed + 500)
        edit = operator(one, two, new_to(one, two), random.Random(seed), FREE)
        if edit is None:
            continue
        check(edit.genome)
        assert not edit.modes
        taken, kept = mixed_from(edit, one, two)
        assert taken == edit.site["tensors"] > 0
        assert Edit.from_json(edit.to_json()) == edit
        found += kept > 0
    assert found > 15


def test_a_donor_s_nodes_bring_their_operation_and_all_that_fits() -> None:
    one, two = STARTERS[0], STARTERS[2]  # of widths 4 and 6
    edit = donated(one, two, new_to(one, two), random.Random(0), FREE)
    assert edit
    for name in edit.site["nodes"]:
        module, node = name.split(".")
        assert edit.genome[module].operations[node] == two[module].operations[node]
    assert edit.site["tensors"] == sum(isinstance(value, Source) for value in edit.tensors.values())


def ladder(width: int, prefix: str = "") -> Genome:
    """Returns a network with one fork: x - a - (b, c) - add - d - head."""
    nodes = {
        "x": Input(0, (2, 8, 8)),
        f"{prefix}a": Conv.same(4, 3),
        f"{prefix}b": Conv.same(width, 3),
        f"{prefix}c": Conv.same(width, 1),
        f"{prefix}sum": Add(),
        f"{prefix}d": Conv.same(4, 3),
        "pool": GlobalPool(),
        "flat": Flatten(),
        "head": Linear(3),
        "out": Output(),
    }
    chain = ["x", f"{prefix}a", f"{prefix}b", f"{prefix}sum", f"{prefix}d", "pool", "flat", "head", "out"]
    edges = [
        *((a, b, 0) for a, b in pairwise(chain)),
        (f"{prefix}a", f"{prefix}c", 0),
        (f"{prefix}c", f"{prefix}sum", 1),
    ]
    return Genome.of({"net": Module.of(nodes, edges)})


def test_a_donor_s_operation_comes_with_its_weight_even_where_the_receiver_s_has_the_same_shape() -> None:
    one = ladder(4)
    dilated = {"b": Conv.same(4, 3, dilation=2), "d": Conv.same(4, 3, dilation=2)}
    two = one.changed({"net": one["net"].changed(dilated)})
    edit = next(filter(None, (donated(one, two, new_to(one, two), random.Random(seed), FREE) for seed in range(9))))
    (name,) = edit.site["nodes"]
    weight = f"{name.removeprefix('net.')}.weight"
    assert edit.tensors[weight] == Source(weight, 1)
    assert not any(name.startswith(("a.", "c.", "head.")) for name in edit.tensors)


def test_regions_have_one_way_in_and_one_way_out() -> None:
    found = {(region.entry, region.exit): region.nodes for region in regions(ladder(4))}
    assert found["a", "sum"] == {"b", "c", "sum"}
    assert found["a", "d"] == {"b", "c", "sum", "d"}
    assert found["x", "a"] == {"a"}
    assert found["a", "b"] == {"b"}
    assert ("b", "sum") not in found  # the sum reads c as well
    assert ("b", "d") not in found
    assert not any("out" in nodes for nodes in found.values())


def test_regions_are_closed_in_random_genomes_and_not_too_large() -> None:
    for seed in range(40):
        genome = drawn(seed)
        for region in regions(genome):
            module = genome[region.module]
            crossing = {e for e in module.edges if (e.source in region.nodes) != (e.target in region.nodes)}
            assert {e.source for e in crossing} <= {region.entry, region.exit}
            assert region.entry not in region.nodes
            assert region.exit in region.nodes
            assert len(region.nodes) <= LARGEST


def test_a_region_of_other_names_comes_whole_and_names_that_collide_are_renamed() -> None:
    one = ladder(4)
    for two in (ladder(6, "other_"), ladder(6)):
        rules = set()
        for seed in range(20):
            edit = swapped(one, two, new_to(one, two), random.Random(seed), FREE)
            assert edit
            check(edit.genome)
            rules.add(len(edit.genome["net"].operations))
            mixed_from(edit, one, two)
        assert len(rules) > 1


def test_a_region_brings_the_modules_that_it_calls_and_leaves_none_behind() -> None:
    brought = dropped = 0
    for seed in range(120):
        one, two = drawn(seed), drawn(seed + 300)
        if edit := swapped(one, two, new_to(one, two), random.Random(seed), FREE):
            check(edit.genome)  # an uncalled module would not be valid
            called = {op.module for _, m in edit.genome.modules for _, op in m.nodes if isinstance(op, Call)}
            brought += len(called) > ("cell" in one)
            dropped += "cell" in one and "cell" not in edit.genome
    assert brought > 0
    assert dropped > 0


def test_a_module_that_both_call_but_that_differs_gets_another_name() -> None:
    def calling(width: int) -> Genome:
        cell = Module.of(
            {"i": Input(0), "c": Conv.same(width, 3), "d": Conv.same(4, 1), "r": ReLU(), "o": Output()},
            list(pairwise("icdro")),
        )
        nodes = {
            "x": Input(0, (2, 8, 8)),
            "a": Conv.same(4, 3),
            "one": Call("cell"),
            "two": Call("cell"),
            "p": GlobalPool(),
            "f": Flatten(),
            "h": Linear(3),
            "y": Output(),
        }
        return Genome.of({"net": Module.of(nodes, list(pairwise(nodes))), "cell": cell})

    one, two = calling(4), calling(8)
    children = [swapped(one, two, new_to(one, two), random.Random(seed), FREE) for seed in range(30)]
    mixed = [edit for edit in children if edit and len(edit.genome.modules) == 3]
    assert mixed
    for edit in mixed:
        taken, kept = mixed_from(edit, one, two)
        assert taken
        assert kept


def test_a_region_of_a_module_may_call_what_the_module_was() -> None:
    chain = {"i": Input(0), "c": Conv.same(4, 3), "r": ReLU(), "o": Output()}
    nodes = {"x": Input(0, (4, 8, 8)), "one": Call("cell"), "p": GlobalPool(), "f": Flatten(), "h": Linear(3)}
    nodes["y"] = Output()
    modules = {name: Module.of(content, list(pairwise(content))) for name, content in (("net", nodes), ("cell", chain))}
    one = Genome.of(modules)
    children = [swapped(one, one, new_to(one), random.Random(seed), FREE) for seed in range(40)]
    nested = [edit for edit in children if edit and edit.site["module"] == "cell" and edit.site["from_module"] == "net"]
    assert nested
    for edit in nested:
        check(edit.genome)
        taken, _ = mixed_from(edit, one, one)
        assert taken


def test_mating_is_deterministic_and_prefers_replay() -> None:
    known = family(1)
    first, second = (
        mate(known[2], known[4], known, new_to(known[2].genome, known[4].genome), random.Random(0), FREE)
        for _ in range(2)
    )
    assert [edit.digest for edit in first] == [edit.digest for edit in second]
    assert first == replayed(known[2], known[4], known, FREE)
    one, two = Candidate(0, STARTERS[0]), Candidate(1, STARTERS[2])  # founders: nothing to replay
    (edit,) = mate(one, two, {0: one, 1: two}, new_to(one.genome, two.genome), random.Random(0), FREE)
    assert edit.rule in {"cross.donor", "cross.region"}


def test_a_region_may_have_a_node_that_is_named_as_the_exit_of_the_old_one() -> None:
    tail = {"g": GlobalPool(), "f": Flatten(), "h": Linear(2)}
    one = chain(a=Conv(4, 1), c=Conv(4, 1), **tail)
    two = chain(a=Conv.same(4, 3), c=Conv.same(4, 3), d=Conv.same(4, 3), **tail)
    children = [swapped(one, two, new_to(one, two), random.Random(seed), FREE) for seed in range(100)]
    both = chain(a=Conv(4, 1), c=Conv.same(4, 3), d=Conv.same(4, 3), **tail)
    assert both in [edit.genome for edit in children if edit and edit.site["node"] == "c" != edit.site["from_node"]]


def test_limits_hold_for_children_of_two() -> None:
    known = family(1)
    assert mate(known[2], known[4], known, lambda _: True, random.Random(0), Limits(parameters=1)) == ()
    assert mate(known[2], known[4], known, lambda _: False, random.Random(0), FREE) == ()


def test_a_replay_that_could_not_learn_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    known = family(1)
    monkeypatch.setattr(crossover, "sound", lambda _: False)
    edits = mate(known[2], known[4], known, new_to(known[2].genome, known[4].genome), random.Random(0), FREE)
    assert all(edit.rule.startswith("cross.") for edit in edits)


@pytest.mark.parametrize("strategy", [AgingEvolution, NSGA2])
def test_children_of_two_are_new_and_occur_in_every_kind(strategy: type[AgingEvolution | NSGA2]) -> None:
    kinds = Counter[str]()
    for seed in range(3):
        game = Game(evolving(strategy, seed, CROSSING)).play(60)
        for candidate in game.asked:
            if len(candidate.parents) == 2:
                rule = candidate.edits[0].rule
                kinds[rule if rule.startswith("cross") else "replay"] += 1
                check(candidate.genome, LIMITS)
                assert len(set(candidate.parents)) == 2
                for parent in candidate.parents:
                    assert not equivalent(candidate.genome, game.asked[parent].genome)
    assert set(kinds) == {"replay", "cross.donor", "cross.region"}


def test_a_child_of_two_that_was_replayed_realises_from_the_first_parent_alone() -> None:
    game = Game(evolving(NSGA2, 5, CROSSING)).play(60)
    replays = [c for c in game.asked if len(c.parents) == 2 and not c.edits[0].rule.startswith("cross")]
    assert replays
    for candidate in replays:
        weights = messy(game.asked[candidate.parents[0]].genome, 0)
        for edit in candidate.edits:
            weights = realise(edit, weights)
        assert set(weights) == set(expand(candidate.genome).tensor_shapes())


def test_without_crossover_nobody_has_two_parents_and_nothing_else_is_drawn() -> None:
    plain, none = (
        Game(evolving(NSGA2, 6, settings)).play(40)
        for settings in (VariationSettings(crossover=0.0), VariationSettings(crossover=1e-12))
    )
    assert all(len(candidate.parents) < 2 for candidate in plain.asked)
    assert [identity(c) for c in plain.asked] == [identity(c) for c in none.asked]


@pytest.mark.parametrize("strategy", [AgingEvolution, NSGA2])
def test_without_mutants_only_starters_are_founders_and_a_search_waits_for_them(
    strategy: type[AgingEvolution | NSGA2],
) -> None:
    searching = strategy(STARTERS[:2], LIMITS, 7, mutants=False)
    first = searching.ask(10)
    assert len(first) == 2
    assert searching.ask(1) == []
    searching.tell(first[1], toy(first[1], {}))
    children = searching.ask(4)
    assert len(children) == 4
    assert all(candidate.parents == (1,) for candidate in children)


def test_edits_that_are_sound_alone_are_refused_together_if_they_put_zeros_in_series() -> None:
    genome = ladder(4)
    shapes = expand(genome).tensor_shapes()
    first, second = (Edit("zero", {}, genome, {n: Constant(shapes[n], 0.0)}) for n in ("d.weight", "head.weight"))
    assert sound(())
    assert sound((first,))
    assert sound((second,))
    assert not sound((first, second))
