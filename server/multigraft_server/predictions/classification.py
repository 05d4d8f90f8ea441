"""`text-classification`: labels with scores, best first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from multigraft_adapters.heads.classification import LabelScore, decode_classification
from multigraft_server.answers import Answer, read_pooled
from multigraft_server.calls import Call
from multigraft_server.engine.requests import PoolingParams
from multigraft_server.parts import Parts
from multigraft_server.predictions.base import Parameters, Prepared, read_parameters, read_texts


class ClassificationParameters(Parameters):
    """Hugging Face's; `top_k` absent or null means all labels."""

    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None


class ClassificationPredictor:
    """`inputs` is a text, `{"text", "text_pair"}`, or a list of these. The output is one list of labels per
    input, in a list: also for a single input, as Hugging Face's client expects.
    """

    async def prepare(self, parts: Parts, call: Call, inputs: Any, parameters: Mapping[str, Any]) -> Prepared:
        chosen = read_parameters(ClassificationParameters, parameters)
        texts, _ = read_texts(inputs, max_entries=parts.settings.max_entries, pairs=True)
        rows = await parts.tokeniser.texts(texts)
        for tokens in rows:
            parts.router.check_input_length(call.target, len(tokens.ids))
        assert call.target.version is not None  # predictors serve tasks only
        manifest = call.target.version.manifest

        async def read(answers: Sequence[Answer]) -> list[list[LabelScore]]:
            return [
                decode_classification(
                    logits,
                    manifest.id2label or {},
                    manifest.head.activation,
                    function_to_apply=chosen.function_to_apply,
                    top_k=chosen.top_k,
                )
                for logits in await read_pooled(answers)
            ]

        return Prepared([(tokens, PoolingParams("head")) for tokens in rows], read)


PREDICTOR = ClassificationPredictor()
