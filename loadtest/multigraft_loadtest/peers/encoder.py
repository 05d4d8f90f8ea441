"""An encoder in process: padded batches of the base alone, and PEFT's mixed batches of the same texts.

    python -m multigraft_loadtest.peers.encoder --base FOLDER

It reads lines of JSON, {"what": "base" or "peft", "texts": [...]}, and answers each with {"texts_per_s": number}.
Texts are tokenised before the clock starts, and there is no head: what is left is the encoder alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer

BATCH = 32
ADAPTERS = 8
RANK = 8


class Encoder:
    """The base, and PEFT's model of it with random LoRAs on all linear modules, made when first asked for."""

    def __init__(self, base: Path) -> None:
        self._folder = base
        self._tokenizer: Any = AutoTokenizer.from_pretrained(base)
        self._base: Any = self._load()
        self._peft: Any = None

    def base(self, texts: Sequence[str]) -> float:
        """Texts per second through the base alone, in padded batches."""
        return self._time(texts, lambda inputs, names: self._base(**inputs))

    def peft(self, texts: Sequence[str]) -> float:
        """The same through `adapter_names`, the adapters in turn."""
        if self._peft is None:
            self._peft = self._with_adapters()
        return self._time(texts, lambda inputs, names: self._peft(**inputs, adapter_names=names))

    def _load(self) -> Any:
        return AutoModel.from_pretrained(self._folder, dtype=torch.bfloat16).eval()

    def _with_adapters(self) -> Any:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear", init_lora_weights=False)
        model: Any = get_peft_model(self._load(), config, adapter_name="0")
        for index in range(1, ADAPTERS):
            model.add_adapter(str(index), config)
        return model.to(torch.bfloat16).eval()

    def _time(self, texts: Sequence[str], forward: Callable[[Any, list[str]], Any]) -> float:
        batches = [
            self._tokenizer(list(texts[start : start + BATCH]), return_tensors="pt", padding=True, truncation=True)
            for start in range(0, len(texts), BATCH)
        ]
        names = cycle(str(index) for index in range(ADAPTERS))
        with torch.inference_mode():
            forward(batches[0], [next(names) for _ in range(len(batches[0]["input_ids"]))])
            started = time.perf_counter()
            for inputs in batches:
                forward(inputs, list(islice(names, len(inputs["input_ids"]))))
            return len(texts) / (time.perf_counter() - started)


def main() -> None:
    """Answer line after line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path, required=True)
    encoder = Encoder(parser.parse_args().base)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        rate = {"base": encoder.base, "peft": encoder.peft}[asked["what"]](asked["texts"])
        print(json.dumps({"texts_per_s": rate}), flush=True)


if __name__ == "__main__":
    main()
