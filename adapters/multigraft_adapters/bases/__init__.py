"""Frozen bases: finding them, describing them, loading them.

Names are loaded on first use, so that reading a BaseSpec does not import torch and transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from multigraft_adapters.bases.spec import BaseSpec, ImageShape, KVLayout, LinearShape

if TYPE_CHECKING:
    from multigraft_adapters.bases.images import load_image_processor
    from multigraft_adapters.bases.load import (
        Base,
        load_base,
        load_tokenizer,
        pick_device,
        pick_dtype,
        read_spec,
    )
    from multigraft_adapters.bases.resolve import DEFAULT_BASE, check_data_dir, resolve_base

_LAZY = {
    "Base": "load",
    "load_base": "load",
    "load_image_processor": "images",
    "load_tokenizer": "load",
    "pick_device": "load",
    "pick_dtype": "load",
    "read_spec": "load",
    "DEFAULT_BASE": "resolve",
    "check_data_dir": "resolve",
    "resolve_base": "resolve",
}

__all__ = [
    "DEFAULT_BASE",
    "Base",
    "BaseSpec",
    "ImageShape",
    "KVLayout",
    "LinearShape",
    "check_data_dir",
    "load_base",
    "load_image_processor",
    "load_tokenizer",
    "pick_device",
    "pick_dtype",
    "read_spec",
    "resolve_base",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
