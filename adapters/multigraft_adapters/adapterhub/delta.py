"""AdapterHub's bottleneck tensors under the names of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from multigraft_adapters.adapterhub.settings import ACTIVATIONS, HubSettings
from multigraft_adapters.artifact import listed, shown
from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.methods.blocks import BLOCKS
from multigraft_adapters.methods.bottleneck import PARTS, PEFT_TYPE
from multigraft_adapters.tensors_file import PEFT_PREFIX

HOLDERS = {
    "bert": ("attention.output", "output"),
    "roberta": ("attention.output", "output"),
    "distilbert": ("attention_adapters", "output_adapters"),
}
"""What keeps the adapters of a layer's attention and of its feed-forward block, by model type."""
PART_NAMES = {
    "adapter_down.0.weight": "down",
    "adapter_down.0.bias": "down bias",
    "adapter_up.weight": "up",
    "adapter_up.bias": "up bias",
    "scaling": "scaling",
}
_NAME = re.compile(
    r"(?:\w+\.)?(?P<layers>(?:encoder|transformer)\.layer)\.(?P<layer>\d+)\.(?P<holder>[\w.]+?)\.adapters\."
    r"(?P<name>[^.]+)\.(?P<part>.+)"
)


@dataclass(frozen=True, slots=True)
class _Place:
    layer: int
    path: str


def convert_delta(
    settings: HubSettings, tensors: Mapping[str, Tensor], spec: BaseSpec, problems: list[str]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """PEFT's config of our bottleneck method, and its tensors. What is missing is left to verification."""
    parts = _by_place(tensors, spec, problems)
    places = [place for place in _places(spec) if _is_declared(settings, place, spec)]
    sizes = {place: settings.size(place.layer, spec.hidden_size) for place in places}
    if None in sizes.values():
        problems.append("adapter_config.json: reduction_factor: gives none for some layers")
    size = max((size for size in sizes.values() if size is not None), default=1)
    converted: dict[str, Tensor] = {}
    for place, own in sizes.items():
        found = _checked(parts.pop(place, {}), own or size, settings, problems)
        root = f"{PEFT_PREFIX}{spec.backbone_prefix}.{place.path}"
        converted |= {root + PARTS[part]: tensor for part, tensor in _widened(found, size).items()}
    if parts:
        problems.append(f"the config says nothing of adapters at {listed(sorted(place.path for place in parts))}")
    return _config(settings, [place.path for place in places], size), converted


def _config(settings: HubSettings, targets: list[str], size: int) -> dict[str, Any]:
    scaling = 1.0 if settings.scaling == "channel" else settings.scaling
    return {
        "peft_type": PEFT_TYPE,
        "target_modules": sorted(targets),
        "parallel": settings.parallel,
        "ln_before": settings.ln_before and not settings.parallel,
        "bottleneck_size": size,
        "non_linearity": ACTIVATIONS[settings.activation],
        "scaling": scaling,
    }


def _places(spec: BaseSpec) -> list[_Place]:
    """The ends of both blocks of every layer."""
    names = BLOCKS[spec.model_type]
    ends = "|".join(re.escape(end) for end in (names.attention, names.feedforward))
    layer = re.compile(rf".+\.layer\.(\d+)\.(?:{ends})")
    return [_Place(int(match[1]), path) for path in spec.targets if (match := layer.fullmatch(path)) is not None]


def _is_declared(settings: HubSettings, place: _Place, spec: BaseSpec) -> bool:
    at_attention = place.path.endswith(f".{BLOCKS[spec.model_type].attention}")
    wanted = settings.attention if at_attention else settings.feedforward
    return wanted and place.layer not in settings.left_out


def _by_place(
    tensors: Mapping[str, Tensor], spec: BaseSpec, problems: list[str]
) -> dict[_Place, dict[str, Tensor]]:
    attention, feedforward = HOLDERS[spec.model_type]
    names = BLOCKS[spec.model_type]
    ends = {attention: names.attention, feedforward: names.feedforward}
    parts: dict[_Place, dict[str, Tensor]] = {}
    strangers: list[str] = []
    adapters: set[str] = set()
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None or match["holder"] not in ends or match["part"] not in PART_NAMES:
            strangers.append(name)
            continue
        adapters.add(match["name"])
        layer = int(match["layer"])
        place = _Place(layer, f"{match['layers']}.{layer}.{ends[match['holder']]}")
        parts.setdefault(place, {})[PART_NAMES[match["part"]]] = tensor
    if strangers:
        problems.append(f"tensors that are not of a bottleneck adapter: {listed(sorted(strangers))}")
    if len(adapters) > 1:
        problems.append(f"the tensors of several adapters: {listed(sorted(adapters))}")
    return parts


def _checked(parts: dict[str, Tensor], size: int, settings: HubSettings, problems: list[str]) -> dict[str, Tensor]:
    """A place's parts; a scaling by channel is multiplied into `up`, which it follows."""
    down = parts.get("down")
    if down is not None and (down.dim() != 2 or down.shape[0] != size):
        problems.append(f"a bottleneck has shape {shown(list(down.shape))}, the config says {size} rows")
        return {}
    if settings.scaling != "channel" or not {"up", "up bias"} <= parts.keys():
        return parts
    up, up_bias, scaling = parts["up"], parts["up bias"], parts.get("scaling")
    if scaling is None or scaling.dim() != 1 or up.dim() != 2 or len({len(scaling), len(up), len(up_bias)}) > 1:
        problems.append("scaling: 'channel' has one number for each of the layer's features")
        return {}
    kept = {part: tensor for part, tensor in parts.items() if part != "scaling"}
    return kept | {"up": scaling[:, None] * up, "up bias": scaling * up_bias}


def _widened(parts: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """The parts with as many rows as the widest place's, the others zero, where every activation is zero."""
    missing = size - len(parts["down"]) if "down" in parts else 0
    sides = {"down": (0, 0, 0, missing), "down bias": (0, missing), "up": (0, missing)}
    if missing == 0:
        return parts
    widened = {part: functional.pad(parts[part], side) for part, side in sides.items() if part in parts}
    return parts | widened
