"""From a folder that AdapterHub saved to a verified adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch

from multigraft_adapters.adapterhub.delta import HOLDERS, convert_delta
from multigraft_adapters.adapterhub.files import Saved, read_saved
from multigraft_adapters.adapterhub.heads import convert_head
from multigraft_adapters.adapterhub.settings import read_hub_settings
from multigraft_adapters.artifact import CONFIG_FILE, MANIFEST_FILE, TENSORS_FILE, capped, shown
from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.errors import InvalidAdapterError
from multigraft_adapters.manifest import canonical_json
from multigraft_adapters.verify import VerifiedAdapter, verify

PEFT_TASK_TYPES = {
    "text-classification": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "question-answering": "QUESTION_ANS",
    "feature-extraction": "FEATURE_EXTRACTION",
}


def convert(folder: Path, spec: BaseSpec, labels: Sequence[str] = ()) -> VerifiedAdapter:
    """The adapter in an AdapterHub folder, for this base, verified as an upload is.

    `labels` name the labels of a head that does not. Raises InvalidAdapterError with every reason why it cannot be
    served exactly.
    """
    problems: list[str] = []
    adapter, head = read_saved(folder, problems)
    files = None if adapter is None else _files(adapter, head, labels, spec, problems)
    if problems or files is None:
        raise InvalidAdapterError(f"the adapter in {folder} is not converted", capped(problems))
    return verify(files, spec)


def _files(
    adapter: Saved, head: Saved | None, labels: Sequence[str], spec: BaseSpec, problems: list[str]
) -> dict[str, bytes] | None:
    """The artifact's files; None, with the problems noted, where they cannot be made."""
    _check_base(adapter, spec, problems)
    own = adapter.config.get("config")
    if not isinstance(own, dict):
        problems.append(f"{CONFIG_FILE} has no object 'config': it is not one of AdapterHub's")
    if spec.model_type not in HOLDERS or not isinstance(own, dict):
        return None
    converted = convert_head(head, labels, spec, problems)
    settings = read_hub_settings(own, problems)
    if settings is None:
        return None
    config, tensors = convert_delta(settings, adapter.tensors, spec, problems)
    if problems:
        return None
    config["task_type"] = PEFT_TASK_TYPES[converted.manifest["task_type"]]
    config["modules_to_save"] = list(converted.modules) or None
    contiguous = {name: tensor.contiguous() for name, tensor in (tensors | converted.tensors).items()}
    return {
        CONFIG_FILE: canonical_json(config),
        TENSORS_FILE: safetensors.torch.save(contiguous),
        MANIFEST_FILE: canonical_json(_manifest(adapter, converted.manifest)),
    }


def _check_base(adapter: Saved, spec: BaseSpec, problems: list[str]) -> None:
    model_type, hidden_size = (adapter.config.get(key) for key in ("model_type", "hidden_size"))
    if spec.model_type not in HOLDERS:
        known = ", ".join(HOLDERS)
        problems.append(f"adapters of {spec.model_type} bases are not converted; those of {known} are")
    if model_type != spec.model_type:
        problems.append(f"made for a {shown(model_type)}, and the base is a {spec.model_type}")
    if hidden_size != spec.hidden_size:
        problems.append(f"made for a hidden size of {shown(hidden_size)}, and the base has {spec.hidden_size}")


def _manifest(adapter: Saved, of_head: dict[str, Any]) -> dict[str, Any]:
    version = adapter.config.get("version")
    if not isinstance(version, str):
        return of_head
    return of_head | {"library_versions": {"adapters": version.removeprefix("adapters.")}}
