"""Text generation: the loss is on completions and assistant turns only, their ends included."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig

from multigraft_adapters.errors import InvalidDataError, UnsupportedBaseError
from multigraft_adapters.manifest import Sample
from multigraft_adapters.methods import compute
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_training.batches import IGNORED, Batch, Encoded, make_batch
from multigraft_training.evaluate import generation_metrics
from multigraft_training.examples import ChatExample, CompletionExample, Example
from multigraft_training.tasks.chat import encode_chat, render, with_prompt
from multigraft_training.tasks.classification import pad_token_id
from multigraft_training.tasks.task import Scores, TaskSetup

NUM_SAMPLES = 3
NUM_CANDIDATES = 16
SAMPLE_TOKENS = 24


class GenerationTask:
    """See TrainingTask."""

    auto_class: Any = AutoModelForCausalLM
    head_modules: tuple[str, ...] = ()
    peft_type: str | None = "CAUSAL_LM"

    def __init__(self, setup: TaskSetup) -> None:
        if setup.spec.family != "decoder":
            raise UnsupportedBaseError(
                f"text-generation needs a decoder, and the base {setup.spec.name!r} is an {setup.spec.family}"
            )
        self._setup = setup

    @property
    def model_arguments(self) -> Mapping[str, Any]:
        return {}

    def encode(self, example: Example) -> Encoded:
        tokens, targets = self._tokens(example)
        limit = self._setup.max_length
        return Encoded(tokens[:limit], targets[:limit], is_cut=len(tokens) > limit)

    def loss(self, model: Any, batch: Batch) -> Tensor:
        return self.losses(self.scores(model, batch), 0.0).sum()

    def losses(self, scores: Scores, smoothing: float) -> Tensor:
        return torch.nn.functional.cross_entropy(
            scores.logits, scores.targets, reduction="none", label_smoothing=smoothing
        )

    def scores(self, model: Any, batch: Batch) -> Scores:
        targets = batch.targets[:, 1:]
        is_learnt = targets != IGNORED
        if model.active_peft_config.is_prompt_learning:
            # Virtual tokens come before the text's, with states of their own or without.
            logits = model(**batch.inputs()).logits[:, -batch.targets.shape[1] : -1][is_learnt]
        else:
            causal = model.get_base_model()
            states = causal.base_model(**batch.inputs(), use_cache=False).last_hidden_state[:, :-1]
            # NOTE: the vocabulary is the widest layer; only the positions that are learnt need it.
            logits = causal.get_output_embeddings()(states[is_learnt])  # (targets, vocabulary)
        rows = is_learnt.nonzero()[:, 0] if batch.owners is None else batch.owners[:, 1:][is_learnt]
        return Scores(logits.float(), targets[is_learnt], rows)

    def evaluate(self, model: Any, batches: Sequence[Batch]) -> dict[str, float]:
        summed = sum(self.loss(model, batch).item() for batch in batches)
        return generation_metrics(summed, sum(batch.num_targets for batch in batches))

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        return (-metrics["loss"],)

    def majority(self, train: Sequence[Encoded], split: Sequence[Encoded]) -> dict[str, float]:
        return {}

    def manifest_fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"task_type": "text-generation", "head": {"kind": "generation"}}
        return fields if self._setup.prompt is None else {**fields, "prompt": self._setup.prompt}

    def samples(self, model: Any, examples: Sequence[Example]) -> list[Sample]:
        """The examples whose answer's first token is the surest, answered greedily."""
        margins = [(self._margin(model, example), example) for example in examples[:NUM_CANDIDATES]]
        margins.sort(key=lambda pair: -pair[0])
        return [self._sample(model, example) for _, example in margins[:NUM_SAMPLES]]

    def outputs(self, model: Any, example: Example) -> Tensor:
        logits: Tensor = model(**self._prompt_batch(model, example).inputs(), use_cache=False).logits
        return logits[0, -1].float().cpu()

    def reference_outputs(self, model: Any, adapter: VerifiedAdapter, example: Example) -> Tensor:
        states = compute(model.base_model, adapter.delta, self._prompt_batch(model, example).inputs())
        last = adapter.head.forward(states.last_hidden_state[:, -1])
        logits: Tensor = model.get_output_embeddings()(last)
        return logits[0].float().cpu()

    def _tokens(self, example: Example) -> tuple[list[int], list[int]]:
        if isinstance(example, ChatExample):
            self._check_template()
            tokens, targets = encode_chat(self._setup.tokenizer, example, self._setup.prompt)
            if targets[-1] != IGNORED and targets[-1] not in self._setup.tokenizer.all_special_ids:
                return self._ended(tokens, targets)
            return tokens, targets
        assert isinstance(example, CompletionExample)
        prompt = self._setup.tokenizer(example.prompt, verbose=False)["input_ids"]
        answer = self._setup.tokenizer(example.completion, add_special_tokens=False, verbose=False)["input_ids"]
        return self._ended(prompt + answer, [IGNORED] * len(prompt) + answer)

    def _ended(self, tokens: list[int], targets: list[int]) -> tuple[list[int], list[int]]:
        end = self._setup.tokenizer.eos_token_id
        if end is None:
            raise UnsupportedBaseError(f"the base {self._setup.spec.name!r} has no token that ends a text")
        return [*tokens, end], [*targets, end]

    def _check_template(self) -> None:
        if not self._setup.tokenizer.chat_template:
            raise InvalidDataError(
                f"the base {self._setup.spec.name!r} has no chat template",
                ["give rows of prompt and completion, not of messages"],
            )

    def _prompt(self, example: Example) -> str:
        """The text that a server is asked with: what stands before the first answer."""
        if isinstance(example, CompletionExample):
            return example.prompt
        assert isinstance(example, ChatExample)
        tokenizer = self._setup.tokenizer
        first = next(i for i, message in enumerate(example.messages) if message.role == "assistant")
        text = render(tokenizer, with_prompt(example.messages[:first], self._setup.prompt), is_open=True)
        # NOTE: where tokenising puts a first token before every text, a rendered one must not bring its own.
        return text.removeprefix(tokenizer.bos_token) if self._adds_bos() else text

    def _adds_bos(self) -> bool:
        ids = self._setup.tokenizer("a")["input_ids"]
        return bool(ids) and ids[0] == self._setup.tokenizer.bos_token_id

    def _prompt_batch(self, model: Any, example: Example) -> Batch:
        ids = self._setup.tokenizer(self._prompt(example), verbose=False)["input_ids"]
        kept = ids[: self._setup.max_length]
        encoded = Encoded(kept, [IGNORED] * len(kept))
        return make_batch([encoded], pad_token_id(self._setup.tokenizer), model.device)

    def _margin(self, model: Any, example: Example) -> float:
        best = self.outputs(model, example).topk(2).values
        return float(best[0] - best[1])

    def _sample(self, model: Any, example: Example) -> Sample:
        batch = self._prompt_batch(model, example)
        tokenizer = self._setup.tokenizer
        greedy = GenerationConfig(
            max_new_tokens=SAMPLE_TOKENS,
            do_sample=False,
            eos_token_id=model.generation_config.eos_token_id,
            pad_token_id=pad_token_id(tokenizer),
        )
        with warnings.catch_warnings():
            # transformers 5.23 always gives them; with virtual tokens PEFT counts for itself.
            warnings.filterwarnings("ignore", "Position ids are not supported", UserWarning)
            tokens = model.generate(**batch.inputs(), generation_config=greedy)[0, batch.input_ids.shape[1] :]
        answer = tokenizer.decode(tokens, skip_special_tokens=True)
        return Sample(
            inputs=self._prompt(example),
            parameters={"max_new_tokens": SAMPLE_TOKENS, "do_sample": False},
            output=[{"generated_text": answer}],
        )
