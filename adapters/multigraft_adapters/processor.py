"""How our processes share the processor's cores and the memory with others."""

from __future__ import annotations

import ctypes
import gc
import os

_ARENA_MAX = -8
"""`M_ARENA_MAX` of glibc's malloc.h."""
MOST_ARENAS = 2
KEPT_PRODUCTS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""How many compiled products oneDNN and torch's layer above it keep, 1,024 each by default."""
MOST_KEPT_PRODUCTS = 48
"""A step uses about ten sizes in all of its layers."""


def share_cores() -> None:
    """Let torch's threads sleep, not spin, while they wait for each other; call it before torch is loaded.

    Spinning threads hold a core that another process, or the HTTP side of this one, could use: beside other work
    a server that spins is several times slower. What the environment says already is kept.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def share_memory() -> None:
    """Bound what is kept for later; call it before torch is loaded and before there are threads.

    glibc gives threads heaps of their own, and what one of them has freed the others do not use: loading adapters
    by several threads would keep several times their bytes. Other libraries of C keep what they do. torch keeps
    compiled products by their sizes, and steps of all sizes would make it keep hundreds of megabytes of them;
    what the environment says of that already is kept.
    """
    for name in KEPT_PRODUCTS:
        os.environ.setdefault(name, str(MOST_KEPT_PRODUCTS))
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_ARENA_MAX, MOST_ARENAS)


def keep_objects() -> None:
    """Take what there is now as there to stay; call it once, when all is loaded.

    The collector of garbage would look at a million objects of the libraries again and again, and everything waits
    for it: a fifth of what a request costs.
    """
    gc.collect()
    gc.freeze()


def give_back_memory() -> None:
    """Give the system what was freed, wherever it lies; glibc alone keeps what lies below something in use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
