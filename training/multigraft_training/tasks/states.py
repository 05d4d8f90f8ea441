"""What a model computes of a batch with any method's delta, virtual tokens kept apart from the text's."""

from __future__ import annotations

from typing import Any

import torch
from peft import PrefixTuningConfig
from torch import Tensor, nn
from torch.nn import functional

from multigraft_adapters.bases.spec import BaseSpec, HeadLayout
from multigraft_adapters.errors import UnsupportedBaseError
from multigraft_adapters.methods import compute
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_training.batches import Batch


def layout_of(spec: BaseSpec, task_type: str) -> HeadLayout:
    """The head that transformers' model of a task type has on a base. Raises UnsupportedBaseError for none."""
    layout = spec.heads.get(task_type)
    if layout is None:
        raise UnsupportedBaseError(f"transformers has no {task_type} model of type {spec.model_type!r}")
    return layout


def head_modules(layout: HeadLayout) -> tuple[str, ...]:
    """The task model's own modules that hold a head: PEFT itself would save only those that it knows by name."""
    paths = (layout.output_tensors | layout.hidden_tensors).values()
    return tuple(sorted({path.partition(".")[0] for path in paths}))


def model_inputs(model: Any, batch: Batch) -> dict[str, Any]:
    """The keyword arguments of a PEFT model's own base for a batch, with the delta's virtual tokens in them.

    Of prompt learning these are embeddings (rows, virtual + length, hidden) or keys and values from before the
    text; the attention mask is (rows, virtual + length) with either.
    """
    config = model.active_peft_config
    if not config.is_prompt_learning:
        return batch.inputs()
    rows, virtual = len(batch.input_ids), config.num_virtual_tokens
    mask = functional.pad(batch.attention_mask, (virtual, 0), value=1)
    prompt = model.get_prompt(batch_size=rows)
    if isinstance(config, PrefixTuningConfig):
        return batch.inputs() | {"attention_mask": mask, "past_key_values": prompt}
    embedded = model.word_embeddings(batch.input_ids)
    inputs = {"inputs_embeds": torch.cat([prompt.to(embedded.dtype), embedded], dim=1), "attention_mask": mask}
    if batch.token_types is None:
        return inputs
    return inputs | {"token_type_ids": functional.pad(batch.token_types, (virtual, 0))}


def token_logits(model: Any, batch: Batch, output: str) -> Tensor:
    """The logits of every token of a batch, (rows, length, outputs) in fp32; `output` is the path of the head's
    last layer.

    NOTE: PEFT's own forward keeps the logits of virtual tokens, and gives question answering no token types.
    """
    task_model, inputs = model.get_base_model(), model_inputs(model, batch)
    if "past_key_values" in inputs:
        # Not every task model takes keys and values; those whose backbone does have a bare linear head.
        states = task_model.base_model(**inputs).last_hidden_state
        logits = task_model.get_submodule(output)(getattr(task_model, "dropout", nn.Identity())(states))
    else:
        found = task_model(**inputs)
        is_span = "start_logits" in found
        logits = torch.stack([found.start_logits, found.end_logits], dim=-1) if is_span else found.logits
    own: Tensor = logits[:, -batch.input_ids.shape[1] :]
    return own.float()


def reference_logits(model: Any, adapter: VerifiedAdapter, batch: Batch) -> Tensor:
    """What `token_logits` gives of a batch of one row, flat, by the adapter's reference apply on the bare base."""
    states = compute(model.base_model, adapter.delta, batch.inputs()).last_hidden_state
    own = states[0, -batch.input_ids.shape[1] :]
    return adapter.head.to(own.device).forward(own).flatten().cpu()
