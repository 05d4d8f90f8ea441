"""The folder that AdapterHub saves: an adapter's config and weights, and those of its head if it has one."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from multigraft_adapters.artifact import DEFAULT_LIMITS, listed
from multigraft_adapters.strict_json import parse_object

CONFIG_FILE = "adapter_config.json"
WEIGHT_FILES = ("adapter.safetensors", "pytorch_adapter.bin")
HEAD_CONFIG_FILE = "head_config.json"
HEAD_WEIGHT_FILES = ("model_head.safetensors", "pytorch_model_head.bin")


@dataclass(frozen=True, slots=True)
class Saved:
    """One of a folder's two parts: what its config file says, and its tensors."""

    config: Mapping[str, Any]
    tensors: dict[str, Tensor]


def read_saved(folder: Path, problems: list[str]) -> tuple[Saved | None, Saved | None]:
    """The adapter and the head in a folder; None is one that is broken, with a problem noted, or no head."""
    if not folder.is_dir():
        problems.append(f"{folder} is not a folder")
        return None, None
    has_head = any((folder / name).exists() for name in (HEAD_CONFIG_FILE, *HEAD_WEIGHT_FILES))
    adapter = _read(folder, CONFIG_FILE, WEIGHT_FILES, problems)
    return adapter, _read(folder, HEAD_CONFIG_FILE, HEAD_WEIGHT_FILES, problems) if has_head else None


def _read(folder: Path, config_file: str, weight_files: tuple[str, ...], problems: list[str]) -> Saved | None:
    data = _content(folder / config_file, DEFAULT_LIMITS.max_json_bytes, problems)
    config = None if data is None else parse_object(config_file, data, problems)
    there = [name for name in weight_files if (folder / name).exists()]
    if len(there) != 1:
        found = f"both {listed(there)}" if there else f"neither {' nor '.join(weight_files)}"
        problems.append(f"{folder} holds {found}: the weights are in one of them")
        return None
    data = _content(folder / there[0], DEFAULT_LIMITS.max_file_bytes, problems)
    tensors = None if data is None else _tensors(there[0], data, problems)
    return None if config is None or tensors is None else Saved(config, tensors)


def _content(path: Path, limit: int, problems: list[str]) -> bytes | None:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error.strerror or error}")
        return None
    if len(content) > limit:
        problems.append(f"{path.name} is larger than {limit} bytes")
        return None
    return content


def _tensors(name: str, data: bytes, problems: list[str]) -> dict[str, Tensor] | None:
    """The tensors of a file. A pickle is read by torch's reader of tensors, which runs nothing."""
    try:
        if name.endswith(".safetensors"):
            return safetensors.torch.load(data)
        value = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError) as error:
        problems.append(f"{name} is not a file of tensors alone: {str(error).splitlines()[0][:200]}")
        return None
    if not isinstance(value, dict) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in value.items()
    ):
        problems.append(f"{name} holds something else than tensors by name")
        return None
    return value
