"""Devices: what a process does once before it trains on one."""

from __future__ import annotations

import functools
import time

import torch

CONTEXT_BYTES = 600 * 2**20  # an allowance, not measured here: the CUDA context of a process is in nobody's share


@functools.cache
def claim(name: str, share: float) -> torch.device:
    """Returns a device, made ready for this process: held to its share of memory, and repeatable.

    Attention on a CUDA device is not: torch takes kernels that add in any order where it would only warn.

    Args:
        name: as torch names it.
        share: of its memory that this process may use, its CUDA context included; not heeded on the CPU.
    """
    device = torch.device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(max(share - CONTEXT_BYTES / total, 0.0), device)
        torch.backends.cudnn.benchmark = False  # its choice depends on the load, and costs a search for each shape
        torch.backends.cudnn.allow_tf32 = False  # else convolutions in float32 have 10 bits of its 23
        torch.backends.cuda.enable_cudnn_sdp(False)  # attention: never repeatable, and its gradients had faults
        torch.use_deterministic_algorithms(True, warn_only=True)
        # as part of that each tensor is filled before it is written, by one more kernel, in case that somebody reads it
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return device


def default_generator(device: torch.device) -> torch.Generator:
    """Returns the generator that operations draw from when they are given none, as dropout does."""
    return torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator


@functools.cache
def fast_bfloat16(device: torch.device) -> bool:
    """Says whether a device multiplies matrices faster in bfloat16 than in float32; measured on a CPU, in some 10 ms.

    With instructions for it, it is twice as fast (Zen 4, 1.9 to 2.1 on a busy machine), so the best of five is enough.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    fastest = {}
    for kind in (torch.bfloat16, torch.float32):
        matrix, seconds = torch.ones(256, 256, dtype=kind), list[float]()
        for _ in range(5):
            begun = time.perf_counter()
            torch.mm(matrix, matrix)
            seconds.append(time.perf_counter() - begun)
        fastest[kind] = min(seconds)
    return fastest[torch.bfloat16] < fastest[torch.float32]
