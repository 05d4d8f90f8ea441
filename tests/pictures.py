"""Small images as files, of the kinds that callers send."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
from PIL import Image

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
"""Those that a PNG may have."""


def noise(seed: int = 0, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    """A picture of random colours, (width, height)."""
    width, height = size
    colours = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(colours[..., :2].copy().view(np.uint16)[..., 0])
    picture = Image.fromarray(colours, "RGBA")
    return picture.convert("RGB").convert(mode) if mode == "P" else picture.convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The picture's file."""
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def as_base64(file: bytes) -> str:
    return base64.b64encode(file).decode()


def rotated_by_exif(orientation: int, seed: int = 0) -> bytes:
    """A JPEG that says how it is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(noise(seed), "JPEG", exif=exif)


def moving(kind: str, **options: object) -> bytes:
    """Two pictures that follow each other."""
    return encoded(noise(1), kind, save_all=True, append_images=[noise(2)], **options)
