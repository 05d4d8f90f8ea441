"""`multigraft worker`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

import click

from multigraft_adapters.json_log import TEXT_FORMAT, JsonFormatter

OURS = "multigraft_training"


@click.command()
@click.option("--base", metavar="NAME", default="smollm2", show_default=True, help="As the server's.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("multigraft-data"),
    show_default=True,
    help="The server's data folder, or one of its own beside a shared registry and store.",
)
@click.option("--store", "store_url", metavar="URL", help="As the server's: s3://bucket/prefix.")
@click.option(
    "--registry",
    "registry_url",
    metavar="URL",
    envvar="MULTIGRAFT_REGISTRY",
    show_envvar=True,
    help="As the server's: a PostgreSQL database.",
)
@click.option(
    "--lease",
    "lease_s",
    type=click.FloatRange(1, 3600),
    default=30.0,
    show_default=True,
    help="Seconds of silence after which its job is given to another worker.",
)
@click.option("--name", metavar="NAME", help="How the jobs' events call it.  [default: host and process]")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="As the server's: json tells of each attempt, too.",
)
@click.option("--once", is_flag=True, help="End when no job is left.")
@click.option(
    "--until-eof", is_flag=True, help="End when the standard input does: with the process that began it."
)
def worker(
    base: str,
    data_dir: Path,
    store_url: str | None,
    registry_url: str | None,
    lease_s: float,
    name: str | None,
    log_format: str,
    once: bool,
    until_eof: bool,
) -> None:
    """Train what `/v1/fine_tuning/jobs` asks for, one job at a time.

    Each job runs in a process of its own, and its result becomes the next version of its task. Several workers
    may share a registry; the job of one that dies is finished by another. Ctrl-C or SIGTERM ends the worker; its
    job makes a checkpoint and goes on elsewhere, or when the worker is started again.

    \b
    multigraft worker --data-dir /var/lib/multigraft
    multigraft worker --base minilm --registry postgresql://... --store s3://bucket/adapters
    """
    _log_as(log_format)
    stop = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    if until_eof:
        threading.Thread(target=_set_at_eof, args=(stop,), daemon=True).start()
    # NOTE: this imports torch, which takes seconds: a signal meanwhile is not lost.
    from multigraft_training.jobs.worker import WorkerOptions, work

    options = WorkerOptions(base, data_dir, store_url, registry_url, lease_s, name, once)
    attempts = work(options, stop)
    click.echo(f"the worker ends after {attempts} attempts")


def _log_as(form: str) -> None:
    """Log to stderr: as text warnings and errors, as JSON the worker's own events, too."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(TEXT_FORMAT))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    if form == "json":
        logging.getLogger(OURS).setLevel(logging.INFO)
        logging.captureWarnings(True)


def _set_at_eof(stop: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    stop.set()
