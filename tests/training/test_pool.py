from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training import jobs
from training.errors import PoolClosed
from training.pool import Pool
from training.slots import Slot, cpu_slots, cuda_slots
from training.worker import preload

PATIENCE = 60.0  # seconds; only a broken program waits that long


def until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.005)
    return met


class Visitor(threading.Thread):
    """Takes a slot, or the whole of a device, and keeps it until told to leave."""

    def __init__(self, pool: Pool, number: int, device_of: Slot | None = None) -> None:
        super().__init__(daemon=True)
        self.pool, self.number, self.device_of = pool, number, device_of
        self.slot: Slot | None = None
        self.refused = False
        self.leave = threading.Event()
        self.start()

    def run(self) -> None:
        wanted = self.pool.alone(self.device_of, self.number) if self.device_of else self.pool.one(self.number)
        try:
            with wanted as self.slot:
                self.leave.wait(PATIENCE)
        except PoolClosed:
            self.refused = True

    def left(self) -> None:
        self.leave.set()
        self.join(PATIENCE)


def test_each_child_has_a_slot_of_its_own_and_the_next_waits_for_one() -> None:
    pool = Pool(cpu_slots(2))
    first, second = Visitor(pool, 1), Visitor(pool, 2)
    assert until(lambda: bool(first.slot and second.slot))
    assert {first.slot, second.slot} == set(pool.slots)
    third = Visitor(pool, 3)
    time.sleep(0.05)
    assert third.slot is None
    freed = first.slot
    first.left()
    assert until(lambda: third.slot == freed)
    second.left()
    third.left()
    assert pool.occupied() == ()


def test_who_is_where_and_for_how_long_is_told() -> None:
    pool = Pool(cpu_slots(3))
    with pool.one(12), pool.one(7):
        time.sleep(0.02)
        seen = pool.occupied()
    assert [(one.slot, one.number) for one in seen] == [("cpu:0", 12), ("cpu:1", 7)]
    assert all(0.02 <= one.seconds < PATIENCE for one in seen)
    assert pool.occupied() == ()


def test_a_slot_comes_back_after_an_exception() -> None:
    pool = Pool(cpu_slots(1))
    for _ in range(2):
        with pytest.raises(KeyError), pool.one(1):
            raise KeyError
    assert pool.occupied() == ()


def test_who_wants_a_device_alone_waits_for_it_to_be_empty_and_nobody_else_gets_in() -> None:
    pool = Pool(cuda_slots([0, 1], 2))
    inside = [Visitor(pool, number) for number in range(4)]
    assert until(lambda: all(one.slot for one in inside))
    by_name = {one.slot.name: one for one in inside if one.slot}
    beside, gone = by_name["cuda:0/0"], by_name["cuda:0/1"]
    assert gone.slot
    gone.left()
    lonely = Visitor(pool, 9, gone.slot)
    time.sleep(0.05)
    assert lonely.slot is None, "another child is on the device"
    newcomer = Visitor(pool, 10)
    time.sleep(0.05)
    assert newcomer.slot is None, "a newcomer overtook the claim, which could so wait for ever"
    by_name["cuda:1/0"].left()
    assert until(lambda: newcomer.slot is not None and newcomer.slot.device == "cuda:1"), "the other device is free"
    beside.left()
    assert until(lambda: lonely.slot == Slot("cuda:0 alone", "cuda:0"))
    late = Visitor(pool, 11)
    time.sleep(0.05)
    assert late.slot is None, "the device is not alone"
    lonely.left()
    assert until(lambda: late.slot is not None and late.slot.device == "cuda:0")
    for one in (newcomer, late, by_name["cuda:1/1"]):
        one.left()
    assert pool.occupied() == ()


def test_two_that_want_one_device_alone_have_it_in_turn() -> None:
    pool = Pool(cpu_slots(2))
    visitors = [Visitor(pool, number, pool.slots[0]) for number in range(2)]
    assert until(lambda: any(one.slot for one in visitors))
    time.sleep(0.05)
    first = next(one for one in visitors if one.slot)
    second = next(one for one in visitors if one is not first)
    assert second.slot is None
    first.left()
    assert until(lambda: second.slot is not None)
    second.left()


def test_slots_are_never_shared_by_many_threads() -> None:
    pool, together, lock, overlaps = Pool(cpu_slots(3)), list[str](), threading.Lock(), list[str]()

    def visit(number: int) -> None:
        for turn in range(20):
            alone = (number + turn) % 7 == 0
            with pool.alone(pool.slots[0], number) if alone else pool.one(number) as slot:
                with lock:
                    overlaps.extend(name for name in together if alone or name in (slot.name, "cpu alone"))
                    together.append(slot.name)
                time.sleep(0.0005)
                with lock:
                    together.remove(slot.name)

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert overlaps == []
    assert pool.occupied() == ()


def test_closing_ends_all_waiting() -> None:
    pool = Pool(cpu_slots(1))
    with pool.one(0):
        waiting = [Visitor(pool, 1), Visitor(pool, 2, pool.slots[0])]
        time.sleep(0.05)
        pool.close()
        assert until(lambda: all(one.refused for one in waiting))
    with (
        pytest.raises(PoolClosed, match="candidate 5 must have a slot to be trained, the search has ended"),
        pool.one(5),
    ):
        pass


@pytest.mark.parametrize("slots", [(), (Slot("a"), Slot("a", share=0.5)), (Slot("a"), Slot("b", "cuda:0"))])
def test_slots_that_cannot_be_meant_are_refused(slots: tuple[Slot, ...]) -> None:
    with pytest.raises(ValueError, match="slots must be of one kind and have different names"):
        Pool(slots)


def test_a_warm_slot_keeps_its_process_and_a_device_alone_has_no_other(tmp_path: Path) -> None:
    preload()
    pool = Pool([Slot("cpu:0", warm=True, share=0.5), Slot("cpu:1", warm=True, share=0.5)])
    file = tmp_path / "result.json"

    def process(slot: Slot) -> int:
        return int(pool.run(slot, jobs.process, result=file, timeout=PATIENCE).value["process"])

    try:
        with pool.one(0) as one, pool.one(1) as other:
            first, second = process(one), process(other)
            assert (process(one), process(other)) == (first, second)
            assert first != second
        with pool.alone(one, 2) as whole:
            assert not jobs.alive(first)
            assert not jobs.alive(second)
            assert process(whole) not in (first, second)
        with pool.one(3) as one:
            third = process(one)
            assert third not in (first, second)
    finally:
        pool.close()
    assert not jobs.alive(third)
