"""From image files to pixels, on a small pool of threads."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from transformers.image_utils import load_image

from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.errors import InvalidRequestError
from multigraft_server.reading import Reader
from multigraft_server.tokenising import Tokens

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""The types that are read, by Pillow's names; of one that moves, the first picture."""
DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.ASCII | re.IGNORECASE)


class ImageReader(Reader):
    """Owns an image base's processor and the threads that decode images."""

    def __init__(self, processor: Any, spec: BaseSpec, *, max_pixels: int, threads: int) -> None:
        super().__init__("decode", threads)
        assert spec.image is not None  # on a base of texts there is none
        self._processor = processor
        self._shape = (spec.image.channels, spec.image.height, spec.image.width)
        self._ids = (0,) * spec.max_length
        self._max_pixels = max_pixels

    async def read(self, images: Sequence[tuple[Any, str]]) -> list[Tokens]:
        """The pixels of each image: a file's bytes, or these as base64 or as a data URL; with where it is.

        Raises InvalidRequestError naming that place for one that is no such image, is broken or too large.
        """
        return await asyncio.gather(*(self._read(image, param) for image, param in images))

    async def _read(self, image: Any, param: str) -> Tokens:
        if not isinstance(image, str | bytes):
            raise InvalidRequestError(f"{param} must be an image, as base64", param=param)
        return await self.run_once((image, param), lambda: self._decode(image, param))

    def _decode(self, image: str | bytes, param: str) -> Tokens:
        data = image if isinstance(image, bytes) else _from_base64(image, param)
        picture = self._open(data, param)
        pixels = np.asarray(self._processor(picture, return_tensors="np")["pixel_values"][0], np.float32)
        if pixels.shape != self._shape:
            raise InvalidRequestError(
                f"{param} becomes pixels of shape {list(pixels.shape)}, the base takes {list(self._shape)}",
                param=param,
            )
        return Tokens(self._ids, pixels=pixels)

    def _open(self, data: bytes, param: str) -> Image.Image:
        """The image as transformers' pipelines open it: turned as its EXIF data say, in RGB."""
        try:
            with Image.open(BytesIO(data), formats=FORMATS) as image:
                self._check_size(image, param)
                return load_image(image)
        except InvalidRequestError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise self._too_large(param) from None
        except UnidentifiedImageError:
            known = ", ".join(FORMATS)
            raise InvalidRequestError(
                f"{param} is no image of a type that is read: {known}", param=param
            ) from None
        except Exception as error:  # a broken file can raise anything in Pillow's decoders
            raise InvalidRequestError(f"{param} is a broken image: {error}", param=param) from None

    def _check_size(self, image: Image.Image, param: str) -> None:
        if image.width * image.height > self._max_pixels:
            raise self._too_large(param)
        if image.width * image.height == 0:
            raise InvalidRequestError(f"{param} is an image without pixels", param=param)

    def _too_large(self, param: str) -> InvalidRequestError:
        return InvalidRequestError(f"{param} has more than {self._max_pixels} pixels", param=param)


def _from_base64(text: str, param: str) -> bytes:
    if text.startswith(("http://", "https://")):
        raise InvalidRequestError(f"{param} is an address: images are not fetched, send the image", param=param)
    if text.startswith("data:"):
        prefix = DATA_URL.match(text)
        if prefix is None:
            raise InvalidRequestError(f"{param} is no data URL as data:image/png;base64,...", param=param)
        text = text[prefix.end() :]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise InvalidRequestError(f"{param} is not base64: {error}", param=param) from None
