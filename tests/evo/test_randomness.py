from __future__ import annotations

import random

from evo.randomness import generator


def test_a_generator_depends_on_all_its_arguments_and_on_nothing_else() -> None:
    random.seed(1)
    draws = {key: generator(*key).random() for key in [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b")]}
    random.seed(2)
    assert len(set(draws.values())) == 4
    assert all(generator(*key).random() == value for key, value in draws.items())


def test_generators_are_the_same_on_every_machine() -> None:
    assert generator(7, 3, "child").getrandbits(32) == 3650623874
