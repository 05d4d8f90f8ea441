"""PEFT's mixed batch behind a minimal server: whatever waits, up to a batch, goes into one `generate`.

    python -m multigraft_loadtest.peers.peft_server --base FOLDER --adapter NAME=FOLDER ... --batch 16

It answers POST /v1/completions as an OpenAI-compatible server streams, and GET /health.
"""

from __future__ import annotations

import argparse
import json
import queue
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.streamers import BaseStreamer

GATHER_S = 0.05
"""How long the first of a batch waits for others: clients that were answered together ask together."""

BASE = "base"
PEFT_BASE = "__base__"
"""How `adapter_names` calls a row without an adapter."""


@dataclass(slots=True)
class Waiting:
    """One request: its tokens' texts come through `pieces`, None at the end."""

    adapter: str
    prompt: str
    max_tokens: int
    num_prompt: int = 0
    pieces: queue.Queue[str | None] = field(default_factory=queue.Queue)


class Rows(BaseStreamer):
    """Hands each row of a batch its tokens as they are computed."""

    def __init__(self, batch: list[Waiting], tokenizer: Any) -> None:
        self._batch = batch
        self._tokenizer = tokenizer
        self._step = -1

    def put(self, value: torch.Tensor) -> None:
        self._step += 1
        if self._step == 0:  # the prompts
            return
        for waiting, token in zip(self._batch, value.tolist(), strict=True):
            if self._step <= waiting.max_tokens:
                waiting.pieces.put(self._tokenizer.decode([token]) or " ")
            if self._step == waiting.max_tokens:
                waiting.pieces.put(None)

    def end(self) -> None:
        """Every row has had its own end."""


class Batches:
    """The model, and the thread that computes one batch after another."""

    def __init__(self, base: Path, adapters: dict[str, Path], batch: int) -> None:
        self.waiting: queue.Queue[Waiting] = queue.Queue()
        self._batch = batch
        self._tokenizer: Any = AutoTokenizer.from_pretrained(base, padding_side="left")
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
        for name, folder in adapters.items():
            if isinstance(model, PeftModel):
                model.load_adapter(folder, adapter_name=name)
            else:
                model = PeftModel.from_pretrained(model, folder, adapter_name=name)
        self._model = model.to(torch.bfloat16).eval()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            self._generate(self._gather())

    def _gather(self) -> list[Waiting]:
        batch = [self.waiting.get()]
        try:
            while len(batch) < self._batch:
                batch.append(self.waiting.get(timeout=GATHER_S))
        except queue.Empty:
            pass
        return batch

    def _generate(self, batch: list[Waiting]) -> None:
        inputs = self._tokenizer([waiting.prompt for waiting in batch], return_tensors="pt", padding=True)
        for waiting, mask in zip(batch, inputs["attention_mask"], strict=True):
            waiting.num_prompt = int(mask.sum())
        names = [PEFT_BASE if waiting.adapter == BASE else waiting.adapter for waiting in batch]
        longest = max(waiting.max_tokens for waiting in batch)
        with torch.inference_mode():
            self._model.generate(
                **inputs,
                adapter_names=names,
                do_sample=False,
                min_new_tokens=longest,
                max_new_tokens=longest,
                pad_token_id=self._tokenizer.pad_token_id,
                streamer=Rows(batch, self._tokenizer),
            )


class Handler(BaseHTTPRequestHandler):
    """Streams one answer after another over a connection that is kept."""

    protocol_version = "HTTP/1.1"
    batches: Batches

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        waiting = Waiting(body["model"], body["prompt"], body["max_tokens"])
        self.batches.waiting.put(waiting)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        count = 0
        while (piece := waiting.pieces.get()) is not None:
            count += 1
            self._send(json.dumps({"choices": [{"index": 0, "text": piece}]}))
        usage = {"prompt_tokens": waiting.num_prompt, "completion_tokens": count}
        self._send(json.dumps({"choices": [], "usage": usage}))
        self._send("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line per request would be measured too."""

    def _send(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    adapters = {name: Path(folder) for name, _, folder in (text.partition("=") for text in options.adapter)}
    Handler.batches = Batches(options.base, adapters, options.batch)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(f"peft serves at http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
