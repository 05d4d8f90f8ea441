"""The unmodified `openai` SDK drives trainings on a server with a worker, which is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import httpx
import openai
import psutil
import pytest
from openai.types.fine_tuning import FineTuningJob
from openai.types.fine_tuning.fine_tuning_job import Hyperparameters

from tests.server.test_serve import started
from tests.tiny import make_tiny_base

KEY = "a-key-of-tests"
WAIT_SECONDS = 180
CHATS = [
    {"messages": [{"role": "user", "content": f"hi {i}"}, {"role": "assistant", "content": "arr"}]}
    for i in range(256)
]
RECIPE = {"training": {"precision": "float32", "early_stopping": None}}
EPOCHS = 30


def jsonl(rows: Sequence[Mapping[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server with a worker, on a tiny decoder, and its URL."""
    folder = tmp_path_factory.mktemp("jobs")
    base = make_tiny_base(folder / "tiny", "llama")
    settings = folder / "settings.toml"
    settings.write_text("worker_lease_seconds = 2\n")
    options = ["--base", str(base), "--data-dir", str(folder / "data"), "--dtype", "float32", "--port", "0"]
    with started(*options, "--config", str(settings), "--with-worker", MULTIGRAFT_API_KEY=KEY) as server:
        yield server


@pytest.fixture(scope="module")
def sdk(served: tuple[subprocess.Popen[str], str]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served[1]}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def whole(sdk: openai.OpenAI) -> FineTuningJob:
    """A job that nothing disturbed."""
    return ended(sdk, create(sdk, "whole", metadata={"team": "sea", "multigraft.promote": "better"}))


def create(
    sdk: openai.OpenAI, suffix: str, rows: Sequence[Mapping[str, object]] = CHATS, **more: Any
) -> FineTuningJob:
    file = sdk.files.create(file=("chats.jsonl", jsonl(rows)), purpose="fine-tune")
    return sdk.fine_tuning.jobs.create(
        model="tiny",
        training_file=file.id,
        suffix=suffix,
        seed=3,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": EPOCHS, "batch_size": 4}}},
        extra_body={"multigraft": RECIPE},
        **more,
    )


def until(sdk: openai.OpenAI, job: FineTuningJob, is_so: Callable[[FineTuningJob], Any]) -> FineTuningJob:
    """The job when something holds of it."""
    end = time.monotonic() + WAIT_SECONDS
    while not is_so(job):
        assert time.monotonic() < end, (job, messages(sdk, job))
        time.sleep(0.02)
        job = sdk.fine_tuning.jobs.retrieve(job.id)
    return job


def ended(sdk: openai.OpenAI, job: FineTuningJob) -> FineTuningJob:
    job = until(sdk, job, lambda job: job.finished_at)
    assert job.status == "succeeded", messages(sdk, job)
    return job


def messages(sdk: openai.OpenAI, job: FineTuningJob) -> list[str]:
    """What the job's events say, oldest first."""
    return [event.message for event in sdk.fine_tuning.jobs.list_events(job.id, limit=50)][::-1]


def checkpoints(sdk: openai.OpenAI, job: FineTuningJob) -> int:
    return len(sdk.fine_tuning.jobs.checkpoints.list(job.id, limit=100).data)


def worker_of(job: FineTuningJob) -> psutil.Process:
    assert job.model_extra is not None
    return psutil.Process(int(job.model_extra["multigraft"]["worker"].split(":")[1]))


def version_of(sdk: openai.OpenAI, task: str) -> Any:
    """The first version of a task, as our own route shows it."""
    url = f"{sdk.base_url}tasks/{task}"
    return httpx.get(url, headers={"authorization": f"Bearer {KEY}"}).json()["versions"][0]


def test_a_file_becomes_a_job_and_the_job_a_model_that_answers(sdk: openai.OpenAI, whole: FineTuningJob) -> None:
    assert whole.hyperparameters == Hyperparameters(n_epochs=EPOCHS, batch_size=4, learning_rate_multiplier="auto")
    assert (whole.model, whole.seed, whole.fine_tuned_model) == ("tiny", 3, "whole@1")
    assert whole.metadata is not None and whole.metadata["team"] == "sea"
    said = messages(sdk, whole)
    assert "waits for a worker" in said[0] and "made whole@1" in said[-1]
    assert "promoted" in said[-2], "the metadata asks for it"
    measured = [event.data for event in sdk.fine_tuning.jobs.list_events(whole.id) if event.type == "metrics"]
    assert measured and all(isinstance(data, dict) and "train_loss" in data for data in measured)
    assert checkpoints(sdk, whole) == EPOCHS
    table = sdk.files.content(whole.result_files[0]).text.splitlines()
    assert table[0].startswith("step,epoch,train_loss,learning_rate,valid_loss")
    assert len(table) > EPOCHS and whole.trained_tokens
    for model in ("whole@1", "whole"):
        answer = sdk.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "hi 3"}], max_tokens=4, temperature=0
        )
        assert answer.choices[0].message.content is not None


def test_a_job_that_is_paused_and_whose_worker_is_killed_comes_to_the_same(
    sdk: openai.OpenAI, whole: FineTuningJob
) -> None:
    job = create(sdk, "shaken")
    job = until(sdk, job, lambda job: checkpoints(sdk, job) > 0)
    assert str(sdk.fine_tuning.jobs.pause(job.id).status) == "paused"
    job = until(sdk, job, lambda job: job.model_extra and job.model_extra["multigraft"]["worker"] is None)
    before = checkpoints(sdk, job)
    assert str(job.status) == "paused" and before < EPOCHS
    sdk.fine_tuning.jobs.resume(job.id)
    job = until(sdk, job, lambda job: checkpoints(sdk, job) > before)
    worker = worker_of(job)
    training = worker.children()
    assert len(training) == 1
    training[0].suspend()  # it is fast: the worker is to die before it ends
    assert checkpoints(sdk, job) < EPOCHS
    os.kill(worker.pid, signal.SIGKILL)
    training[0].resume()
    assert not psutil.wait_procs(training, 30)[1], "the training process outlived its worker"
    job = ended(sdk, job)
    told = " ".join(messages(sdk, job))
    assert "was paused" in told and "fell silent" in told and told.count("training goes on after step") == 2
    first, second = version_of(sdk, "whole"), version_of(sdk, "shaken")
    assert second["metrics"] == first["metrics"] and second["digest"] == first["digest"]
    assert checkpoints(sdk, job) == EPOCHS and job.trained_tokens == whole.trained_tokens


def test_data_that_cannot_be_trained_on_fails_the_job_with_its_lines(sdk: openai.OpenAI) -> None:
    job = until(sdk, create(sdk, "broken", [{"text": "a"}]), lambda job: job.finished_at)
    assert job.status == "failed" and job.error is not None and job.fine_tuned_model is None
    assert job.error.code == "invalid_data" and "train.jsonl:1: has text" in job.error.message


def test_a_job_that_is_cancelled_stops_training(sdk: openai.OpenAI) -> None:
    job = until(sdk, create(sdk, "cut"), lambda job: job.status == "validating_files")
    children = worker_of(job).children()
    assert sdk.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    job = until(sdk, job, lambda job: job.model_extra and job.model_extra["multigraft"]["worker"] is None)
    assert job.status == "cancelled" and not psutil.wait_procs(children, 30)[1]


def test_a_server_that_is_killed_takes_its_worker_and_the_training_with_it(
    sdk: openai.OpenAI, served: tuple[subprocess.Popen[str], str]
) -> None:
    job = until(sdk, create(sdk, "orphan"), lambda job: job.status == "validating_files")
    worker = worker_of(job)
    below = [worker, *worker.children()]
    served[0].kill()
    assert not psutil.wait_procs(below, 60)[1]
