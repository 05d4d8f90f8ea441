"""Images that are broken, too large or none at all, and wrong parameters: each a 400 that names the field."""

from __future__ import annotations

import random
import struct
import zlib
from typing import Any

import pytest

from tests.pictures import as_base64, encoded, noise
from tests.server.running import Served

PNG = encoded(noise())
IMAGE = as_base64(PNG)


def declared(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and has next to no picture in it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\x00" * 99))


def chunk(kind: bytes, content: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


BAD: dict[str, tuple[bytes, str]] = {
    "text": (b"hello, is this an image?", "no image of a type that is read: PNG, JPEG"),
    "an SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "no image of a type"),
    "a TIFF": (encoded(noise(), "TIFF"), "no image of a type"),
    "an ICO": (encoded(noise(size=(16, 16)), "ICO"), "no image of a type"),
    "a PDF": (encoded(noise(), "PDF"), "no image of a type"),
    "half a PNG": (PNG[: len(PNG) // 2], "broken image"),
    "half a JPEG": (encoded(noise(), "JPEG")[:700], "broken image"),
    "a PNG's first bytes": (PNG[:20], "broken image|no image of a type"),
    "a PNG with a wrong byte": (PNG[:60] + b"\x00\x01\x02\x03" + PNG[64:], "broken image"),
    "one row too many": (encoded(noise(size=(64, 65))), "more than 4096 pixels"),
    "a bomb": (declared(20_000, 20_000), "more than 4096 pixels"),
    "a smaller bomb": (declared(10_000, 10_000), "more than 4096 pixels"),
    "a wide bomb": (declared(2**31 - 1, 2**31 - 1), "more than 4096 pixels"),
    "a compressed text of 8 MB": (
        PNG[:33] + chunk(b"zTXt", b"key\x00\x00" + zlib.compress(b"x" * 8_000_000)) + PNG[33:],
        "broken image",
    ),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_a_400_that_names_the_field(viewer: Served, name: str) -> None:
    file, problem = BAD[name]
    raw = viewer.http.post("/v1/tasks/damage/predict", content=file, headers={"content-type": "image/png"})
    for response, param in [
        (raw, "inputs"),
        (viewer.predict("damage", as_base64(file)), "inputs"),
        (viewer.predict("damage", [IMAGE, as_base64(file)]), "inputs.1"),
    ]:
        assert response.status_code == 400, response.text
        assert response.json()["error"]["param"] == param
        assert_says(response.json()["error"]["message"], problem)


WHOLE = [encoded(noise(), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP")]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_whatever_bytes_are_wrong_it_is_never_the_server_s_fault(viewer: Served) -> None:
    chance = random.Random(7)
    files = [spoilt(chance.choice(WHOLE), chance) for _ in range(200)]
    answers = [viewer.http.post("/v1/tasks/damage/predict", content=file) for file in files]
    assert {answer.status_code for answer in answers} == {200, 400}
    assert {answer.json()["error"]["param"] for answer in answers if answer.status_code == 400} == {"inputs"}


def spoilt(file: bytes, chance: random.Random) -> bytes:
    """A file with some bytes changed, left out or put in, most of them near its start."""
    data = bytearray(file)
    for _ in range(chance.choice((1, 2, 5, 30))):
        place = chance.randrange(min(len(data), 120) if chance.random() < 0.6 else len(data))
        data[place : place + chance.choice((0, 1, 1, 4))] = chance.randbytes(chance.choice((0, 1, 1, 4)))
    return bytes(data)


@pytest.mark.parametrize(
    ("inputs", "parameters", "param", "problem"),
    [
        ("", {}, "inputs", "no image of a type"),
        ([], {}, "inputs", "empty list"),
        ([IMAGE, ""], {}, "inputs.1", "no image of a type"),
        (3, {}, "inputs", "must be an image, as base64"),
        (None, {}, "inputs", "must be an image, as base64"),
        ({"image": IMAGE}, {}, "inputs", "must be an image, as base64"),
        ([[IMAGE]], {}, "inputs.0", "must be an image, as base64"),
        ("where is it?", {}, "inputs", "not base64"),
        (IMAGE[:-3], {}, "inputs", "not base64"),
        (IMAGE.replace("A", "é"), {}, "inputs", "not base64"),
        ("http://localhost/image.png", {}, "inputs", "images are not fetched"),
        ("data:text/plain;base64,aGVsbG8=", {}, "inputs", "no data URL"),
        ("data:image/png,aGVsbG8=", {}, "inputs", "no data URL"),
        ([IMAGE] * 257, {}, "inputs", "at most 256"),
        (IMAGE, {"top_k": 0}, "parameters.top_k", "greater than"),
        (IMAGE, {"function_to_apply": "relu"}, "parameters.function_to_apply", "softmax"),
        (IMAGE, {"timeout": 3}, "parameters.timeout", "not permitted"),
        (IMAGE, {"thresholds": {"billing": 0.5}}, "parameters.thresholds", "only the probabilities"),
    ],
)
def test_what_is_wrong_is_a_400_that_names_the_field(
    viewer: Served, inputs: Any, parameters: dict[str, Any], param: str, problem: str
) -> None:
    response = viewer.predict("damage", inputs, parameters)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert_says(response.json()["error"]["message"], problem)


def assert_says(message: str, problems: str) -> None:
    assert any(problem in message for problem in problems.split("|")), message
