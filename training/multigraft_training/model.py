"""The frozen base with a task's head and a trainable delta."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers.pytorch_utils import Conv1D

from multigraft_adapters.bases import BaseSpec
from multigraft_adapters.bases.load import LOCAL_ONLY
from multigraft_adapters.bases.quiet import quiet_transformers
from multigraft_adapters.errors import UnsupportedBaseError
from multigraft_training.bottleneck import BottleneckLinear
from multigraft_training.methods import Surroundings, peft_config
from multigraft_training.plain import PlainConfig, PlainModel
from multigraft_training.prefix_init import begin_as_words
from multigraft_training.recipe_methods import FullPart, HeadPart, MethodPart
from multigraft_training.tasks import TrainingTask

EAGER_UP_TO = 256
"""Up to this many tokens plain attention trains faster on a CPU than the fused one, whose backward is slow."""


def load_model(
    folder: Path,
    spec: BaseSpec,
    task: TrainingTask,
    method: MethodPart,
    *,
    device: torch.device,
    dtype: torch.dtype,
    longest: int,
    excluded: tuple[str, ...] = (),
) -> Any:
    """The PEFT model to train: the base in `dtype`, what is trained in fp32, begun from torch's random state.

    `longest` is the longest example in tokens; no delta comes to the modules at the paths `excluded`. Raises
    UnsupportedBaseError when the task needs a part that the base has no weights for, ValueError as `peft_config`
    does.
    """
    if isinstance(method, FullPart):
        dtype = torch.float32
    model = _task_model(folder, spec, task, device=device, dtype=dtype, longest=longest)
    around = Surroundings(
        spec=spec.of_task(task.manifest_fields()["task_type"]),
        folder=folder,
        model_config=model.config,
        peft_type=task.peft_type,
        head_modules=task.head_modules,
        is_transposed=any(isinstance(module, Conv1D) for module in model.modules()),
        excluded=excluded,
    )
    if isinstance(method, HeadPart | FullPart):
        peft_model = _without_delta(model, method, around)
    else:
        peft_model = _with_delta(model, peft_config(method, around), spec)
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return peft_model


def load_frozen(
    folder: Path, spec: BaseSpec, task: TrainingTask, *, device: torch.device, dtype: torch.dtype, longest: int
) -> PlainModel:
    """The base as it is, with the task's new head where it has one. Raises as `load_model` does."""
    model = _task_model(folder, spec, task, device=device, dtype=dtype, longest=longest)
    frozen = PlainModel(model, PlainConfig(task.peft_type, task.head_modules, spec.name), is_full=False)
    for parameter in frozen.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return frozen


def keep_less(model: Any) -> None:
    """Compute each layer again in the backward pass, and keep only its input until then.

    Raises ValueError where the delta is handed to the layers beside their input.
    """
    if isinstance(model.active_peft_config, PrefixTuningConfig):
        raise ValueError("prefix tuning hands the layers keys and values, which gradient checkpointing would lose")
    model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})


def without_delta(model: Any) -> Any:
    """The task's model with the frozen base's own modules in their places; the PEFT model is used up."""
    base = model.get_base_model()
    # NOTE: PEFT's own unload of (IA)3 fails beside a head of several modules.
    layers = [(path, layer) for path, layer in base.named_modules() if isinstance(layer, BaseTunerLayer)]
    for path, layer in layers:
        if isinstance(layer, BottleneckLinear):
            layer.let_go()
        base.set_submodule(path, layer.get_base_layer())
    return base


def _task_model(
    folder: Path, spec: BaseSpec, task: TrainingTask, *, device: torch.device, dtype: torch.dtype, longest: int
) -> Any:
    """transformers' model of the task's type on the base, its head random."""
    is_short_on_cpu = device.type == "cpu" and longest <= EAGER_UP_TO
    with quiet_transformers():
        model, info = task.auto_class.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation="eager" if is_short_on_cpu else "sdpa",
            output_loading_info=True,
            **_renamed(spec, task),
            **task.model_arguments,
            **LOCAL_ONLY,
        )
    _check_missing(info["missing_keys"], spec, task)
    return model.to(device)


def _without_delta(model: Any, method: HeadPart | FullPart, around: Surroundings) -> PlainModel:
    if isinstance(method, HeadPart) and not around.head_modules:
        raise ValueError("name: head: this task type has no head of its own to train")
    return PlainModel(
        model,
        PlainConfig(around.peft_type, around.head_modules, around.spec.name),
        is_full=isinstance(method, FullPart),
    )


def _with_delta(model: Any, config: PeftConfig, spec: BaseSpec) -> Any:
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 for a property by its old name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        peft_model = get_peft_model(model, config)
    if isinstance(config, PromptEncoderConfig):
        _begin_among_words(peft_model)
    if isinstance(config, PrefixTuningConfig) and not config.prefix_projection:
        begin_as_words(peft_model, None)
    # NOTE: PEFT keeps the folder's path here; the same training must give the same artifact anywhere.
    config.base_model_name_or_path = spec.name
    if isinstance(config, PromptTuningConfig) and config.tokenizer_name_or_path:
        config.tokenizer_name_or_path = spec.name
    return peft_model


@torch.no_grad()
def _begin_among_words(model: Any) -> None:
    """Move P-tuning's virtual tokens, which PEFT begins around zero, to the middle of the vocabulary.

    On some bases all words' embeddings are far from zero in the same direction.
    """
    last = model.prompt_encoder["default"].mlp_head[-1]
    last.bias.add_(model.word_embeddings.weight.mean(dim=0).to(last.bias))


def _renamed(spec: BaseSpec, task: TrainingTask) -> dict[str, Any]:
    """How the names of the base's tensors become those of a task model that keeps its backbone elsewhere."""
    layout = spec.heads.get(task.manifest_fields()["task_type"])
    elsewhere = layout.backbone_prefix if layout is not None else None
    if elsewhere is None:
        return {}
    return {"key_mapping": {rf"^{spec.backbone_prefix}\.": f"{elsewhere}."}}


def _check_missing(missing: set[str], spec: BaseSpec, task: TrainingTask) -> None:
    """What is neither in the base's files nor the head would be random, and not part of the adapter."""
    foreign = sorted(key for key in missing if key.partition(".")[0] not in task.head_modules)
    if foreign:
        raise UnsupportedBaseError(
            f"the base {spec.name!r} has no weights for {', '.join(foreign[:5])}, which this task type reads"
        )
