from __future__ import annotations

from genomes import Module
from genomes.operations import Conv, Input, Output, ReLU
from genomes.parsing import IDENTIFIER
from morphism.names import derived_seed, new_id, stable_id


def test_the_same_edit_gives_the_same_id_and_another_edit_another() -> None:
    name = stable_id("widen.split", ["a"], Conv(3))
    assert name == stable_id("widen.split", ["a"], Conv(3))
    others = (
        stable_id("skip.add", ["a"], Conv(3)),
        stable_id("widen.split", ["b"], Conv(3)),
        stable_id("widen.split", ["a"], Conv(4)),
        stable_id("widen.split", ["a"], Conv(3), 1),
    )
    assert len({name, *others}) == 5
    assert all(IDENTIFIER.fullmatch(n) for n in (name, *others))
    assert name.startswith("conv_")


def test_ids_do_not_change_between_releases() -> None:
    assert stable_id("deepen.residual", ["n1"], ReLU()) == "relu_438c6f94"
    assert derived_seed(0, "conv.weight") == 204433043083692


def test_a_taken_id_gives_way_to_the_next_ordinal() -> None:
    first = stable_id("r", ["x"], ReLU())
    module = Module.of({"x": Input(0, (1,)), first: ReLU(), "y": Output()}, [("x", first), (first, "y")])
    assert new_id(module, "r", ["x"], ReLU()) == stable_id("r", ["x"], ReLU(), 1)
    assert new_id(module, "r", ["x"], Conv(2)) == stable_id("r", ["x"], Conv(2), 0)
