"""How each task type reads `inputs` and writes `output`: one module and one line in `PREDICTORS` per type."""

from __future__ import annotations

from multigraft_adapters.errors import TaskTypeMismatchError
from multigraft_server.calls import Target
from multigraft_server.predictions import classification, embedding, generation, images, spans, tokens
from multigraft_server.predictions.base import Predictor, Prepared

PREDICTORS: dict[str, Predictor] = {
    "text-classification": classification.PREDICTOR,
    "token-classification": tokens.PREDICTOR,
    "question-answering": spans.PREDICTOR,
    "feature-extraction": embedding.PREDICTOR,
    "text-generation": generation.PREDICTOR,
    "image-classification": images.PREDICTOR,
}

__all__ = ["PREDICTORS", "Predictor", "Prepared", "predictor_of"]


def predictor_of(target: Target) -> Predictor:
    """The predictor of a task's type; raises TaskTypeMismatchError for the bare base."""
    if target.task_type is None:
        raise TaskTypeMismatchError(
            f"{target.ref!r} is the bare base, which has no task type: ask a task or, if the base reads text, the "
            "chat, completions or embeddings route",
            param="task",
        )
    return PREDICTORS[target.task_type]
