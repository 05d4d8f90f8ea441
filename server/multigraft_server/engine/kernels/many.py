"""The compiled kernels of packed steps as functions of tensors: bfloat16, on a CPU, rows contiguous."""

from __future__ import annotations

from ctypes import c_float, c_int, c_ssize_t, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from multigraft_adapters.errors import StepFailedError
from multigraft_server.engine.kernels.library import Library, Signature

TILE = 32
"""Sizes of heads are multiples of it."""

LONG_WORK = 128 * 1024
"""Numbers to be read and written from where on a call lets other threads run Python, and uses several cores."""

ACTIVATIONS = {"relu": 1, "gelu": 2, "swish": 3}
"""As the kernels number them, in this order."""

_SIGNATURES: dict[str, Signature] = {
    "attend_sequences": (
        c_int,
        (*[c_void_p] * 6, *[c_ssize_t] * 5, c_float, c_int, c_int),
    ),
    "add_groups": (
        c_int,
        (
            c_void_p,
            c_ssize_t,
            c_void_p,
            c_ssize_t,
            *[c_void_p] * 3,
            *[c_ssize_t] * 2,
            c_void_p,
            c_ssize_t,
            c_int,
            c_int,
        ),
    ),
    "gelu": (None, (c_void_p, c_ssize_t, c_int)),
    "layer_norm": (None, (*[c_void_p] * 5, c_ssize_t, c_ssize_t, c_float, c_int)),
    "scale_groups": (None, (c_void_p, c_ssize_t, c_void_p, c_void_p, c_ssize_t, c_void_p, c_ssize_t, c_int)),
}


class ManyTokens:
    """Kernels of a loaded library."""

    def __init__(self, path: Path) -> None:
        self._library = Library(path, _SIGNATURES, LONG_WORK)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        sequences: Tensor,
        *,
        layer: int,
        scaling: float,
        causal: bool,
    ) -> None:
        """Attention of sequences of a step, each among its own tokens, into `out` (tokens, heads, size): queries
        (tokens, heads, size), keys and values (tokens, kv_heads, size), whose heads' numbers lie side by side.

        `sequences` (n, 7) in int64: first token, number of tokens, how many went before them, the numbers from
        head to head and the bytes from layer to layer in these tokens' keys and values, and where these lie in the
        first layer. Raises StepFailedError where memory is short.
        """
        heads, size = query.shape[1:]
        strides = torch.tensor([part.stride(place) for part in (query, key, value) for place in (0, 1)])
        library, threads = self._library.way(query.numel() * 4)
        failed = library.attend_sequences(
            *(part.data_ptr() for part in (out, query, key, value, strides, sequences)),
            *(sequences.shape[0], layer, heads, heads // key.shape[1], size, scaling, causal, threads),
        )
        _check(failed)

    def add_groups(
        self,
        y: Tensor,
        x: Tensor,
        a: Tensor,
        b: Tensor,
        groups: Tensor,
        *,
        bias: Tensor | None = None,
        activation: str | None = None,
    ) -> None:
        """Add each group's own product to y (tokens, out) in place, from x (tokens, in), which may be y, with `a`
        (columns, in) and `b` (columns, out): x A^T B; or with a `bias` (columns,) and an activation
        f(x A^T + bias) B, where the last column of f is 1.

        `groups` (n, 4) in int32: first token, last + 1, first column, last + 1. Raises StepFailedError where
        memory is short.
        """
        library, threads = self._library.way(x.shape[0] * (a.shape[1] + b.shape[1]))
        failed = library.add_groups(
            *(y.data_ptr(), y.stride(0), x.data_ptr(), x.stride(0), a.data_ptr(), b.data_ptr()),
            *(
                None if bias is None else bias.data_ptr(),
                a.shape[1],
                b.shape[1],
                groups.data_ptr(),
                groups.shape[0],
            ),
            *(0 if activation is None else ACTIVATIONS[activation], threads),
        )
        _check(failed)

    def gelu(self, x: Tensor) -> Tensor:
        """x Phi(x) of any contiguous tensor, in its place."""
        library, threads = self._library.way(2 * x.numel())
        library.gelu(x.data_ptr(), x.numel(), threads)
        return x

    def layer_norm(
        self, x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, epsilon: float
    ) -> Tensor:
        """The layer norm of x + residual: (..., n) -> (..., n)."""
        x = x.contiguous()
        residual = None if residual is None else residual.contiguous()
        y, size = torch.empty_like(x), x.shape[-1]
        library, threads = self._library.way(2 * x.numel())
        library.layer_norm(
            *(x.data_ptr(), None if residual is None else residual.data_ptr(), weight.data_ptr()),
            *(None if bias is None else bias.data_ptr(), y.data_ptr(), x.numel() // size, size, epsilon, threads),
        )
        return y

    def scale_groups(self, values: Tensor, scale: Tensor, shift: Tensor | None, groups: Tensor) -> None:
        """values * scale + shift in place: values (tokens, n), of `scale` and `shift` (rows, n) in fp32 the rows
        of the groups, (n, 3) in int64: first token, last + 1, row."""
        library, threads = self._library.way(2 * values.numel())
        library.scale_groups(
            *(values.data_ptr(), values.stride(0), scale.data_ptr(), None if shift is None else shift.data_ptr()),
            *(values.shape[1], groups.data_ptr(), groups.shape[0], threads),
        )


def _check(failed: int) -> None:
    if failed:
        raise StepFailedError("there is no memory left for a step")
