"""`image-classification`: labels with scores, best first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multigraft_adapters.heads.classification import LabelScore
from multigraft_server.answers import Answer, read_pooled
from multigraft_server.calls import Call
from multigraft_server.engine.requests import PoolingParams
from multigraft_server.parts import Parts
from multigraft_server.predictions.base import Prepared, read_entries, read_parameters
from multigraft_server.predictions.classification import ClassificationParameters, label_reader

DEFAULT_TOP_K = 5
"""The pipeline's."""


class ImagePredictor:
    """`inputs` is an image's bytes, or these as base64, or a list of the latter. The output is one list of labels,
    at most five unless `top_k` says otherwise, or a list of such lists.
    """

    async def prepare(self, parts: Parts, call: Call, inputs: Any, parameters: Mapping[str, Any]) -> Prepared:
        chosen = read_parameters(ClassificationParameters, parameters)
        labels = label_reader(call.target, chosen, chosen.top_k or DEFAULT_TOP_K)
        entries, is_list = read_entries(inputs, max_entries=parts.settings.max_entries)
        assert parts.images is not None  # such a task is served on an image base only
        rows = await parts.images.read(
            [(entry, f"inputs.{index}" if is_list else "inputs") for index, entry in enumerate(entries)]
        )

        async def read(answers: Sequence[Answer]) -> Any:
            found: list[list[LabelScore]] = [labels(logits) for logits in await read_pooled(answers)]
            return found if is_list else found[0]

        return Prepared([(pixels, PoolingParams("head")) for pixels in rows], read)


PREDICTOR = ImagePredictor()
