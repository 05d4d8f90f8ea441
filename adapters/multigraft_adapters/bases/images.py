"""How an image base's folder says that images become pixels."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from multigraft_adapters.bases.spec import ImageShape
from multigraft_adapters.errors import UnsupportedBaseError

PROCESSOR_FILE = "preprocessor_config.json"
PROCESSOR_FIELDS = (
    "crop_size",
    "do_center_crop",
    "do_convert_rgb",
    "do_normalize",
    "do_rescale",
    "do_resize",
    "image_mean",
    "image_std",
    "resample",
    "rescale_factor",
    "size",
)


def load_image_processor(folder: Path) -> Any:
    """transformers' processor of a base's folder, always on Pillow: its other backend gives other pixels.

    It takes RGB images, `processor(image, return_tensors="np")["pixel_values"][0]` is (channels, height, width).
    """
    try:
        from transformers import AutoImageProcessor

        return AutoImageProcessor.from_pretrained(
            folder, backend="pil", local_files_only=True, trust_remote_code=False
        )
    except ImportError as error:
        raise UnsupportedBaseError("an image base needs Pillow: pip install pillow") from error


def image_processor_hash(folder: Path, shape: ImageShape) -> str:
    """`sha256:` + hex over the fields that decide which pixels an image becomes.

    Raises UnsupportedBaseError when the folder does not say, or says another size than the base takes.
    """
    settings = _read_settings(folder / PROCESSOR_FILE)
    size = settings.get("size")
    if size not in ({"height": shape.height, "width": shape.width}, shape.height):
        raise UnsupportedBaseError(
            f"{folder}/{PROCESSOR_FILE} makes images of size {size}, the base takes {shape.height}x{shape.width}"
        )
    kept = {name: settings.get(name) for name in PROCESSOR_FIELDS}
    canonical = json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()
    return f"sha256:{hashlib.sha256(canonical).hexdigest()}"


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        settings = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UnsupportedBaseError(f"{file} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise UnsupportedBaseError(f"{file} is no JSON object")
    return settings
