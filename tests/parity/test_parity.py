"""Adapters made by PEFT, uploaded over HTTP, answer as their PeftModel does; alone as in a crowd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.parity.asking import (
    GREEDY_TOKENS,
    OPENINGS,
    TEXTS,
    ask_alone,
    ask_in_a_crowd,
    questions,
    scores,
    token_ids,
)
from tests.parity.conftest import ServedAdapters
from tests.parity.peft_adapters import agreement

# fp32: the same products in another order. Sums of some hundred terms differ in the last of 24 bits.
FP32 = 1e-4
# bf16: 8 bits of mantissa, so each layer rounds at 2^-9 of its values; a batch of another shape adds the same
# terms in another order, and a probability or a normalised vector's entry moves by a few of those steps.
BF16_PROBABILITY = 0.05
BF16_ENTRY = 0.05
GENERATION = {"max_new_tokens": GREEDY_TOKENS, "do_sample": False, "details": True}

pytestmark = pytest.mark.slow


def largest_difference(one: Any, other: Any) -> float:
    """The largest difference of two score maps or two vectors."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = list(one.values()), [other[key] for key in one]
    return max(abs(float(a) - float(b)) for a, b in zip(one, other, strict=True))


def test_class_probabilities_equal_pefts(
    served_fp32: ServedAdapters, report_figure: Callable[[str], None]
) -> None:
    wanted = questions(served_fp32.tasks("SEQ_CLS"), TEXTS)
    crowd = ask_in_a_crowd(served_fp32.url, wanted)
    references = {task: served_fp32.reference(task) for task in served_fp32.tasks("SEQ_CLS")}
    differences = [
        largest_difference(scores(output), references[question.task].probabilities(question.text))
        for question, (output, _) in zip(wanted, crowd, strict=True)
    ]
    assert differences
    report_figure(f"{served_fp32.spec.name}: probabilities differ from PEFT's by at most {max(differences):.1e}")
    assert max(differences) <= FP32
    assert [digest for _, digest in crowd] == [served_fp32.digests[question.task] for question in wanted]


def test_embeddings_equal_pefts(served_fp32: ServedAdapters, report_figure: Callable[[str], None]) -> None:
    wanted = questions(served_fp32.tasks("FEATURE_EXTRACTION"), TEXTS)
    crowd = ask_in_a_crowd(served_fp32.url, wanted)
    references = {task: served_fp32.reference(task) for task in served_fp32.tasks("FEATURE_EXTRACTION")}
    differences = [
        largest_difference(output, references[question.task].embedding(question.text))
        for question, (output, _) in zip(wanted, crowd, strict=True)
    ]
    assert differences
    report_figure(f"{served_fp32.spec.name}: embeddings differ from PEFT's by at most {max(differences):.1e}")
    assert max(differences) <= FP32


def test_greedy_generations_equal_pefts_token_for_token(
    served_fp32: ServedAdapters, report_figure: Callable[[str], None]
) -> None:
    if served_fp32.spec.family == "encoder":
        assert not served_fp32.tasks("CAUSAL_LM")
        return
    wanted = questions(served_fp32.tasks("CAUSAL_LM"), OPENINGS, **GENERATION)
    crowd = [token_ids(output) for output, _ in ask_in_a_crowd(served_fp32.url, wanted)]
    references = {task: served_fp32.reference(task) for task in served_fp32.tasks("CAUSAL_LM")}
    expected = [references[question.task].greedy(question.text, GREEDY_TOKENS) for question in wanted]
    assert crowd == expected
    report_figure(f"{served_fp32.spec.name}: {sum(map(len, crowd))} greedy tokens are PEFT's, token for token")


def test_an_answer_alone_is_the_answer_in_a_crowd(served_fp32: ServedAdapters) -> None:
    pooled = questions([*served_fp32.tasks("SEQ_CLS"), *served_fp32.tasks("FEATURE_EXTRACTION")], TEXTS[:2])
    generated = questions(served_fp32.tasks("CAUSAL_LM"), TEXTS[2:], **GENERATION)
    sampled = questions(
        served_fp32.tasks("CAUSAL_LM"),
        TEXTS[2:],
        max_new_tokens=24,
        do_sample=True,
        seed=5,
        top_p=0.9,
        details=True,
    )
    wanted = [*pooled, *generated, *sampled]
    crowd, alone = ask_in_a_crowd(served_fp32.url, wanted), ask_alone(served_fp32.url, wanted)
    for question, (many, digest), (one, _) in zip(wanted, crowd, alone, strict=True):
        assert digest == served_fp32.digests[question.task]
        if question.parameters:
            assert token_ids(many) == token_ids(one), question
        elif question.task in served_fp32.tasks("SEQ_CLS"):
            assert largest_difference(scores(many), scores(one)) <= FP32
        else:
            assert largest_difference(many, one) <= FP32


def test_in_bf16_an_answer_alone_is_near_the_answer_in_a_crowd(
    served_bf16: ServedAdapters, report_figure: Callable[[str], None]
) -> None:
    classified = questions(served_bf16.tasks("SEQ_CLS"), TEXTS)
    embedded = questions(served_bf16.tasks("FEATURE_EXTRACTION"), TEXTS)
    generated = questions(served_bf16.tasks("CAUSAL_LM"), OPENINGS, **GENERATION)
    wanted = [*classified, *embedded, *generated]
    crowd = [output for output, _ in ask_in_a_crowd(served_bf16.url, wanted)]
    alone = [output for output, _ in ask_alone(served_bf16.url, wanted)]
    pairs = list(zip(crowd, alone, strict=True))
    first, second = len(classified), len(classified) + len(embedded)
    probability = max(largest_difference(scores(many), scores(one)) for many, one in pairs[:first])
    entry = max(largest_difference(many, one) for many, one in pairs[first:second])
    name = served_bf16.spec.name
    report_figure(f"{name} in bf16, crowd against alone: probability {probability:.1e}, entry {entry:.1e}")
    assert probability <= BF16_PROBABILITY
    assert entry <= BF16_ENTRY
    if generated:
        shares = [_shared(token_ids(many), token_ids(one)) for many, one in pairs[second:]]
        report_figure(f"{name} in bf16, crowd against alone: {sum(shares) / len(shares):.0%} of tokens agree")


def _shared(one: list[int], other: list[int]) -> float:
    length = min(len(one), len(other))
    return agreement(one[:length], other[:length])
