"""Compiled kernels for processors with matrix tiles. Each has a twin in torch, which runs where they cannot."""

from multigraft_server.engine.kernels.kernels import Kernels
from multigraft_server.engine.kernels.loading import KernelMode, load_kernels, why_not, why_unused

__all__ = ["KernelMode", "Kernels", "load_kernels", "why_not", "why_unused"]
