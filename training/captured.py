"""Captured: a training step as one CUDA graph, which a device runs without being told of each of its kernels.

A step of a small network is a hundred kernels or more that run for a few microseconds each, and to launch one takes
longer than that. A graph is launched as a whole. It is recorded from a step that is called and not run, and works on
the same memory each time: whatever differs from step to step has to be in a tensor that is written beforehand. Random
numbers do differ, since torch tells a graph at each launch how far each generator is; they are those that the same
steps draw without a graph.

Where a step cannot be captured it is run as it is, to the same result; benchmarks/gpu.py measures what is lost by that.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import torch

log = logging.getLogger("morphogen.captured")
Step = Callable[[], None]
Graph = torch.cuda.CUDAGraph
WARM = 3  # steps before the capture, in which cuDNN and cuBLAS choose and the optimiser begins; they count like others
LEAST = 64  # steps that pay for a capture, which costs about as much as some dozens of launched ones: not measured here
# What could not be captured, kept for ever: in older torch the allocator goes on asking a broken graph about each
# allocation. A process with such a graph captures nothing any more, since its next step would mostly fail alike.
BROKEN = list[Graph]()


def capturable(device: torch.device) -> bool:
    """Says whether steps are captured on a device, if they can be."""
    return device.type == "cuda"


@contextmanager
def repeated(step: Step, steps: int, device: torch.device, generators: Sequence[torch.Generator]) -> Iterator[Step]:
    """Yields what to call so many times instead of a step, which is the step itself if that is not on a CUDA device.

    Args:
        step: one and the same work each time it is called, on memory that is the same each time; never waits for the
            device.
        steps: how often it will be called.
        device: that it works on.
        generators: all that it draws from.

    Raises:
        torch.OutOfMemoryError: at the call that captures the step, for which there is no memory.
    """
    if not capturable(device):
        yield step
        return
    repetition = Repetition(step, steps, generators)
    with aside(device):
        try:
            yield repetition
        finally:
            repetition.close()


class Repetition:
    """A step that is called time after time, and captured after some calls if there are many to come."""

    def __init__(self, step: Step, steps: int, generators: Sequence[torch.Generator]) -> None:
        """Begins with no call; the arguments are those of `repeated`."""
        self.step, self.generators = step, generators
        self.pays, self.calls = steps >= LEAST, 0
        self.graph: Graph | None = None

    def __call__(self) -> None:
        """Runs the step, by whichever way."""
        if self.calls == WARM and self.pays and not BROKEN:
            self.graph = captured(self.step, self.generators)
        self.calls += 1
        self.graph.replay() if self.graph else self.step()

    def close(self) -> None:
        """Gives the memory of the graph back."""
        if self.graph:
            self.graph.reset()


def captured(step: Step, generators: Sequence[torch.Generator]) -> Graph | None:
    """Returns a graph of a step, which has not been run for it; None, and a warning, if it cannot be captured.

    Raises:
        torch.OutOfMemoryError: there is no memory for it.
    """
    graph, states = Graph(), [generator.clone_state() for generator in generators]
    try:
        record(graph, step, generators)
    except RuntimeError as error:
        BROKEN.append(graph)
        with suppress(RuntimeError):
            graph.reset()
        for generator, state in zip(generators, states, strict=True):
            generator.graphsafe_set_state(state)  # in older torch it would stay in the state of being captured
        cause = error.__context__ or error  # to end a broken capture fails as well, which hides why it broke
        if "out of memory" in str(cause) or "out of memory" in str(error):
            raise torch.OutOfMemoryError(str(cause)) from error
        log.warning("steps are launched kernel by kernel, since one could not be captured: %s", cause)
        return None
    return graph


def record(graph: Graph, step: Step, generators: Sequence[torch.Generator]) -> None:
    """Captures a step, on the current stream."""
    if register := getattr(graph, "register_generator_state", None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer ones register themselves at their first use, and say that here
            for generator in generators:
                register(generator)
    # the backward pass has a thread of its own, in which cuDNN and cuBLAS may ask for memory
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
        step()


@contextmanager
def aside(device: torch.device) -> Iterator[None]:
    """Puts all work on a stream of its own, behind what is under way and before what comes.

    The default stream cannot be captured; and a gradient is accumulated on the stream of its parameter's first use, so
    that no step may be on another one.
    """
    outer, own = torch.cuda.current_stream(device), stream(device)
    own.wait_stream(outer)
    try:
        with torch.cuda.stream(own):
            yield
    finally:
        outer.wait_stream(own)


@functools.cache
def stream(device: torch.device) -> torch.cuda.Stream:
    """Returns the stream of this process's steps: one for all, since cuBLAS keeps a workspace for each."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
