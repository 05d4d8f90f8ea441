"""Multipart bodies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import Request
from starlette.datastructures import FormData

from multigraft_adapters.errors import StoreUnavailableError

T = TypeVar("T")


async def read_form(request: Request, read: Callable[[FormData], Awaitable[T]], **limits: int) -> T:
    """What `read` makes of the body's parts; `limits` are those of starlette's `form`.

    Large parts pass through temporary files: raises StoreUnavailableError when their disk is full.
    """
    try:
        async with request.form(**limits) as form:
            return await read(form)
    except OSError as error:
        raise StoreUnavailableError(f"there is no room for the upload: {error.strerror or error}") from error
