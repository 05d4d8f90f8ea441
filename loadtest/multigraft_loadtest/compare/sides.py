"""The servers and processes of a comparison: ours and the peers, each paused while another is measured."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from multigraft_loadtest.problems import CannotStartError, LoadTestError
from multigraft_loadtest.processes import Child, running
from multigraft_loadtest.random_adapters import CONFIG, TENSORS, RandomAdapter
from multigraft_loadtest.targets import Target
from multigraft_loadtest.workload import Request

HOST = "127.0.0.1"
START_SECONDS = 900.0
MAX_LENGTH = 2048


@dataclass(frozen=True, slots=True)
class Side:
    """A server that is measured."""

    name: str
    url: str
    target: Target
    child: Child


@dataclass(slots=True)
class Sides:
    """All that run now. Only the one whose turn it is is not paused."""

    running: list[Child] = field(default_factory=list)

    def add(self, child: Child) -> None:
        child.pause()
        self.running.append(child)

    @contextmanager
    def turn(self, child: Child) -> Iterator[None]:
        """Let this one go on, and pause it afterwards."""
        child.go_on()
        try:
            yield
        finally:
            child.pause()


def free_port() -> int:
    """A port of the loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def write_adapters(adapters: Sequence[RandomAdapter], folder: Path) -> dict[str, Path]:
    """The adapters as PEFT's folders, by name."""
    for adapter in adapters:
        (folder / adapter.name).mkdir(parents=True)
        for name, content in adapter.files.items():
            (folder / adapter.name / name).write_bytes(content)
    return {adapter.name: folder / adapter.name for adapter in adapters}


@contextmanager
def vllm(venv: Path, base: Path, adapters: Mapping[str, Path], rank: int, log: Path) -> Iterator[Side]:
    """vLLM's CPU build with all adapters loaded; its base is measured on the same server."""
    port = free_port()
    modules = [f"{name}={folder}" for name, folder in adapters.items()]
    command = [str(venv / "bin" / "vllm"), "serve", str(base), "--served-model-name", "base"]
    command += ["--dtype", "bfloat16", "--max-model-len", str(MAX_LENGTH), "--host", HOST, "--port", str(port)]
    command += ["--enable-lora", "--max-loras", str(len(adapters)), "--max-lora-rank", str(rank)]
    environment = {"VLLM_TARGET_DEVICE": "cpu", "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "4"}
    with running("vLLM", [*command, "--lora-modules", *modules], log, environment) as child:
        url = f"http://{HOST}:{port}"
        child.wait_until_ready(f"{url}/health", START_SECONDS)
        yield Side("vllm", url, Target("vllm", base="base", ignores_eos=True), child)


@contextmanager
def llama_cpp(
    venv: Path, base: Path, adapters: Mapping[str, Path], parallel: int, cache: Path, log: Path
) -> Iterator[Side]:
    """llama.cpp's server on bf16 GGUF files made of the same weights; none of its base alone has adapters."""
    model = to_gguf(venv, base, None, cache / f"{base.name}.gguf")
    made = [
        to_gguf(venv, base, folder, cache / f"{base.name}-{_digest(folder)}.gguf") for folder in adapters.values()
    ]
    port = free_port()
    command = [str(venv / "bin" / "llama-server"), "-m", str(model), "--host", HOST, "--port", str(port)]
    command += ["--parallel", str(parallel), "-c", str(512 * parallel), "-t", "2"]
    for file in made:
        command += ["--lora", str(file)]
    if made:
        command.append("--lora-init-without-apply")
    numbers = {name: number for number, name in enumerate(adapters)}

    def chosen(request: Request) -> dict[str, object]:
        return {} if request.task is None else {"lora": [{"id": numbers[request.task], "scale": 1.0}]}

    with running("llama.cpp's server", command, log) as child:
        url = f"http://{HOST}:{port}"
        child.wait_until_ready(f"{url}/health", START_SECONDS)
        target = Target("llama.cpp", ignores_eos=True, keeps_connections=False, extra=chosen)
        yield Side("llama", url, target, child)


@contextmanager
def peft(base: Path, adapters: Mapping[str, Path], batch: int, log: Path) -> Iterator[Side]:
    """PEFT's `adapter_names` behind its minimal server."""
    command = [sys.executable, "-m", "multigraft_loadtest.peers.peft_server", "--base", str(base)]
    command += [part for name, folder in adapters.items() for part in ("--adapter", f"{name}={folder}")]
    with running("PEFT's server", [*command, "--batch", str(batch)], log) as child:
        url = child.wait_for_url("peft serves at", START_SECONDS)
        yield Side("peft", url, Target("peft", base="base", ignores_eos=True), child)


def to_gguf(venv: Path, base: Path, lora: Path | None, out: Path) -> Path:
    """A base, or a LoRA for it, as bf16 GGUF by llama.cpp's own converters; kept. Raises CannotStartError."""
    if out.is_file():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".partial.gguf")
    what = [str(base)] if lora is None else ["--lora", str(base), str(lora)]
    try:
        done = subprocess.run([venv / "bin" / "to-gguf", *what, partial], capture_output=True, text=True)
    except OSError as error:
        raise CannotStartError(f"llama.cpp's converter cannot be started: {error}") from error
    if done.returncode or not partial.is_file():
        raise CannotStartError(f"llama.cpp's converter failed: {done.stderr.strip()[-500:]}")
    return partial.replace(out)


def _digest(folder: Path) -> str:
    """What tells an adapter's files from others."""
    content = b"".join((folder / name).read_bytes() for name in (CONFIG, TENSORS))
    return hashlib.sha256(content).hexdigest()[:16]


class InProcess:
    """The encoder in process: a child that computes texts when it is told to."""

    def __init__(self, base: Path, log: Path, stack: ExitStack) -> None:
        command = [sys.executable, "-m", "multigraft_loadtest.peers.encoder", "--base", str(base)]
        self._log = log
        file = stack.enter_context(log.open("w"))
        self._process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True)
        )
        stack.callback(self._process.kill)
        self._read()

    def texts_per_s(self, what: str, texts: Sequence[str]) -> float:
        """How fast it computes the texts by `base` or by `peft`; raises LoadTestError."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"what": what, "texts": list(texts)}) + "\n")
        self._process.stdin.flush()
        return float(self._read()["texts_per_s"])

    def _read(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise LoadTestError(f"the encoder in process ended:\n{self._log.read_text()[-1000:]}")
        answer: dict[str, float] = json.loads(line)
        return answer
