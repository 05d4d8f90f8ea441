"""Answers in a context: the products of probabilities, windows, whole words, and no answer at all."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from multigraft_adapters.bases.spec import HeadLayout
from multigraft_adapters.errors import InvalidAdapterError
from multigraft_adapters.heads import SpanRules, decode_spans
from multigraft_adapters.heads.spans import Array
from multigraft_adapters.verify import verify
from multigraft_adapters.windows import ReadText, cut, read_question
from tests.adapters.made import SPEC, Parts, generation_parts
from tests.tiny import tiny_tokenizer

QUESTION = "who is it?"
CONTEXT = "Clara lives in Berlin, Bob in Bonn"
CLS = 1


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer(encoder=True)


@pytest.fixture(scope="module")
def window(tokenizer: Any) -> ReadText:
    return read_question(tokenizer, QUESTION, CONTEXT)


def logits_of(window: ReadText, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((len(window.ids), 2), dtype=np.float32)


def pointing(window: ReadText, start: int, end: int) -> Array:
    """Logits of an answer at the context's characters start..end (of a tokenizer of single characters)."""
    logits = np.full((len(window.ids), 2), -5.0, dtype=np.float32)
    logits[window.start + start, 0] = logits[window.start + end - 1, 1] = 5.0
    return logits


def by_hand(window: ReadText, logits: Array, rules: SpanRules) -> list[tuple[float, int, int]]:
    """Every allowed span's score and characters, best first."""
    places = [0, *range(window.start, window.stop)]
    exponentials = np.exp(logits[places].astype(np.float64))
    starts, ends = (exponentials / exponentials.sum(axis=0))[1:].T
    spans = [
        (starts[i] * ends[j], window.offsets[window.start + i][0], window.offsets[window.start + j][1])
        for i in range(len(starts))
        for j in range(i, min(len(ends), i + rules.max_tokens))
    ]
    return sorted(spans, reverse=True)[: rules.top_k]


@pytest.mark.parametrize("max_tokens", [1, 4, 15, 500])
@pytest.mark.parametrize("top_k", [1, 3, 100])
def test_scores_are_the_products_of_the_probabilities(window: ReadText, max_tokens: int, top_k: int) -> None:
    rules = SpanRules(top_k=top_k, max_tokens=max_tokens, align_to_words=False)
    logits = logits_of(window)
    found = decode_spans(CONTEXT, [(window, logits)], CLS, rules)
    expected = by_hand(window, logits, rules)
    assert [(span["start"], span["end"]) for span in found] == [(start, end) for _, start, end in expected]
    assert [span["score"] for span in found] == pytest.approx([score for score, _, _ in expected], abs=1e-6)
    assert all(span["answer"] == CONTEXT[span["start"] : span["end"]] for span in found)
    assert all(type(span["score"]) is float for span in found)


def test_an_answer_within_words_becomes_whole_words_unless_it_must_not(window: ReadText) -> None:
    logits = pointing(window, CONTEXT.index("lara"), CONTEXT.index("lara") + 6)
    whole = decode_spans(CONTEXT, [(window, logits)], CLS, SpanRules())
    exact = decode_spans(CONTEXT, [(window, logits)], CLS, SpanRules(align_to_words=False))
    assert whole[0]["answer"].strip() == "Clara lives"
    assert exact[0]["answer"] == "lara l"
    assert whole[0]["score"] == exact[0]["score"]


def test_several_spans_of_one_word_are_one_answer(window: ReadText) -> None:
    found = decode_spans(CONTEXT, [(window, logits_of(window))], CLS, SpanRules(top_k=5))
    places = [(span["start"], span["end"]) for span in found]
    assert len(places) == len(set(places)) == 5


def test_an_answer_at_the_end_of_a_long_context_is_found_in_its_window(tokenizer: Any) -> None:
    long = "nothing here. " * 20 + CONTEXT
    windows = cut(read_question(tokenizer, QUESTION, long), 100, 20)
    assert len(windows) > 3
    place = long.index("Berlin")
    logits = [
        pointing(window, place - window.offsets[window.start][0], place + 6 - window.offsets[window.start][0])
        if window.offsets[window.start][0] <= place and window.offsets[window.stop - 1][1] >= place + 6
        else np.full((len(window.ids), 2), 0.0, dtype=np.float32)
        for window in windows
    ]
    assert sum(bool((one == 5.0).any()) for one in logits) >= 1
    rules = SpanRules(align_to_words=False)
    [best] = decode_spans(long, list(zip(windows, logits, strict=True)), CLS, rules)
    assert (best["answer"], best["start"]) == ("Berlin", place)


def test_there_may_be_no_answer(window: ReadText) -> None:
    logits = logits_of(window)
    logits[0] = 9.0
    rules = SpanRules(top_k=2, may_be_empty=True)
    first, second = decode_spans(CONTEXT, [(window, logits)], CLS, rules)
    assert (first["answer"], first["start"], first["end"]) == ("", 0, 0)
    assert first["score"] > 0.9 > second["score"]
    always = decode_spans(CONTEXT, [(window, logits)], CLS, SpanRules())
    assert always[0]["answer"] == second["answer"]


def test_a_window_with_an_answer_makes_no_answer_unlikely(window: ReadText) -> None:
    empty = logits_of(window)
    empty[0] = 9.0
    windows = [(window, empty), (window, pointing(window, 0, 5))]
    [best] = decode_spans(CONTEXT, windows, CLS, SpanRules(may_be_empty=True))
    assert best["answer"] == "Clara"


def test_without_a_cls_token_there_is_always_an_answer(window: ReadText) -> None:
    logits = logits_of(window)
    logits[0] = 9.0
    found = decode_spans(CONTEXT, [(window, logits)], None, SpanRules(top_k=100, may_be_empty=True))
    assert found[0]["answer"] != ""
    assert all(span["score"] == 0.0 for span in found if span["answer"] == "")


def test_the_question_is_last_for_a_tokenizer_that_pads_on_the_left() -> None:
    tokenizer = tiny_tokenizer(encoder=True)
    tokenizer.padding_side = "left"
    read = read_question(tokenizer, QUESTION, CONTEXT)
    assert (read.start, read.stop) == (1, 1 + len(CONTEXT))
    assert [window.start for window in cut(read, 30, 4)] == [1] * len(cut(read, 30, 4))


def span_parts(outputs: int = 2) -> Parts:
    parts = generation_parts()
    parts.config |= {"task_type": "QUESTION_ANS", "modules_to_save": ["qa_outputs"]}
    parts.tensors |= {
        "base_model.model.qa_outputs.weight": torch.ones(outputs, 8),
        "base_model.model.qa_outputs.bias": torch.ones(outputs),
    }
    return parts


ANSWERING = dataclasses.replace(SPEC, heads={"question-answering": HeadLayout("qa_outputs")})


def test_a_head_reads_every_token_and_has_two_outputs() -> None:
    adapter = verify(span_parts().files(), ANSWERING)
    assert (adapter.manifest.task_type, adapter.head.spec.pooling) == ("question-answering", None)
    assert adapter.head.forward(torch.ones(5, 8)).shape == (5, 2)
    with pytest.raises(InvalidAdapterError, match="the head has 3 outputs"):
        verify(span_parts(3).files(), ANSWERING)


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        ({"id2label": {"0": "a", "1": "b"}}, "a question-answering task has no labels"),
        ({"head": {"kind": "spans", "activation": "softmax"}}, "head.activation: a head of kind 'spans' has none"),
        ({"head": {"kind": "spans", "pooling": "cls"}}, "a head of kind 'spans' reads every token's state"),
        ({"problem_type": "regression"}, "problem_type: a question-answering task has none"),
    ],
)
def test_a_manifest_that_says_more_is_refused(manifest: dict[str, Any], problem: str) -> None:
    parts = span_parts()
    parts.manifest = {"task_type": "question-answering", "head": {"kind": "spans"}, "method": {"name": "lora"}}
    parts.manifest |= manifest
    with pytest.raises(InvalidAdapterError, match=problem):
        verify(parts.files(), ANSWERING)


def test_an_adapter_whose_task_model_has_another_name_for_the_backbone_is_read() -> None:
    parts = span_parts()
    layout = HeadLayout("qa_outputs", backbone_prefix="transformer")
    parts.tensors = {
        name.replace("model.model.layers", "model.transformer.layers"): tensor
        for name, tensor in parts.tensors.items()
    }
    spec = dataclasses.replace(SPEC, heads={"question-answering": layout})
    assert verify(parts.files(), spec).delta.nbytes > 0
    with pytest.raises(InvalidAdapterError, match="not of a target in the base"):
        verify(parts.files(), ANSWERING)
