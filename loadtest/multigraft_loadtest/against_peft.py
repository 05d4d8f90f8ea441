"""Streams over HTTP beside PEFT's own mixed batch: the same base, adapters and prompts, in turn.

    python -m multigraft_loadtest.against_peft

starts a server on smollm2, makes 8 random LoRAs of rank 16 on all linear layers, sends 16 concurrent streams over
them, then generates the same tokens by PEFT's `adapter_names` in one batch of 16, and prints both and the ratio.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import httpx
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from multigraft_loadtest.peft_peer import make_adapters, time_mixed_batch
from multigraft_loadtest.streams import StreamReport, run_streams

READY_S = 180


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--streams", default=16, show_default=True, help="Concurrent streams; also PEFT's batch.")
@click.option("--adapters", default=8, show_default=True)
@click.option("--rank", default=16, show_default=True)
@click.option("--prompt-tokens", default=75, show_default=True)
@click.option("--max-tokens", default=64, show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Runs of each; the median is printed.")
def main(
    data_dir: Path, streams: int, adapters: int, rank: int, prompt_tokens: int, max_tokens: int, rounds: int
) -> None:
    """Compare our streams over HTTP with PEFT's mixed batch on smollm2, bf16."""
    with tempfile.TemporaryDirectory() as work:
        with serving(data_dir, Path(work) / "server") as url:
            base = next((data_dir / "bases").glob("smollm2-*[!k]"))
            folders = make_adapters(base, Path(work), count=adapters, rank=rank)
            for name, folder in folders.items():
                upload(url, name, folder)
            prompts = random_prompts(base, streams, prompt_tokens)
            ours = [run(url, list(folders), prompts, max_tokens) for _ in range(rounds + 1)][1:]
            bare = [run(url, ["smollm2"], prompts, max_tokens) for _ in range(rounds)]
        theirs = time_mixed_batch(base, folders, prompts, max_tokens=max_tokens, rounds=rounds)
    show(ours, bare, theirs, streams, adapters)


@contextmanager
def serving(data_dir: Path, registry_dir: Path) -> Iterator[str]:
    """A server of its own over smollm2, its registry apart from the user's; its URL."""
    registry_dir.mkdir()
    (data_dir / "bases").mkdir(parents=True, exist_ok=True)
    (registry_dir / "bases").symlink_to((data_dir / "bases").resolve(), target_is_directory=True)
    multigraft = str(Path(sys.executable).with_name("multigraft"))
    command = [multigraft, "serve", "--base", "smollm2", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--data-dir", str(registry_dir)], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        yield wait_for_url(process)
    finally:
        process.terminate()
        process.wait(60)


def wait_for_url(process: subprocess.Popen[str]) -> str:
    """The URL in the line that the server prints when it is ready."""
    assert process.stdout is not None
    deadline = time.monotonic() + READY_S
    for line in process.stdout:
        if " at http" in line:
            return line.split(" at ")[1].split(" ")[0].strip()
        if time.monotonic() > deadline:
            break
    raise click.ClickException("the server did not become ready")


def upload(url: str, task: str, folder: Path) -> None:
    """Upload a folder as PEFT wrote it, and promote it."""
    names = ("adapter_config.json", "adapter_model.safetensors")
    files = [("file", (name, (folder / name).read_bytes())) for name in names]
    answer = httpx.post(f"{url}/v1/tasks/{task}/versions", params={"alias": "production"}, files=files, timeout=60)
    if answer.status_code not in (200, 201):
        raise click.ClickException(f"the upload of {task} was refused: {answer.text}")


def random_prompts(base: Path, count: int, num_tokens: int) -> list[str]:
    """Prompts of about `num_tokens` tokens that differ from the first token on."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    draw = random.Random(0)
    texts = [
        tokenizer.decode(draw.choices(range(1000, 20000), k=num_tokens), skip_special_tokens=True)
        for _ in range(count)
    ]
    return [f"{index} {text}" for index, text in enumerate(texts)]


def run(url: str, models: Sequence[str], prompts: Sequence[str], max_tokens: int) -> StreamReport:
    """One run of one stream per prompt."""
    return run_streams(url, models, prompts, clients=len(prompts), max_tokens=max_tokens)


def show(
    ours: Sequence[StreamReport],
    bare: Sequence[StreamReport],
    theirs: Sequence[float],
    streams: int,
    adapters: int,
) -> None:
    """The medians as a table."""
    table = Table(title=f"{streams} streams, smollm2, bf16; medians")
    for column in ("what", "output tokens/s", "first token s"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, reports in ((f"multigraft, {adapters} LoRAs", ours), ("multigraft, base", bare)):
        rate = statistics.median(report.tokens_per_s for report in reports)
        first = statistics.median(report.first_p50_s for report in reports)
        table.add_row(name, f"{rate:.0f}", f"{first:.2f}")
    table.add_row(f"PEFT adapter_names, {adapters} LoRAs", f"{statistics.median(theirs):.0f}", "")
    Console().print(table)
    ratio = statistics.median(report.tokens_per_s for report in ours) / statistics.median(theirs)
    Console().print(f"ratio to PEFT's mixed batch: {ratio:.2f}")


if __name__ == "__main__":
    main()
