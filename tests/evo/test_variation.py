from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from evo import DISRUPTIONS, VariationSettings, variation
from evo.variation import Barren, toolbox
from genomes import Genome, Limits, check, cost
from morphism import CATALOGUE, ZERO_INITIALISED, Morphism, place
from tests.strategies.contract import LIMITS, STARTERS

MORPHISMS = {morphism.name for morphism in CATALOGUE if morphism.weight}
DISRUPTED = {disruption.name for disruption in DISRUPTIONS if disruption.weight}
ELSEWHERE = {
    "kernel.undilate",
    "conv.dense",
    "pool.depthwise",
    "stride.subsample",
    "deepen.norm",
}  # no site in starters


def anything(_: Genome) -> bool:
    return True


def placed(kinds: Sequence[Morphism]) -> set[str]:
    """Returns the kinds that are drawn and have a place in a starter."""
    return {kind.name for kind in kinds if kind.weight and any(kind.sites(genome) for genome in STARTERS)}


def rules(settings: VariationSettings, draws: int = 60) -> Counter[str]:
    box, found = toolbox(settings, LIMITS), Counter[str]()
    for seed in range(draws):
        edits = box.mutate(STARTERS[seed % len(STARTERS)], anything, {}, random.Random(seed))
        assert 1 <= len(edits) <= settings.edits
        found.update(edit.rule for edit in edits)
    return found


def test_edits_lead_from_the_genome_to_the_last_of_them_within_the_limits() -> None:
    limits, box = Limits(parameters=cost(STARTERS[0]).parameters + 300), toolbox(VariationSettings(), Limits())
    box = toolbox(VariationSettings(edits=3), limits)
    for seed in range(30):
        for edit in box.mutate(STARTERS[0], anything, {}, random.Random(seed)):
            check(edit.genome, limits)


def test_without_disruptions_every_edit_is_a_morphism_and_every_one_with_a_place_occurs() -> None:
    found = rules(VariationSettings(disruptions=0.0, edits=3), draws=300)
    assert MORPHISMS - ELSEWHERE <= set(found) <= MORPHISMS


def test_with_disruptions_only_every_one_with_a_place_occurs() -> None:
    found = rules(VariationSettings(disruptions=1.0, edits=3), draws=300)
    assert placed(DISRUPTIONS) <= set(found) <= DISRUPTED


def test_disruptions_are_as_frequent_as_asked() -> None:
    found = rules(VariationSettings(disruptions=0.3, edits=1), draws=300)
    share = sum(found[rule] for rule in DISRUPTED) / found.total()
    assert 0.2 < share < 0.4


def test_only_fresh_genomes_come_out() -> None:
    asked: list[Genome] = []

    def tenth(genome: Genome) -> bool:
        asked.append(genome)
        return len(asked) % 10 == 0

    edits = toolbox(VariationSettings(), LIMITS).mutate(STARTERS[0], tenth, {}, random.Random(0))
    assert edits[-1].genome == asked[9]


def test_it_gives_up_where_nothing_is_fresh_or_within_the_limits() -> None:
    with pytest.raises(Barren):
        toolbox(VariationSettings(), LIMITS).mutate(STARTERS[0], lambda _: False, {}, random.Random(0))
    with pytest.raises(Barren, match="20 tries"):
        toolbox(VariationSettings(), Limits(parameters=1)).mutate(STARTERS[0], anything, {}, random.Random(0))


def gradients(genome: Genome, seed: int) -> dict[str, float]:
    """Returns random numbers for all zero-initialised edits that the genome has a place for."""
    rng, kinds = random.Random(seed), [kind for kind in CATALOGUE if kind.name in ZERO_INITIALISED]
    return {place(kind.name, site): rng.random() for kind in kinds for site in kind.sites(genome)}


def chosen(settings: VariationSettings, draws: int = 200) -> list[float]:
    """Returns the gradients, uniform in [0, 1], of the zero-initialised edits that are drawn."""
    box, found = toolbox(settings, Limits()), list[float]()
    for seed in range(draws):
        table = gradients(STARTERS[0], seed)
        (edit,) = box.mutate(STARTERS[0], anything, table, random.Random(seed))
        found += [table[key] for key in [place(edit.rule, edit.site)] if key in table]
    return found


def test_the_choice_by_gradient_takes_the_largest_of_four_and_the_uniform_one_any() -> None:
    uniform, informed = (chosen(VariationSettings(0.0, 1, choice=choice)) for choice in ("uniform", "gradient"))
    assert min(len(uniform), len(informed)) > 50
    assert 0.4 < sum(uniform) / len(uniform) < 0.6
    assert 0.7 < sum(informed) / len(informed) < 0.9  # the largest of four uniform numbers is 0.8 on average


def test_the_choice_by_gradient_leaves_out_what_has_no_gradient_and_draws_by_chance_without_any() -> None:
    settings = VariationSettings(0.0, 1, choice="gradient")
    only, box = gradients(STARTERS[0], 0), toolbox(settings, LIMITS)
    only = {key: value for key, value in only.items() if key.startswith("skip.add")}
    some = [box.mutate(STARTERS[0], anything, only, random.Random(seed))[0].rule for seed in range(60)]
    assert set(some) & ZERO_INITIALISED == {"skip.add"}
    none = [box.mutate(STARTERS[0], anything, {}, random.Random(seed))[0].rule for seed in range(60)]
    assert len(set(none) & ZERO_INITIALISED) > 3


def test_a_chain_goes_on_where_the_first_edit_took_the_place_of_the_next_one() -> None:
    settings = VariationSettings(0.0, 4, choice="gradient")
    for seed in range(20):
        assert toolbox(settings, LIMITS).mutate(
            STARTERS[0], anything, gradients(STARTERS[0], seed), random.Random(seed)
        )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"disruptions": 1.5}, "disruptions must be a chance"),
        ({"crossover": -0.1}, "crossover must be a chance"),
        ({"edits": 0}, "edits must be in"),
        ({"edits": 9}, "edits"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VariationSettings(**wrong)  # type: ignore[arg-type]


def test_edits_that_could_not_learn_together_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variation, "sound", lambda edits: len(edits) == 1)
    box = toolbox(VariationSettings(edits=2), LIMITS)
    found = [box.mutate(STARTERS[0], anything, {}, random.Random(seed)) for seed in range(20)]
    assert {len(edits) for edits in found} == {1}


def test_edits_are_drawn_by_their_weights() -> None:
    found = rules(VariationSettings(disruptions=0.0, edits=1), draws=300)
    assert found["deepen.residual"] > 3 * found["deepen.factorise"]  # of weights 2.5 and 0.25
