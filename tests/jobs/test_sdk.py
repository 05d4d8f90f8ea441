"""The unmodified `openai` SDK drives a training from its file to an answer of the model that it made."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from tests.server.test_serve import started
from tests.tiny import make_tiny_base

WAIT_SECONDS = 120
CHATS = [
    {"messages": [{"role": "user", "content": f"hi {i}"}, {"role": "assistant", "content": "arr"}]}
    for i in range(16)
]


def jsonl(rows: Sequence[Mapping[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def ended(sdk: openai.OpenAI, job: FineTuningJob) -> FineTuningJob:
    """The job when it has ended."""
    end = time.monotonic() + WAIT_SECONDS
    while job.finished_at is None:
        assert time.monotonic() < end, job
        time.sleep(0.3)
        job = sdk.fine_tuning.jobs.retrieve(job.id)
    return job


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """The SDK at a server with a worker, on a tiny decoder."""
    folder = tmp_path_factory.mktemp("jobs")
    base = make_tiny_base(folder / "tiny", "llama")
    options = ["--base", str(base), "--data-dir", str(folder / "data"), "--dtype", "float32", "--port", "0"]
    with started(*options, "--with-worker", MULTIGRAFT_API_KEY="a-key-of-tests") as (_, url):
        with openai.OpenAI(base_url=f"{url}/v1", api_key="a-key-of-tests", max_retries=0) as client:
            yield client


def test_a_file_becomes_a_job_and_the_job_a_model_that_answers(sdk: openai.OpenAI) -> None:
    file = sdk.files.create(file=("chats.jsonl", jsonl(CHATS)), purpose="fine-tune")
    job = sdk.fine_tuning.jobs.create(
        model="tiny",
        training_file=file.id,
        suffix="pirate",
        seed=3,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 8}}},
        metadata={"team": "sea", "multigraft.training.precision": "float32", "multigraft.promote": "better"},
    )
    assert (job.status, job.model, job.training_file, job.seed) == ("queued", "tiny", file.id, 3)
    job = ended(sdk, job)
    events = list(sdk.fine_tuning.jobs.list_events(job.id, limit=3))
    assert job.status == "succeeded", [event.message for event in events]
    assert job.fine_tuned_model == "pirate@1"
    said = [event.message for event in reversed(events)]
    assert "waits for a worker" in said[0] and "made pirate@1" in said[-1]
    for model in (job.fine_tuned_model, "pirate"):
        answer = sdk.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "hi 3"}], max_tokens=4, temperature=0
        )
        assert answer.choices[0].message.content is not None
    assert [one.id for one in sdk.fine_tuning.jobs.list()] == [job.id]
