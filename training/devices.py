"""Devices: what a process does once before it trains on one."""

from __future__ import annotations

import functools

import torch

CONTEXT_BYTES = 600 * 2**20  # an allowance, not measured here: the CUDA context of a process is in nobody's share


@functools.cache
def claim(name: str, share: float) -> torch.device:
    """Returns a device, made ready for this process: held to its share of memory, and repeatable.

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
        torch.use_deterministic_algorithms(True, warn_only=True)
    return device


def default_generator(device: torch.device) -> torch.Generator:
    """Returns the generator that operations draw from when they are given none, as dropout does."""
    return torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator


def fast_bfloat16(device: torch.device) -> bool:
    """Says whether a device multiplies bfloat16 natively."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
