"""The compiled kernels as functions of tensors: bfloat16, on a CPU, rows contiguous."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_float, c_int, c_ssize_t, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from multigraft_adapters.errors import SetupError
from multigraft_server.engine.kernels.layers import LayersCall, LayerStruct
from multigraft_server.engine.kernels.library import Library
from multigraft_server.engine.kernels.many import ManyTokens

TILE_OUT = 16
TILE_IN = 32

LONG_WORK = 512 * 1024
"""Numbers to be read from where on a call lets other threads run Python, and uses several cores (measured on 2
cores: a call of 0.2 million numbers takes 28 us on one core and on two)."""

MOST_HEAD_SIZE = 256
MOST_SHARED_QUERIES = 16

_ARGUMENTS: dict[str, Sequence[type]] = {
    "pack_weight": (c_void_p, c_void_p, c_ssize_t, c_ssize_t),
    "unpack_weight": (c_void_p, c_void_p, c_ssize_t, c_ssize_t),
    "linear": (c_void_p, c_void_p, c_void_p, c_void_p, c_ssize_t, c_ssize_t, c_ssize_t, c_int),
    "rms_norm": (c_void_p, c_void_p, c_void_p, c_ssize_t, c_ssize_t, c_float, c_int),
    "silu_gate": (c_void_p, c_ssize_t, c_void_p, c_ssize_t, c_void_p, c_ssize_t, c_ssize_t, c_int),
    "rotate_and_cache": (
        *(c_void_p, c_ssize_t, c_void_p, c_ssize_t, c_void_p, c_ssize_t),
        *(c_void_p, c_void_p, c_void_p, c_ssize_t, c_void_p, c_int),
    ),
    "attend_cached": (
        *(c_void_p, c_ssize_t, c_void_p, c_void_p, c_void_p, c_ssize_t),
        *(c_void_p, c_ssize_t, c_float, c_int),
    ),
    "decoder_layers": (c_void_p, c_ssize_t, c_void_p, c_void_p, c_int),
}


class Kernels:
    """A loaded library."""

    def __init__(self, path: Path) -> None:
        signatures = {name: (None, arguments) for name, arguments in _ARGUMENTS.items()}
        self._library = Library(path, signatures, LONG_WORK)
        self.many = ManyTokens(path)
        if self._library.short.request_tiles() != 0:
            raise SetupError("the system does not let this process use the processor's matrix tiles")

        self.seconds: Tensor | None = None  # (4,) in float64: where the time of `decoder_layers` goes is added

    def fits(self, out_features: int, in_features: int) -> bool:
        """Whether a weight of this shape is made of whole tiles."""
        return out_features % TILE_OUT == 0 and in_features % TILE_IN == 0

    def pack(self, weight: Tensor, room: Tensor | None = None) -> Tensor:
        """A weight (out, in) in the order of the tiles, (out, in) by name only; in the `room` of such a one, if
        that is given."""
        weight = weight.contiguous()
        packed = torch.empty_like(weight) if room is None else room
        self._library.long.pack_weight(weight.data_ptr(), packed.data_ptr(), *weight.shape)
        return packed

    def unpack(self, packed: Tensor) -> Tensor:
        """The weight (out, in) as it was."""
        weight = torch.empty_like(packed)
        self._library.long.unpack_weight(packed.data_ptr(), weight.data_ptr(), *packed.shape)
        return weight

    def linear(self, x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
        """x W^T + bias: (..., in) -> (..., out), for a packed W (out, in) and a bias (out,)."""
        x = x.contiguous()
        out_features, in_features = packed.shape
        y = x.new_empty((*x.shape[:-1], out_features))
        tokens = x.numel() // in_features
        library, threads = self._library.way(packed.numel() * (1 + tokens // 32))
        library.linear(
            x.data_ptr(),
            packed.data_ptr(),
            None if bias is None else bias.data_ptr(),
            y.data_ptr(),
            tokens,
            in_features,
            out_features,
            threads,
        )
        return y

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """weight * x / rms(x) over the last dimension: (..., n) -> (..., n)."""
        x = x.contiguous()
        y, size = torch.empty_like(x), x.shape[-1]
        library, threads = self._library.way(x.numel())
        library.rms_norm(x.data_ptr(), weight.data_ptr(), y.data_ptr(), x.numel() // size, size, epsilon, threads)
        return y

    def silu_gate(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) * up: (tokens, n) each, rows at any stride."""
        y = gate.new_empty(gate.shape)
        library, threads = self._library.way(gate.numel())
        library.silu_gate(
            *(gate.data_ptr(), gate.stride(0), up.data_ptr(), up.stride(0), y.data_ptr()), *gate.shape, threads
        )
        return y

    def rotate_and_cache(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        rotary: tuple[Tensor, Tensor],
        cached: Tensor,
        layout: Tensor,
    ) -> None:
        """Turn queries (tokens, heads * size) and keys (tokens, kv_heads * size) to their positions in place, and
        write keys and values into the cache.

        `rotary`: cosines and sines (tokens, size). `cached` (tokens, 3) in int64: address of the row's first key
        in the first layer (0: not cached), places of the row, the token's place. `layout` (5,) in int64: heads,
        kv_heads, size, bytes from the first layer's keys to this one's keys, and to its values.
        """
        library, threads = self._library.way(query.numel() * 4)
        library.rotate_and_cache(
            *(query.data_ptr(), query.stride(0), key.data_ptr(), key.stride(0), value.data_ptr(), value.stride(0)),
            *(rotary[0].data_ptr(), rotary[1].data_ptr(), cached.data_ptr(), query.shape[0], layout.data_ptr()),
            threads,
        )

    def attend_cached(
        self,
        query: Tensor,
        out: Tensor,
        cached: Tensor,
        tokens: Tensor,
        layout: Tensor,
        *,
        window: int | None,
        scaling: float,
        work: int,
    ) -> None:
        """Attention of the listed tokens (n,) in int64 over their rows up to themselves: queries (tokens,
        heads * size) into `out` (tokens, heads, size). `work`: numbers of keys and values that are read."""
        library, threads = self._library.way(work)
        library.attend_cached(
            *(query.data_ptr(), query.stride(0), out.data_ptr(), cached.data_ptr(), tokens.data_ptr()),
            *(tokens.shape[0], layout.data_ptr(), window or 0, scaling, threads),
        )

    def decoder_layers(self, layers: ctypes.Array[LayerStruct], call: LayersCall) -> None:
        """All decoder layers of a step, its states in place. Even one token is worth all cores: it reads the whole
        base."""
        threads = torch.get_num_threads()
        if self.seconds is not None:
            call.step.seconds = self.seconds.data_ptr()
        self._library.long.decoder_layers(
            layers, len(layers), ctypes.byref(call.sizes), ctypes.byref(call.step), threads
        )
