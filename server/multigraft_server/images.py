"""From image files to pixels, on a small pool of threads."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Sequence
from typing import Any

from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.errors import InvalidRequestError
from multigraft_adapters.pictures import read_pixels
from multigraft_server.reading import Reader
from multigraft_server.tokenising import Tokens

DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.ASCII | re.IGNORECASE)


class ImageReader(Reader):
    """Owns an image base's processor and the threads that decode images."""

    def __init__(self, processor: Any, spec: BaseSpec, *, max_pixels: int, threads: int) -> None:
        super().__init__("decode", threads)
        assert spec.image is not None  # on a base of texts there is none
        self._processor = processor
        self._shape = spec.image
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
        pixels = read_pixels(data, param, self._processor, self._shape, self._max_pixels)
        return Tokens(self._ids, pixels=pixels)


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
