"""A CUDA graph's double on a CPU: a step's operations, recorded without being run, and run again on the same memory.

Numbers that are no tensors are what they were at the recording, as in a graph; tensors are where they were. What a
capture forbids is forbidden here: to ask for a value, or for a size that depends on values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from training import captured

VALUES = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique",
    "is_nonzero",
    "equal",
    "repeat_interleave.Tensor",
)


def tensors(values: Any) -> Iterator[Tensor]:
    """Yields the tensors of nested arguments or results."""
    return (value for value in tree_iter(values) if isinstance(value, Tensor))


class Recorder(TorchDispatchMode):
    """Notes operations, and keeps what was in memory before them."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = list[tuple[Any, Any, Any, Any]]()
        self.before = dict[int, tuple[UntypedStorage, UntypedStorage]]()
        self.made = dict[int, UntypedStorage]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(str(function).startswith(f"aten.{name}") for name in VALUES):
            raise RuntimeError(f"{function}: operation not permitted when stream is capturing")
        if str(function).startswith("aten.index") and any(t.dtype == torch.bool for t in tensors(args[1:2])):
            raise RuntimeError(f"{function}: operation not permitted when stream is capturing")
        for storage in (tensor.untyped_storage() for tensor in tensors((args, kwargs))):
            if storage.data_ptr() not in self.before and storage.data_ptr() not in self.made:
                self.before[storage.data_ptr()] = (storage, storage.clone())
        found = function(*args, **(kwargs or {}))
        for storage in (tensor.untyped_storage() for tensor in tensors(found)):
            if storage.data_ptr() not in self.before:
                self.made[storage.data_ptr()] = storage
        self.entries.append((function, args, kwargs or {}, found))
        return found


class Tape:
    """Has the methods of a `torch.cuda.CUDAGraph` that are used.

    Attributes:
        replays: how often it was run.
    """

    def __init__(self) -> None:
        self.entries = list[tuple[Any, Any, Any, Any]]()
        self.replays = 0
        self.closed = False

    def record(self, step: Callable[[], None], generators: Sequence[torch.Generator]) -> None:
        """Calls a step, and undoes it."""
        states, recorder = [generator.get_state() for generator in generators], Recorder()
        try:
            with recorder:
                step()
        finally:
            for storage, kept in recorder.before.values():
                storage.copy_(kept)
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)
        self.entries = recorder.entries

    def replay(self) -> None:
        """Runs what was recorded; results go to where they were recorded to be."""
        self.replays += 1
        with torch._C._AutoDispatchBelowAutograd():
            for function, args, kwargs, found in self.entries:
                for old, new in zip(tensors(found), tensors(function(*args, **kwargs)), strict=True):
                    if old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                        old.untyped_storage().copy_(new.untyped_storage())

    def reset(self) -> None:
        """Forgets all."""
        self.entries.clear()
        self.closed = True


class OfCuda:
    """A generator that can be given another's state, as one of CUDA can."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def __getattr__(self, name: str) -> Any:
        return getattr(self.generator, name)

    def graphsafe_set_state(self, other: torch.Generator) -> None:
        self.generator.set_state(other.get_state())


@contextmanager
def pretending(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tape]]:
    """Makes this process take the CPU for a device that steps are captured on, by tapes, which it yields."""
    tapes = list[Tape]()

    def tape() -> Tape:
        tapes.append(Tape())
        return tapes[-1]

    @contextmanager
    def here(device: torch.device) -> Iterator[None]:
        yield

    own = captured.captured
    with monkeypatch.context() as patch:
        patch.setattr(captured, "captured", lambda step, drawn_from: own(step, [*map(OfCuda, drawn_from)]))
        patch.setattr(captured, "capturable", lambda _: True)
        patch.setattr(captured, "Graph", tape)
        patch.setattr(captured, "record", lambda graph, step, generators: graph.record(step, generators))
        patch.setattr(captured, "aside", here)
        patch.setattr(captured, "BROKEN", [])
        yield tapes
