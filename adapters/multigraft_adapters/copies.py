"""What PEFT saves with an adapter and no one needs: copies of the base's own tensors, and a head's tensors twice.

PEFT saves the base's embeddings and output head wherever LoRA is on them, and with `bias="all"` a saved module's
biases under the names of its wrapper too. A copy that is the same is left out of the adapter; another is refused.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from multigraft_adapters.artifact import listed
from multigraft_adapters.bases.spec import OUTPUT_HEAD, BaseSpec
from multigraft_adapters.tensors_file import PEFT_PREFIX

WIDTHS = {torch.float32: 32, torch.float16: 16, torch.bfloat16: 16}
COPIED = (".base_layer.weight", ".weight")
"""What PEFT calls the weight of a module, with LoRA on it and without."""
_WRAPPED = re.compile(
    r"(?P<module>.+)\.(?P<kind>original_module|modules_to_save(\.default)?)\.(?P<rest>(.+\.)?bias)"
)


def take_copies(tensors: dict[str, Tensor], spec: BaseSpec, problems: list[str]) -> set[str]:
    """Take the copies out of `tensors`; returns their names. Those that are other than the base's are problems."""
    copies = _head_copies(tensors, problems) | _base_copies(tensors, spec, problems)
    for name in copies:
        del tensors[name]
    return copies


def _head_copies(tensors: dict[str, Tensor], problems: list[str]) -> set[str]:
    """The biases of saved modules under their wrappers' names: the module as it was, or once more as it is."""
    copies: set[str] = set()
    for name, tensor in tensors.items():
        match = _WRAPPED.fullmatch(name)
        saved = None if match is None else tensors.get(f"{match['module']}.{match['rest']}")
        if match is None or saved is None:
            continue
        copies.add(name)
        if match["kind"] != "original_module" and not torch.equal(tensor, saved):
            problems.append(f"{name} is not the same as {match['module']}.{match['rest']}")
    return copies


def _base_copies(tensors: dict[str, Tensor], spec: BaseSpec, problems: list[str]) -> set[str]:
    """The whole embeddings and output heads. They can only be the base's: it is shared."""
    prefixes = {spec.backbone_prefix, *(layout.backbone_prefix for layout in spec.heads.values())}
    roots = ["", *(f"{prefix}." for prefix in prefixes if prefix)]
    copies: set[str] = set()
    others: list[str] = []
    for path in (*spec.embeddings, OUTPUT_HEAD):
        modules = [f"{PEFT_PREFIX}{root}{path}" for root in roots]
        own = {module + end for module in modules for end in COPIED} & tensors.keys()
        copies |= own
        others += [name for name in own if not _is_base(tensors[name], path, spec)]
    if others:
        problems.append(
            "whole embeddings or output heads of an adapter's own cannot be served from a shared base, train LoRA "
            f"on them instead; these are not the base's: {listed(sorted(others))}"
        )
    return copies


def _is_base(copy: Tensor, path: str, spec: BaseSpec) -> bool:
    """Whether a tensor is the base's, in the narrower of the precisions in which the two were saved."""
    if path not in spec.stored:
        return False
    own = spec.stored[path].read()
    narrow = copy.dtype if WIDTHS[copy.dtype] < WIDTHS.get(own.dtype, 0) else own.dtype
    return copy.shape == own.shape and torch.equal(copy.to(narrow), own.to(narrow))
