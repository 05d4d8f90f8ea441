"""Dequantising a GGUF file once into a folder of bf16 safetensors."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

import torch
from filelock import FileLock
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from multigraft_adapters.bases.quiet import quiet_transformers
from multigraft_adapters.durable import sync
from multigraft_adapters.errors import BaseNotFoundError


def dequantise(name: str, gguf_file: Path, bases_dir: Path) -> Path:
    """The folder with the dequantised model, made on first use.

    The folder's name holds the hash of the GGUF file, so another file never answers for it. It appears by a
    rename when it is complete; a lock makes a second process wait for the first.
    """
    if not gguf_file.is_file():
        raise BaseNotFoundError(f"the embedded base {name!r} lacks its file {gguf_file.name}: reinstall it")
    target = bases_dir / f"{name}-{_file_hash(gguf_file)[:16]}"
    if target.is_dir():
        return target
    bases_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(bases_dir / f"{target.name}.lock"):
        if not target.is_dir():
            _convert(name, gguf_file, target)
    return target


def _convert(name: str, gguf_file: Path, target: Path) -> None:
    work = Path(tempfile.mkdtemp(prefix=f"{target.name}.part-", dir=target.parent))
    try:
        _write_model(name, gguf_file, work)
        for file in work.iterdir():
            sync(file)
        work.chmod(0o755)
        work.rename(target)
        sync(target.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_model(name: str, gguf_file: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with _progress() as progress, quiet_transformers():
        task = progress.add_task(f"base {name}: unpacking the weights (once)", total=3)
        model = AutoModelForCausalLM.from_pretrained(
            str(gguf_file.parent),
            gguf_file=gguf_file.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
        progress.update(task, advance=1, description=f"base {name}: reading the tokenizer")
        tokenizer = AutoTokenizer.from_pretrained(str(gguf_file.parent), gguf_file=gguf_file.name)
        progress.update(task, advance=1, description=f"base {name}: writing bf16 safetensors")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        progress.update(task, advance=1, description=f"base {name}: ready")


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(), *Progress.get_default_columns()[:3], TextColumn("elapsed"), TimeElapsedColumn()
    )


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
