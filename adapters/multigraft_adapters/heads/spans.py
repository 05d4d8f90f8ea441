"""The question answering head: whether an answer begins or ends at a token, and the answers so found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from torch import Tensor

from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.heads.head import refuse_fields
from multigraft_adapters.heads.linear import LinearHead, read_linear
from multigraft_adapters.manifest import HeadSpec
from multigraft_adapters.windows import ReadText

Array = np.ndarray[Any, np.dtype[np.float32]]
OUTPUTS = 2
"""The logit of a token as the answer's first, and as its last."""
MASKED = np.float32(-10000.0)


class Span(TypedDict):
    """An answer at characters start..end of the context; an empty one says that the context holds none."""

    answer: str
    score: float
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class SpanRules:
    """Which answers are wanted: at most `top_k`, each of at most `max_tokens` tokens.

    `may_be_empty` lets the answer be that there is none; `align_to_words` makes answers whole words.
    """

    top_k: int = 1
    max_tokens: int = 15
    may_be_empty: bool = False
    align_to_words: bool = True

    @property
    def candidates(self) -> int:
        """How many spans of a window are looked at: more than asked for where several become the same words."""
        return self.top_k * 2 + 10 if self.align_to_words else self.top_k


def read_spans(
    wanted: HeadSpec,
    id2label: Mapping[int, str] | None,
    tensors: dict[str, Tensor],
    spec: BaseSpec,
    problems: list[str],
) -> LinearHead | None:
    """Read the head of `transformers`' question answering models; see `HeadKind.read`."""
    refuse_fields(wanted, ("activation", "thresholds"), problems)
    return read_linear("question-answering", wanted, tensors, spec, _check_outputs, problems)


def decode_spans(
    context: str, windows: Sequence[tuple[ReadText, Array]], cls_token_id: int | None, rules: SpanRules
) -> list[Span]:
    """The best answers in a context from its windows' logits, each (tokens, 2), best first.

    A score is the product of the probabilities that the answer begins and ends where it does, among the window's
    tokens of the context and its `[CLS]`, which stands for no answer where it is the first token. A place that is
    found several times, in several windows say, has its best score.
    """
    best: dict[tuple[int, int], float] = {}
    none_scores: list[float] = []
    for window, logits in windows:
        starts, ends = (_probabilities(window, logits[:, column], cls_token_id) for column in range(OUTPUTS))
        none_scores.append(float(starts[0] * ends[0]) if window.ids[0] == cls_token_id else 0.0)
        for first, last, score in _best_spans(window, starts, ends, rules):
            place = _characters(window, first, last, rules.align_to_words)
            best[place] = max(score, best.get(place, 0.0))
    spans: list[Span] = [
        {"answer": context[start:end], "score": score, "start": start, "end": end}
        for (start, end), score in best.items()
    ]
    if rules.may_be_empty:
        spans.append({"answer": "", "score": min(none_scores), "start": 0, "end": 0})
    return sorted(spans, key=lambda span: -span["score"])[: rules.top_k]


def _check_outputs(outputs: int, problems: list[str]) -> None:
    if outputs != OUTPUTS:
        problems.append(f"the head has {outputs} outputs; a question answering head has two, for start and end")


def _probabilities(window: ReadText, logits: Array, cls_token_id: int | None) -> Array:
    """The softmax over the context's tokens and `[CLS]`; 0 for all others."""
    allowed = np.array([token == cls_token_id for token in window.ids])
    allowed[window.start : window.stop] = True
    masked = np.where(allowed, logits, MASKED)
    exponentials = np.exp(masked - masked.max())
    probabilities: Array = exponentials / exponentials.sum()
    return probabilities


def _best_spans(
    window: ReadText, starts: Array, ends: Array, rules: SpanRules
) -> Iterator[tuple[int, int, float]]:
    """The likeliest spans of the context's tokens, first and last of each in the window, best first."""
    starts, ends = starts[window.start : window.stop], ends[window.start : window.stop]
    length = min(rules.max_tokens, len(ends))
    padded = np.concatenate([ends, np.zeros(length - 1, dtype=ends.dtype)])
    scores = (starts[:, None] * np.lib.stride_tricks.sliding_window_view(padded, length)).ravel()
    count = min(rules.candidates, len(scores))
    chosen = np.argpartition(-scores, count - 1)[:count]
    for place in chosen[np.argsort(-scores[chosen], kind="stable")]:
        first, more = divmod(int(place), length)
        if first + more < len(ends):
            yield window.start + first, window.start + first + more, float(scores[place])


def _characters(window: ReadText, first: int, last: int, align_to_words: bool) -> tuple[int, int]:
    begins, ends = window.words[first], window.words[last]
    if align_to_words and begins is not None and ends is not None:
        return begins[0], ends[1]
    return window.offsets[first][0], window.offsets[last][1]
