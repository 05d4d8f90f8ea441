"""The compiled library's functions, for short calls and for long ones."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from multigraft_adapters.errors import SetupError

Signature = tuple[type | None, Sequence[type]]
"""What a function gives, and takes."""


class Library:
    """A compiled library. Short calls keep Python's lock, which would cost more than they take; long ones let go
    of it."""

    def __init__(self, path: Path, signatures: Mapping[str, Signature], long_work: int) -> None:
        self.short = _load(ctypes.PyDLL, path, signatures)
        self.long = _load(ctypes.CDLL, path, signatures)
        self._long_work = long_work

    def way(self, work: int) -> tuple[ctypes.CDLL, int]:
        """How to make a call that reads and writes so many numbers, and on how many cores."""
        return (self.short, 1) if work < self._long_work else (self.long, torch.get_num_threads())


def _load(loader: type[ctypes.CDLL], path: Path, signatures: Mapping[str, Signature]) -> ctypes.CDLL:
    try:
        library = loader(str(path))
    except OSError as error:
        raise SetupError(f"the kernels cannot be loaded: {error}") from None
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
    return library
