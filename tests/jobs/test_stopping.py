"""A server that is stopped in order, with a job under way."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from pathlib import Path

import openai
import psutil

from tests.jobs.test_sdk import EPOCHS, KEY, checkpoints, create, ended, messages, until, worker_of
from tests.server.test_serve import started
from tests.tiny import make_tiny_base


def log_of(process: subprocess.Popen[str]) -> tuple[list[str], threading.Thread]:
    """The lines of a process's log, and the thread that reads them while there are any."""
    log: list[str] = []
    reading = threading.Thread(target=lambda: log.extend(process.stderr or ()), daemon=True)
    reading.start()
    return log, reading


def test_a_stopped_server_s_job_goes_on_from_its_checkpoint_when_it_is_started_again(tmp_path: Path) -> None:
    base, settings = make_tiny_base(tmp_path / "tiny", "llama"), tmp_path / "settings.toml"
    settings.write_text('drain_grace_seconds = 0.1\nwith_worker = true\nlog_format = "json"\n')
    options = ["--base", str(base), "--data-dir", str(tmp_path / "data"), "--dtype", "float32", "--port", "0"]
    options += ["--config", str(settings)]
    with started(*options, MULTIGRAFT_API_KEY=KEY) as (process, url):
        log, reading = log_of(process)
        sdk = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
        job = create(sdk, "stopped")
        job = until(sdk, job, lambda job: checkpoints(sdk, job) > 0)
        worker = worker_of(job)
        below = [worker, *worker.children()]
        assert checkpoints(sdk, job) < EPOCHS
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert not psutil.wait_procs(below, 1)[1], "the server left its worker behind"
        reading.join(60)
        events = {line["event"]: line for line in map(json.loads, log)}
        assert {"ready", "attempt-begins", "attempt-ends", "stopped"} <= set(events)
        ended_attempt = events["attempt-ends"]
        assert (ended_attempt["job"], ended_attempt["task"], ended_attempt["attempt"]) == (job.id, "stopped", 1)
        assert (ended_attempt["status"], ended_attempt["error"]) == ("queued", None)
    with started(*options, MULTIGRAFT_API_KEY=KEY) as (process, url):
        log_of(process)  # where nobody reads it the pipe fills up, and the worker waits with its own line
        sdk = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
        job = ended(sdk, sdk.fine_tuning.jobs.retrieve(job.id))
        told = " ".join(messages(sdk, job))
        assert told.count("training goes on after step") == 1
        assert "fell silent" not in told, "it gave its job back, rather than have its lease run out"
        assert checkpoints(sdk, job) == EPOCHS
