"""`text-classification`: labels with scores, best first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from multigraft_adapters.errors import InvalidRequestError
from multigraft_adapters.heads.classification import LabelScore, decode_classification
from multigraft_adapters.manifest import Activation, Manifest, Share
from multigraft_server.answers import Answer, Values, read_pooled
from multigraft_server.calls import Call, Target
from multigraft_server.engine.requests import PoolingParams
from multigraft_server.parts import Parts
from multigraft_server.predictions.base import (
    Parameters,
    Prepared,
    check_labels_exist,
    read_parameters,
    read_texts,
)


class ClassificationParameters(Parameters):
    """Hugging Face's; `top_k` absent or null means all labels. `thresholds` stands for the adapter's own, for one
    answer; `{}` asks for all labels.
    """

    function_to_apply: Activation | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    thresholds: dict[str, Share] | None = None


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
        labels = label_reader(call.target, chosen, chosen.top_k)

        async def read(answers: Sequence[Answer]) -> list[list[LabelScore]]:
            return [labels(logits) for logits in await read_pooled(answers)]

        return Prepared([(tokens, PoolingParams("head")) for tokens in rows], read)


def label_reader(
    target: Target, chosen: ClassificationParameters, top_k: int | None
) -> Callable[[Values], list[LabelScore]]:
    """From the logits (labels,) of a row to its labels, best first, as a classification was asked for."""
    assert target.version is not None  # predictors serve tasks only
    manifest = target.version.manifest
    thresholds = _thresholds(manifest, chosen)

    def labels(logits: Values) -> list[LabelScore]:
        return decode_classification(
            logits,
            manifest.id2label or {},
            manifest.head.activation,
            function_to_apply=chosen.function_to_apply,
            top_k=top_k,
            thresholds=thresholds,
        )

    return labels


def _thresholds(manifest: Manifest, chosen: ClassificationParameters) -> Mapping[str, float] | None:
    """The scores that labels must reach: the request's or the adapter's; none for scores of another function."""
    if chosen.thresholds is None:
        return manifest.head.thresholds if chosen.function_to_apply in (None, "sigmoid") else None
    if manifest.problem_type != "multi_label_classification" or chosen.function_to_apply not in (None, "sigmoid"):
        raise InvalidRequestError(
            "parameters.thresholds: only the probabilities of a multi-label task have thresholds",
            param="parameters.thresholds",
        )
    check_labels_exist(chosen.thresholds, (manifest.id2label or {}).values(), "parameters.thresholds")
    return chosen.thresholds


PREDICTOR = ClassificationPredictor()
