from __future__ import annotations

import os

import pytest

from training.slots import Slot, cpu_slots, cuda_slots, kind_of, remote_slots


def test_cpu_slots_are_as_many_as_asked_for_or_as_the_cores_of_this_process() -> None:
    assert cpu_slots(2) == (Slot("cpu:0"), Slot("cpu:1"))
    assert len(cpu_slots()) == len(os.sched_getaffinity(0))
    assert {(slot.kind, slot.warm) for slot in cpu_slots(3)} == {("cpu", False)}


def test_cuda_slots_divide_each_device_and_fill_the_devices_in_turn() -> None:
    slots = cuda_slots([0, 3], 4)
    assert [slot.name for slot in slots[:3]] == ["cuda:0/0", "cuda:3/0", "cuda:0/1"]
    assert {slot.device for slot in slots} == {"cuda:0", "cuda:3"}
    for device in ("cuda:0", "cuda:3"):
        assert sum(slot.share for slot in slots if slot.device == device) == 1
    assert {(slot.kind, slot.warm) for slot in slots} == {("cuda", True)}
    assert len({slot.name for slot in slots}) == 8


def test_the_whole_of_a_device_is_one_slot_in_a_process_of_its_own() -> None:
    first, second = cuda_slots([1], 2)
    assert first.whole() == second.whole() == Slot("cuda:1 alone", "cuda:1", 1.0, warm=False)


def test_a_name_tells_the_kind_of_device() -> None:
    for slot in (*cpu_slots(2), *cuda_slots([0, 11], 2), *remote_slots("cuda", 2)):
        assert kind_of(slot.name) == kind_of(slot.whole().name) == slot.kind


@pytest.mark.parametrize("share", [0.0, -0.5, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share of slot x must be above 0 and at most 1, got"):
        Slot("x", share=share)
