"""A server that is stopped in order, with a job under way."""

from __future__ import annotations

import signal
from pathlib import Path

import openai
import psutil

from tests.jobs.test_sdk import EPOCHS, KEY, checkpoints, create, ended, messages, until, worker_of
from tests.server.test_serve import started
from tests.tiny import make_tiny_base


def test_a_stopped_server_s_job_goes_on_from_its_checkpoint_when_it_is_started_again(tmp_path: Path) -> None:
    base, settings = make_tiny_base(tmp_path / "tiny", "llama"), tmp_path / "settings.toml"
    settings.write_text("drain_grace_seconds = 0.1\nwith_worker = true\n")
    options = ["--base", str(base), "--data-dir", str(tmp_path / "data"), "--dtype", "float32", "--port", "0"]
    options += ["--config", str(settings)]
    with started(*options, MULTIGRAFT_API_KEY=KEY) as (process, url):
        sdk = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
        job = create(sdk, "stopped")
        job = until(sdk, job, lambda job: checkpoints(sdk, job) > 0)
        worker = worker_of(job)
        below = [worker, *worker.children()]
        assert checkpoints(sdk, job) < EPOCHS
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert not psutil.wait_procs(below, 1)[1], "the server left its worker behind"
    with started(*options, MULTIGRAFT_API_KEY=KEY) as (_, url):
        sdk = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
        job = ended(sdk, sdk.fine_tuning.jobs.retrieve(job.id))
        told = " ".join(messages(sdk, job))
        assert told.count("training goes on after step") == 1
        assert "fell silent" not in told, "it gave its job back, rather than have its lease run out"
        assert checkpoints(sdk, job) == EPOCHS
