"""Whether the kernels can be used, and loading them once for a process."""

from __future__ import annotations

import functools
import logging
import platform
from typing import Literal

import torch

from multigraft_adapters.errors import SetupError
from multigraft_server.engine.kernels.compiler import compiled_library
from multigraft_server.engine.kernels.kernels import Kernels

logger = logging.getLogger(__name__)

KernelMode = Literal["auto", "off", "required"]
"""`auto` takes torch's operations where the kernels cannot be used, and says so once; `required` raises there."""


def load_kernels(mode: KernelMode, device: torch.device, dtype: torch.dtype) -> Kernels | None:
    """The kernels for a base on this device and in this dtype; None where torch's operations are to be used.

    Raises SetupError when they are required and cannot be used.
    """
    if mode == "off":
        return None
    reason = why_not(device, dtype)
    if reason is None:
        return _loaded()
    if mode == "required":
        raise SetupError(f"the compiled kernels are required and cannot be used: {reason}")
    logger.info("the compiled kernels are not used: %s", reason)
    return None


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the kernels cannot be used for such a base; None when they can."""
    if device.type != "cpu":
        return f"the base is on {device.type}"
    if dtype != torch.bfloat16:
        return f"the base is in {str(dtype).removeprefix('torch.')}, not in bfloat16"
    return _unusable()


def why_unused(mode: KernelMode, device: torch.device, dtype: torch.dtype) -> str:
    """What an operator is told where no kernels were loaded."""
    return "off" if mode == "off" else why_not(device, dtype) or "off"


@functools.cache
def _unusable() -> str | None:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "they are for Linux on x86-64"
    if not (torch.cpu._is_avx512_bf16_supported() and torch.cpu._is_amx_tile_supported()):
        return "the processor has no bfloat16 matrix tiles (AMX)"
    try:
        _loaded()
    except SetupError as error:
        return str(error)
    return None


@functools.cache
def _loaded() -> Kernels:
    return Kernels(compiled_library())
