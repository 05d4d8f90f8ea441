"""1,000 mixed requests from 32 clients: the right adapter every time, the right answer, and exact counts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.parity.asking import TEXTS, Question, ask, ask_alone, questions, scores, token_ids
from tests.parity.conftest import ServedAdapters, data_dir_in, serve_adapters

REQUESTS, CLIENTS = 1000, 32
FP32 = 1e-4

pytestmark = pytest.mark.slow


@pytest.fixture(params=["llama", "smollm2"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shared_data_dir: Path
) -> Iterator[ServedAdapters]:
    root = tmp_path_factory.mktemp(f"crowd-{request.param}")
    with serve_adapters(request.param, "float32", root, data_dir_in(root, shared_data_dir)) as served:
        yield served


def six_tasks(served: ServedAdapters) -> list[Question]:
    """Every question that the crowd asks: two tasks of each type, every text."""
    generation = {"max_new_tokens": 6, "do_sample": False, "details": True}
    return [
        *questions(served.tasks("SEQ_CLS")[:2], TEXTS),
        *questions(served.tasks("FEATURE_EXTRACTION")[:2], TEXTS),
        *questions(served.tasks("CAUSAL_LM")[:2], TEXTS, **generation),
    ]


def same_answer(question: Question, one: object, other: object) -> bool:
    if question.parameters:
        return token_ids(one) == token_ids(other)
    if question.task.startswith("classify"):
        one, other = scores(one), scores(other)
        return all(abs(float(one[label]) - float(other[label])) <= FP32 for label in other)
    assert isinstance(one, list) and isinstance(other, list)
    return max(abs(float(a) - float(b)) for a, b in zip(one, other, strict=True)) <= FP32


def counted_requests(url: str) -> Counter[tuple[str, str]]:
    """`multigraft_requests_total` by task and outcome."""
    text = httpx.get(f"{url}/metrics").text
    return Counter(
        {
            (sample.labels["task"], sample.labels["outcome"]): int(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "multigraft_requests_total"
        }
    )


def test_a_crowd_gets_the_answers_of_its_own_adapters_and_is_counted_exactly(
    served: ServedAdapters, report_figure: Callable[[str], None]
) -> None:
    distinct = six_tasks(served)
    assert len({question.task for question in distinct}) == 6
    expected = dict(zip(distinct, ask_alone(served.url, distinct), strict=True))
    before = counted_requests(served.url)
    crowd = random.Random(0).choices(distinct, k=REQUESTS)
    limits = httpx.Limits(max_connections=CLIENTS)
    with httpx.Client(base_url=served.url, timeout=300, limits=limits) as session:
        with ThreadPoolExecutor(CLIENTS) as pool:
            answers = list(pool.map(lambda question: ask(session, question), crowd))
    wrong_digest = [q for q, (_, digest) in zip(crowd, answers, strict=True) if digest != served.digests[q.task]]
    wrong_answer = [
        q for q, (output, _) in zip(crowd, answers, strict=True) if not same_answer(q, output, expected[q][0])
    ]
    counted = counted_requests(served.url) - before
    report_figure(
        f"{served.spec.name}: {len(answers)} requests from {CLIENTS} clients to 6 tasks: "
        f"{len(wrong_digest)} wrong digests, {len(wrong_answer)} wrong answers"
    )
    assert not wrong_digest
    assert not wrong_answer
    assert counted == Counter((question.task, "ok") for question in crowd)
