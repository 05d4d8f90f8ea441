"""Adapters with each form of a head, and the answers of transformers' own pipelines."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoTokenizer, pipeline
from transformers.pipelines.document_question_answering import select_starts_ends

from tests.parity.forms import FORMS, Form, task_model
from tests.parity.variants import VARIANTS, disturb

FAMILIES = ("bert", "roberta", "distilbert", "modernbert", "llama", "gpt2")
"""Those whose heads are asked for over HTTP: every kind of head, and every place where it reads a state."""
WORDS = Form("words", "TOKEN_CLS", ("noun", "verb", "adjective"))
CASES = (*(form for form in FORMS if form.peft_type not in ("", "CAUSAL_LM")), WORDS)
TUNERS = ("LoRA", "(IA)³", "bottleneck, Houlsby", "DoRA", "bottleneck, parallel")
"""Methods that change a task model in place, so that a pipeline runs it: of these, each form has one."""


def make_head_adapter(base: Path, model_type: str, form: Form, folder: Path, seed: int) -> Path:
    """Save a PEFT adapter with random weights, the whole head included; `seed` chooses its method, too."""
    variant = next(one for one in VARIANTS if one.name == TUNERS[seed % len(TUNERS)])
    torch.manual_seed(seed)
    model = get_peft_model(task_model(base, form), variant.config(form.making(model_type)))
    disturb(model, seed, scale=0.2)
    model.save_pretrained(str(folder))
    return folder


class HeadReference:
    """One adapter's PeftModel in fp32, and the pipeline of its task around it."""

    def __init__(self, base: Path, form: Form, folder: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(base)
        self.model: Any = PeftModel.from_pretrained(task_model(base, form), folder).eval()
        if self.model.config.model_type == "bert":  # what BERT's own tokenizers say, and the tiny one does not
            self.tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]

    def pipe(self, task_type: str, inputs: Any, **parameters: Any) -> Any:
        """What transformers' pipeline answers."""
        pipe: Any = pipeline
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Tokenizer does not support real words")
            return pipe(task_type, model=self.model.get_base_model(), tokenizer=self.tokenizer)(
                inputs, **parameters
            )

    @torch.inference_mode()
    def vector(self, text: str, pooling: str, *, normalize: bool) -> list[float]:
        """A pooled state of the backbone."""
        inputs = self.tokenizer(text, return_tensors="pt")
        states = self.model(**inputs).last_hidden_state[0]
        pooled = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling]
        vector: list[float] = (torch.nn.functional.normalize(pooled, dim=-1) if normalize else pooled).tolist()
        return vector

    @torch.inference_mode()
    def answers(
        self, question: str, context: str, *, size: int, stride: int, top_k: int, longest: int, may_be_empty: bool
    ) -> list[dict[str, Any]]:
        """What transformers' question answering pipeline answered while there was one, without words' alignment.

        Spans that several windows find are listed once, with their best score.
        """
        encoded = self.tokenizer(
            question, context, truncation="only_second", max_length=size, stride=stride,
            return_overflowing_tokens=True,
        )  # fmt: skip
        best: dict[tuple[int, int], float] = {}
        null = 1e6
        for index, encoding in enumerate(encoded.encodings):
            inputs = {name: torch.tensor([encoded[name][index]]) for name in self.tokenizer.model_input_names}
            output = self.model.get_base_model()(**inputs)  # PEFT's own forward drops token types here
            cls = self.tokenizer.cls_token_id
            masked = [
                of != 1 and token != cls for of, token in zip(encoding.sequence_ids, encoding.ids, strict=True)
            ]
            starts, ends, scores, null = select_starts_ends(
                output.start_logits.numpy(), output.end_logits.numpy(), np.array([masked]).astype(int),
                np.ones((1, len(masked)), dtype=int), null, top_k, may_be_empty, longest,
            )  # fmt: skip
            for start, end, score in zip(starts, ends, scores, strict=True):
                place = (encoding.offsets[start][0], encoding.offsets[end][1])
                best[place] = max(best.get(place, 0.0), float(score))
        found: list[dict[str, Any]] = [
            {"answer": context[start:end], "score": score, "start": start, "end": end}
            for (start, end), score in best.items()
        ]
        if may_be_empty:
            found.append({"answer": "", "score": null, "start": 0, "end": 0})
        return sorted(found, key=lambda one: -one["score"])[:top_k]
