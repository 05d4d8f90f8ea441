"""`multigraft serve`."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import click

from multigraft_adapters import __version__
from multigraft_adapters.processor import keep_objects, share_cores, share_memory
from multigraft_server.listening import bind, url_of
from multigraft_server.logs import log_event, logging_as
from multigraft_server.settings import API_KEY_VARIABLE, REGISTRY_VARIABLE, ServerSettings, load_settings
from multigraft_server.worker_process import worker_beside


def _default(name: str) -> str:
    return f"[default: {ServerSettings.model_fields[name].default}]"


@click.command()
@click.option("--base", metavar="NAME", help=f"Short name, folder or Hugging Face id. {_default('base')}")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Where bases, adapters and the registry are kept. {_default('data_dir')}",
)
@click.option("--store", "store_url", metavar="URL", help="Where adapters are kept instead: s3://bucket/prefix.")
@click.option(
    "--registry",
    "registry_url",
    metavar="URL",
    envvar=REGISTRY_VARIABLE,
    show_envvar=True,
    help="PostgreSQL database that several servers share; without it a file in the data folder.",
)
@click.option("--host", help=f"Address to listen on; beyond loopback a key is needed. {_default('host')}")
@click.option("--port", type=click.IntRange(0, 65535), help=f"0 takes a free one. {_default('port')}")
@click.option("--device", help=f"auto, cpu, cuda or cuda:N. {_default('device')}")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "bfloat16", "float32"]),
    help=f"auto is bfloat16 where the processor computes in it. {_default('dtype')}",
)
@click.option(
    "--quantize",
    type=click.Choice(["none", "int8"]),
    help=f"int8 halves the base's linear weights on CPUs. {_default('quantize')}",
)
@click.option("--merge", metavar="MODE", help=f"off, auto or pin:TASK: what is merged. {_default('merge')}")
@click.option("--slots", type=click.IntRange(1), help=f"Adapters on the device at once. {_default('slots')}")
@click.option(
    "--with-worker",
    is_flag=True,
    default=None,
    help="A worker for training jobs, which ends with the server.",
)
@click.option("--metrics/--no-metrics", default=None, help=f"Whether anything is counted. {_default('metrics')}")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help=f"json: a line for each request, too. {_default('log_format')}",
)
@click.option("--api-key", envvar=API_KEY_VARIABLE, show_envvar=True, help="The key that clients must send.")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="TOML file with any setting, by the names of these options with _ for -.",
)
def serve(config: Path | None, **options: Any) -> None:
    """Serve one frozen base and every task that is uploaded to it.

    Options win over the file, the file over the defaults. Ctrl-C or SIGTERM ends the server, when the answers that
    are under way are complete; a second one ends it at once.

    \b
    multigraft serve
    multigraft serve --base minilm --port 8101 --data-dir /var/lib/multigraft
    MULTIGRAFT_API_KEY=... multigraft serve --host 0.0.0.0
    """
    settings = load_settings(options, config)
    with logging_as(settings.log_format):
        _serve(settings)


def _serve(settings: ServerSettings) -> None:
    started = time.monotonic()
    share_cores()
    share_memory()
    with bind(settings.host, settings.port) as bound:
        # NOTE: torch and transformers take seconds to import: what is wrong with the address is told before.
        from multigraft_server.assemble import assemble
        from multigraft_server.serving import run

        with assemble(settings) as app, worker_beside(settings) as worker:
            if worker is not None:
                app.state.parts.drain.on_begin(worker.end)

            def announce() -> None:
                keep_objects()
                name, seconds = app.state.parts.spec.name, time.monotonic() - started
                log_event("ready", base=name, url=url_of(bound), version=__version__, seconds=round(seconds, 3))
                click.echo(f"multigraft serves {name} at {url_of(bound)} (ready after {seconds:.1f} s)")

            if run(app, settings, bound, announce):
                _end_at_once()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: _end_at_once())
    log_event("stopped")


def _end_at_once() -> None:
    """A second signal waits for nothing. The worker's input ends with this process, and so does the worker."""
    os._exit(0)
