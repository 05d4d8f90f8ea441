"""From an image's file to the pixels that a base takes, as a server and a trainer both read it."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from transformers.image_utils import load_image

from multigraft_adapters.bases.spec import ImageShape
from multigraft_adapters.errors import InvalidRequestError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""The types that are read, by Pillow's names; of one that moves, the first picture."""
MAX_PIXELS = 25_000_000
"""An image with more is not read unless the caller says so: what a server takes by default."""

Pixels = np.ndarray[Any, np.dtype[np.float32]]


def read_pixels(data: bytes, name: str, processor: Any, shape: ImageShape, max_pixels: int = MAX_PIXELS) -> Pixels:
    """The pixels (channels, height, width) of an image's file, by the base's processor.

    Raises InvalidRequestError, with `name` as its param, for a file that is no such image, broken or too large.
    """
    picture = open_picture(data, name, max_pixels)
    pixels = np.asarray(processor(picture, return_tensors="np")["pixel_values"][0], np.float32)
    expected = (shape.channels, shape.height, shape.width)
    if pixels.shape != expected:
        raise InvalidRequestError(
            f"{name} becomes pixels of shape {list(pixels.shape)}, the base takes {list(expected)}", param=name
        )
    return pixels


def open_picture(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image as transformers' pipelines open it: turned as its EXIF data say, in RGB.

    Raises as `read_pixels`.
    """
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            _check_size(image, name, max_pixels)
            return load_image(image)
    except InvalidRequestError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(name, max_pixels) from None
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise InvalidRequestError(f"{name} is no image of a type that is read: {known}", param=name) from None
    except Exception as error:  # a broken file can raise anything in Pillow's decoders
        raise InvalidRequestError(f"{name} is a broken image: {error}", param=name) from None


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise _too_large(name, max_pixels)
    if image.width * image.height == 0:
        raise InvalidRequestError(f"{name} is an image without pixels", param=name)


def _too_large(name: str, max_pixels: int) -> InvalidRequestError:
    return InvalidRequestError(f"{name} has more than {max_pixels} pixels", param=name)
