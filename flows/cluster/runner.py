"""Cluster: children are trained on the nodes of a Ray cluster, through Prefect's task runner for it.

What goes there and comes back is JSON: an order, an evaluation. Ray itself sends pickles, so that whoever reaches a
cluster can run anything on it. A child is a process of its own inside a Ray task, as it is on one machine.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from socket import create_connection, gethostname
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows import settings  # before prefect, which reads its settings when it is imported

# isort: split
import ray
from prefect import State, task
from prefect.cache_policies import NO_CACHE
from prefect.settings import get_current_settings
from prefect_ray import RayTaskRunner
from prefect_ray.context import remote_options
from ray.exceptions import RayError, RayTaskError

from flows.cluster.depot import Supply
from flows.cluster.losses import lost
from flows.cluster.orders import Order, fulfilled, settled
from flows.config import SearchConfig
from flows.home import BadInput, Home
from flows.search import became, label
from flows.slots import RaySlots
from search import Candidate, Dispatch, Done, Evaluation, records

if TYPE_CHECKING:
    from training.slots import Slot
    from training.trainer import Trainer

assert settings.DEFAULTS
REACHED_WITHIN = 10  # seconds
SECONDS_TO_STOP = 10.0  # that Prefect may take to hear of the children that are killed at the end
Remote = Callable[[SearchConfig, Home, "Trainer"], AbstractContextManager[Dispatch]]


@task(name="child", task_run_name="{label}", cache_policy=NO_CACHE, persist_result=False, retries=0)
def child(label: str, order: str, gpus: float) -> State[Any]:  # noqa: ARG001  Prefect reads the label
    """Evaluates one child on the node that this runs on; the state's data is the evaluation as JSON."""
    evaluation = fulfilled(Order.from_json(order), place(gpus))
    return became(evaluation, records.evaluation_json(evaluation))


def place(gpus: float) -> "Slot":
    """Returns the slot that Ray gave to the task that asks: on the CPU of its node, or a share of a GPU.

    Args:
        gpus: that the task was given; Ray shows it no others.
    """
    from training.slots import Slot

    context = ray.get_runtime_context()
    node = f"{gethostname()}/{context.get_node_id()[:8]}"
    if not gpus:
        return Slot(f"cpu:{node}")
    index = context.get_accelerator_ids()["GPU"][0]
    return Slot(f"cuda:{node}/{index}", "cuda:0", gpus)


@contextmanager
def connected(slots: RaySlots) -> Iterator[Remote]:
    """Yields what starts evaluations on a Ray cluster that is there.

    Raises:
        BadInput: there is none at this address, or no Prefect server that its nodes could reach.
    """
    if not get_current_settings().api.url:
        raise BadInput(
            "a search on a Ray cluster must have a Prefect server that all nodes reach, since they tell it of their "
            "task runs: start one, and set PREFECT_API_URL to its address; it is not set"
        )
    by_name = slots.address == "auto"
    options = {"log_to_driver": False, "logging_level": "ERROR", **({"address": "auto"} if by_name else {})}
    runner = RayTaskRunner(address=None if by_name else slots.address, init_kwargs=options)
    with ExitStack() as stack:
        try:
            if not by_name:
                host, port = slots.address.removeprefix("ray://").rsplit(":", 1)
                create_connection((host, int(port)), REACHED_WITHIN).close()  # where nobody listens Ray waits for ever
            stack.enter_context(runner)
        except (OSError, RuntimeError, ValueError, RayError) as error:
            raise BadInput(
                f"slots.ray.address must be that of a Ray cluster of the same versions of Python and Ray, with its "
                f"token if it wants one; {slots.address}: {' '.join(str(error).split())[:300]}"
            ) from None
        yield partial(dispatching, runner, slots)


@contextmanager
def dispatching(
    runner: RayTaskRunner, slots: RaySlots, config: SearchConfig, home: Home, evaluator: "Trainer"
) -> Iterator[Dispatch]:
    """Yields what the loop starts evaluations with; those in flight at the end are killed."""
    cluster = Cluster(runner, slots, config, home, evaluator)
    try:
        yield cluster.dispatch
    finally:
        cluster.stop()


class Cluster:
    """What the loop starts evaluations with: one Prefect task run each, on the nodes of a Ray cluster.

    Attributes:
        runner: that is connected.
        slots: what each child is given.
        evaluator: of the search, on this machine; it holds the slots and what was learnt of memory.
    """

    def __init__(
        self, runner: RayTaskRunner, slots: RaySlots, config: SearchConfig, home: Home, evaluator: "Trainer"
    ) -> None:
        """Takes the parts of a search, and sends what all children need.

        Raises:
            BadInput: the depot cannot be written.
        """
        self.runner, self.slots, self.evaluator = runner, slots, evaluator
        self._config, self._home = settled(config), home.root.absolute()
        self._supply = Supply(slots.store, evaluator)
        self._cramped: set[int] = set()  # for whom there was no memory in a share of a device
        self._flying: dict[UUID, Any] = {}  # by task run
        self._lock = Lock()

    def dispatch(self, candidate: Candidate, parents: Mapping[int, Evaluation], done: Done) -> None:
        """Starts an evaluation, unless it is known that there is no memory for it."""
        if refused := self.evaluator.lessons.refusal(self.slots.kind, candidate.genome):
            done(Evaluation(candidate.number, "over_budget", reason=refused))
            return
        origin, heirs = self.evaluator.origin, self.evaluator.heirs
        heir = None if candidate.parents else heirs.get(candidate.genome.digest)
        order = Order(self._config, self._home, self._supply.data, origin, candidate, parents, heir)
        try:
            self._supply.send(order.weights)
        except OSError as error:
            done(Evaluation(candidate.number, "io_error", reason=f"weights of its parents were not sent: {error}"))
            return
        gpus = 1.0 if candidate.number in self._cramped else self.slots.gpus
        self._submit(order, gpus, done)

    def _submit(self, order: Order, gpus: float, done: Done) -> None:
        """Hands an order to Ray."""
        candidate, ticket = order.candidate, ExitStack()
        ticket.enter_context(self.evaluator.pool.one(candidate.number))
        parameters = {"label": label(candidate), "order": order.to_json(), "gpus": gpus}
        with remote_options(num_cpus=self.slots.cpus, num_gpus=gpus, max_retries=0):
            future = self.runner.submit(child, parameters)
        with self._lock:
            self._flying[future.task_run_id] = future
        land = partial(self._land, candidate, gpus, ticket, done)
        future.add_done_callback(lambda one: Thread(target=land, args=(one,), daemon=True).start())  # Ray's own waits

    def stop(self) -> None:
        """Kills the children in flight, and waits until Prefect was told of them."""
        with self._lock:
            flying = list(self._flying.values())
        for future in flying:
            with suppress(RayError, ValueError):
                ray.cancel(future.wrapped_future, force=True)
        deadline = time.monotonic() + SECONDS_TO_STOP
        while self._flying and time.monotonic() < deadline:
            time.sleep(0.02)

    def _land(self, candidate: Candidate, gpus: float, ticket: ExitStack, done: Done, future: Any) -> None:
        """Hands over what became of a child, and tells Prefect if it was lost."""
        try:
            answer: Evaluation | BaseException = outcome(candidate.number, future)
            if isinstance(answer, Evaluation):
                answer = self._supply.receive(answer)
                answer = self._without_memory(candidate, answer, gpus) if answer.status == "out_of_memory" else answer
        except Exception as error:  # without an answer the search would wait for ever
            answer = error
        ticket.close()
        done(answer)
        if isinstance(answer, Evaluation) and answer.status == "lost":
            lost(future.task_run_id, answer.reason)
        with self._lock:
            self._flying.pop(future.task_run_id, None)

    def _without_memory(self, candidate: Candidate, evaluation: Evaluation, gpus: float) -> Evaluation:
        """Returns the evaluation as it is to be recorded: alone on a device it is final, else it is tried again."""
        if gpus == 1:
            self.evaluator.lessons.learn(candidate.number, self.slots.kind, candidate.genome)
            return evaluation
        if self.slots.gpus:
            self._cramped.add(candidate.number)
        return replace(evaluation, status="killed", reason=f"out of memory beside others: {evaluation.reason}")


def outcome(number: int, future: Any) -> Evaluation | BaseException:
    """Returns what became of a task: the evaluation, `lost` if its worker or node died, or what ends the search."""
    future.wait()
    answer = future.result(raise_on_failure=False)
    if isinstance(answer, str):
        return records.evaluation(answer)
    if isinstance(answer, RayTaskError):  # the task could not begin
        last = str(answer).strip().splitlines()[-1]
        return BadInput(
            f"each node of the Ray cluster must have this version of Morphogen and reach Prefect's API at "
            f"{get_current_settings().api.url}; one says: {last}"
        )
    if isinstance(answer, RayError):
        said = " ".join(str(answer).split())
        return Evaluation(number, "lost", reason=f"{type(answer).__name__}: {said[:300]}")
    return answer if isinstance(answer, BaseException) else RuntimeError(f"child {number} returned {answer!r}")
