"""What a base's folder says, read without loading the model: tensors by name, and its words."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from multigraft_loadtest.problems import CannotStartError

TENSORS = "model.safetensors"
FORMATS: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
HEADER_BYTES = 8
WORD = re.compile(r"Ġ[a-z]{4,12}")
LETTER = re.compile(r"[A-Za-z]")

Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True)
class BaseFiles:
    """A base's folder with one file of tensors."""

    folder: Path

    def tensor(self, *names: str) -> Array:
        """The first of these tensors that is there, in fp32. Raises CannotStartError."""
        file = self.folder / TENSORS
        try:
            with file.open("rb") as opened:
                size = int.from_bytes(opened.read(HEADER_BYTES), "little")
                header = json.loads(opened.read(size))
                entry = next((header[name] for name in names if name in header), None)
                if entry is None or entry["dtype"] not in FORMATS:
                    raise CannotStartError(f"{file} holds no tensor {names[0]} in {', '.join(FORMATS)}")
                start, end = entry["data_offsets"]
                opened.seek(HEADER_BYTES + size + start)
                content = np.frombuffer(opened.read(end - start), FORMATS[entry["dtype"]])
        except OSError as error:
            raise CannotStartError(f"{file} cannot be read: {error.strerror}") from error
        if entry["dtype"] == "BF16":  # the upper half of an fp32 number
            content = (content.astype(np.uint32) << 16).view(np.float32)
        return content.astype(np.float32).reshape(entry["shape"])

    def words(self) -> Sequence[tuple[int, str]]:
        """Tokens that are a whole lower-case word behind a space, as text; without any, those of one letter."""
        file = self.folder / "tokenizer.json"
        try:
            vocabulary: dict[str, int] = json.loads(file.read_text("utf-8"))["model"]["vocab"]
        except (OSError, KeyError, ValueError) as error:
            raise CannotStartError(f"{file} tells no vocabulary: {error}") from error
        for pattern in (WORD, LETTER):
            found = [(number, token) for token, number in vocabulary.items() if pattern.fullmatch(token)]
            if found:
                return [(number, token.replace("Ġ", " ")) for number, token in sorted(found)]
        raise CannotStartError(f"{file} has no token that is a word")
