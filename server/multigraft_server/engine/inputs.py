"""A step's rows as what the backbone's forward takes: one packed sequence."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from multigraft_adapters.bases import Base
from multigraft_adapters.bases.families import traits_of
from multigraft_server.engine.plan import PlannedRow, Row


class InputPacker:
    """Knows what the base's family takes beside token ids, and how it counts positions."""

    def __init__(self, base: Base) -> None:
        self._traits = traits_of(base.spec.model_type)
        self._padding: int = base.model.config.pad_token_id if self._traits.padded_positions else 0
        self._device: torch.device = base.model.device

    def pack(self, rows: Sequence[PlannedRow]) -> dict[str, Tensor]:
        """The keyword arguments of the backbone, in the rows' order: each (1, tokens), or the images' pixels."""
        if self._traits.images:
            return {"pixel_values": self._stacked(rows)}
        tokens = [token for part in rows for token in part.row.tokens[part.start : part.start + part.count]]
        positions = [place for part in rows for place in self._positions(part)]
        inputs = {"input_ids": self._packed(tokens), "position_ids": self._packed(positions)}
        if self._traits.token_types:
            inputs["token_type_ids"] = self._packed([kind for part in rows for kind in _token_types(part)])
        return inputs

    def _positions(self, part: PlannedRow) -> Sequence[int]:
        if self._traits.padded_positions:
            return self._padded(part.row)
        return range(part.start, part.start + part.count)

    def _padded(self, row: Row) -> list[int]:
        """The positions of a whole row. A prefix moves all but the padding's; among embeddings, of which virtual
        tokens are some, the model looks for no padding."""
        text = row.tokens[row.num_virtual :]
        if row.num_virtual_states:
            return list(range(self._padding + 1, self._padding + 1 + len(row.tokens)))
        positions = padded_positions(text, self._padding)
        return [place + row.num_virtual * (place != self._padding) for place in positions]

    def _stacked(self, rows: Sequence[PlannedRow]) -> Tensor:
        images = [part.row.request.pixels for part in rows]
        return torch.from_numpy(np.stack([image for image in images if image is not None])).to(self._device)

    def _packed(self, values: list[int]) -> Tensor:
        return torch.tensor([values], dtype=torch.long, device=self._device)


class PackedImages(nn.Module):
    """An image base's embeddings, which embed each image as it is, as one sequence of all images' tokens."""

    def __init__(self, embeddings: nn.Module) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.patch_embeddings = embeddings.patch_embeddings

    def forward(self, pixel_values: Tensor, **options: Any) -> Tensor:
        """(images, channels, height, width) -> (1, images x tokens, hidden)."""
        embedded: Tensor = self.embeddings(pixel_values, **options)
        return embedded.flatten(0, 1)[None]


def _token_types(part: PlannedRow) -> Sequence[int]:
    given = part.row.request.token_type_ids
    return [0] * part.count if not given else [0] * part.row.num_virtual_states + list(given)


def padded_positions(tokens: Sequence[int], padding: int) -> list[int]:
    """RoBERTa's rule for a whole row: the first token after `padding`, a padding token at `padding` itself."""
    counts = accumulate(token != padding for token in tokens)
    return [padding + (count if token != padding else 0) for token, count in zip(tokens, counts, strict=True)]
