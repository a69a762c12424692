from __future__ import annotations

import random

import pytest

from evo.randomness import generator, seeded


def test_a_generator_depends_on_all_its_arguments_and_on_nothing_else() -> None:
    random.seed(1)
    draws = {key: generator(*key).random() for key in [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b")]}
    random.seed(2)
    assert len(set(draws.values())) == 4
    assert all(generator(*key).random() == value for key, value in draws.items())


def test_generators_are_the_same_on_every_machine() -> None:
    assert generator(7, 3, "child").getrandbits(32) == 3650623874


def test_the_module_s_draws_come_from_the_lent_generator_which_moves_on() -> None:
    lent, alone = random.Random(5), random.Random(5)
    with seeded(lent):
        inside = [random.random(), random.choice(range(1000)), random.sample(range(50), 3)]
    assert inside == [alone.random(), alone.choice(range(1000)), alone.sample(range(50), 3)]
    assert lent.random() == alone.random()


def test_the_module_gets_its_own_state_back_even_after_an_error() -> None:
    before = random.getstate()
    with pytest.raises(IndexError), seeded(random.Random(5)):
        random.choice([random.random()][:0])
    assert random.getstate() == before
