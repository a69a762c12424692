"""What is made of Ray's answers: of those that cannot be had here, such as a GPU without memory, with a double."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from uuid import uuid4

import pytest
from prefect.states import Completed
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from flows.cluster.orders import Order
from flows.cluster.runner import Cluster, child, outcome
from flows.home import BadInput, Home
from flows.slots import RaySlots
from search import Candidate, Evaluation, records
from tests.flows.test_orders import begun, founder


class Future:
    """What Prefect's task runner gives for a task on a cluster; done at once."""

    def __init__(self, answer: object) -> None:
        self.answer, self.state, self.task_run_id, self.waited = answer, Completed(), uuid4(), False

    def add_done_callback(self, done: Callable[[Any], None]) -> None:
        done(self)

    def wait(self) -> None:
        self.waited = True

    def result(self, raise_on_failure: bool) -> object:
        assert self.waited, "Ray's answer is there only afterwards"
        assert not raise_on_failure
        return self.answer


class Runner:
    """Answers as a cluster would; remembers what was asked."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.orders: list[Order] = []
        self.options: list[dict[str, Any]] = []

    def submit(self, task: Any, parameters: dict[str, Any]) -> Future:
        from prefect_ray.context import RemoteOptionsContext

        assert task is child
        self.orders.append(Order.from_json(parameters["order"]))
        self.options.append(RemoteOptionsContext.get().current_remote_options)
        return Future(self.answers.pop(0))


def without_memory(number: int) -> str:
    return records.evaluation_json(Evaluation(number, "out_of_memory", reason="CUDA out of memory"))


class Place:
    """A search that is about to be on a cluster."""

    def __init__(self, home: Path, runner: Runner, **slots: Any) -> None:
        settings, self.evaluator = begun(home, **slots)
        self.candidate = founder(home)
        asked = RaySlots(children=2, **slots)
        self.cluster = Cluster(runner, asked, settings, Home(home), self.evaluator)

    def told(self, candidate: Candidate | None = None, **parents: Evaluation) -> Evaluation | BaseException:
        answers: SimpleQueue[Evaluation | BaseException] = SimpleQueue()
        family = {parent.number: parent for parent in parents.values()}
        self.cluster.dispatch(candidate or self.candidate, family, answers.put)
        answer = answers.get(timeout=60)
        assert self.evaluator.pool.occupied() == ()
        return answer


def test_an_evaluation_comes_back_as_it_was_made_and_ray_is_told_to_try_once(tmp_path: Path) -> None:
    made = Evaluation(0, "ok", {"error": 0.5}, {"seconds": 1.0}, slot="cpu:node/1")
    runner = Runner(records.evaluation_json(made))
    place = Place(tmp_path, runner, cpus=2.0)
    assert place.told() == made
    assert runner.options == [{"num_cpus": 2.0, "num_gpus": 0.0, "max_retries": 0}]
    assert runner.orders[0].candidate == place.candidate


def test_a_child_without_memory_in_its_share_gets_a_whole_device_and_then_teaches(tmp_path: Path) -> None:
    runner = Runner(without_memory(0), without_memory(0))
    place = Place(tmp_path, runner, gpus=0.25)
    first = place.told()
    assert isinstance(first, Evaluation)
    assert (first.status, first.reason) == ("killed", "out of memory beside others: CUDA out of memory")
    second = place.told()
    assert isinstance(second, Evaluation)
    assert second.status == "out_of_memory"
    assert [options["num_gpus"] for options in runner.options] == [0.25, 1.0]
    third = place.told(replace(place.candidate, number=1))
    assert isinstance(third, Evaluation)
    assert third.status == "over_budget"
    assert "candidate 0, which ran out of memory alone on its device" in third.reason
    assert len(runner.orders) == 2, "what will not fit is not tried"


def test_a_child_without_memory_on_a_cpu_teaches_nothing_since_others_are_there(tmp_path: Path) -> None:
    place = Place(tmp_path, Runner(without_memory(0), without_memory(1)))
    for candidate in (place.candidate, replace(place.candidate, number=1)):
        answer = place.told(candidate)
        assert isinstance(answer, Evaluation)
        assert answer.status == "killed"


@pytest.mark.parametrize(
    "death",
    [WorkerCrashedError(), OutOfMemoryError("the node had no memory left"), NodeDiedError("the node is gone")],
)
def test_a_death_of_worker_or_node_is_a_lost_child(death: BaseException) -> None:
    lost = outcome(7, Future(death))
    assert isinstance(lost, Evaluation)
    assert (lost.number, lost.status) == (7, "lost")
    assert lost.reason.startswith(type(death).__name__)
    assert "\n" not in lost.reason


def test_a_node_with_other_code_ends_the_search_with_what_it_said() -> None:
    said = RayTaskError("child", "Traceback …\nModuleNotFoundError: No module named 'flows'", ImportError())
    refused = outcome(7, Future(said))
    assert isinstance(refused, BadInput)
    assert "must have this version of Morphogen and reach Prefect's API" in str(refused)
    assert str(refused).endswith("ModuleNotFoundError: No module named 'flows'")


def test_what_a_task_raises_ends_the_search() -> None:
    error = BadInput("--home must be a directory that all nodes share")
    assert outcome(7, Future(error)) is error
    assert str(outcome(7, Future(None))) == "child 7 returned None"


def test_an_answer_that_cannot_be_read_ends_the_search_and_does_not_leave_it_waiting(tmp_path: Path) -> None:
    assert isinstance(Place(tmp_path, Runner("{}")).told(), KeyError)


def test_weights_that_cannot_be_sent_are_a_failure_that_is_tried_again(tmp_path: Path) -> None:
    place = Place(tmp_path / "searches", Runner(), store=(tmp_path / "bucket").as_uri())
    failed = place.told(Candidate(1, place.candidate.genome, (0,)), parent=Evaluation(0, "ok", weights="a" * 64))
    assert isinstance(failed, Evaluation)
    assert failed.status == "io_error"
    assert "weights of its parents were not sent" in failed.reason
