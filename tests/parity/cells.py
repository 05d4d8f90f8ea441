"""The matrix' cells of one family: an adapter of every variant and form, made by PEFT and really verified."""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from peft import PeftModel, get_peft_model
from peft.utils.error import NoMatchingPeftModuleError
from peft.utils.warning import PeftWarning
from safetensors.torch import load, save
from torch import Tensor

from multigraft_adapters.artifact import CONFIG_FILE, TENSORS_FILE, read_folder
from multigraft_adapters.bases import BaseSpec
from multigraft_adapters.errors import InvalidAdapterError
from multigraft_adapters.verify import TaskDeclaration, VerifiedAdapter, verify
from tests.parity.forms import FORMS, Form, task_model
from tests.parity.variants import UNHARMED, VARIANTS, Variant, disturb

SPARE = "adapter_model.safetensors: tensors that nothing uses"
"""What also follows from a delta or a head that is refused."""
NAMES = re.compile(r":? '[^' ]*\.[^' ]*'.*$")


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """A variant under a form on one family: served, with PEFT's model of the adapter, or refused for a reason."""

    variant: Variant
    form: Form
    model: Any = None
    task_model: Any = None
    verified: VerifiedAdapter | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        return f"{self.variant.name}, {self.form.task}"

    @property
    def served(self) -> bool:
        return self.verified is not None

    @property
    def digest(self) -> str:
        """Of a served cell's adapter."""
        assert self.verified is not None, self.reason
        return self.verified.digest

    @property
    def reads_last(self) -> bool:
        """Whether the answer depends on the last token's state only."""
        pooling = self.verified.head.spec.pooling if self.verified is not None else None
        return pooling == "last" or self.form.peft_type == "CAUSAL_LM"


class CellMaker:
    """Makes the cells of one family on its tiny base."""

    def __init__(self, base: Path, spec: BaseSpec, root: Path) -> None:
        self._base, self._spec, self._root = base, spec, root
        self._task_models: dict[Any, Any] = {}
        self._made: dict[Any, tuple[Any, dict[str, bytes]]] = {}

    def cells(self) -> Iterator[Cell]:
        for variant in VARIANTS:
            for form in FORMS:
                yield self.cell(variant, form)

    def cell(self, variant: Variant, form: Form) -> Cell:
        model, files = self._made_by_peft(variant, form)
        if model is None:
            files = self._made_by_hand(variant, form)
        try:
            verified = verify(files, self._spec, declaration=TaskDeclaration(**form.declaration))
        except InvalidAdapterError as error:
            return Cell(variant, form, reason=_reason(error))
        assert model is not None, f"{variant.name}, {form.task}: verified, and PEFT has no model of it"
        return Cell(variant, form, model, self._task_model(form), verified)

    def _made_by_peft(self, variant: Variant, form: Form) -> tuple[Any, dict[str, bytes]]:
        """PEFT's model and the files that it saves; nothing where PEFT, or transformers, has no such model."""
        key = variant.name, form.peft_type, form.labels
        if key not in self._made:
            bare = self._task_model(form)
            self._made[key] = (None, {}) if bare is None else self._make(variant, form, copy.deepcopy(bare))
        return self._made[key]

    def _make(self, variant: Variant, form: Form, bare: Any) -> tuple[Any, dict[str, bytes]]:
        seed = len(self._made)
        folder = self._root / str(seed)
        with warnings.catch_warnings():
            # PEFT warns of biases of B where the base has none, and again when it saves them.
            warnings.simplefilter("ignore", PeftWarning)
            for message in UNHARMED:
                warnings.filterwarnings("ignore", message, UserWarning)
            try:
                model: PeftModel = get_peft_model(bare, variant.config(form.making(self._spec.model_type))).eval()
            except (NoMatchingPeftModuleError, ValueError, KeyError, AttributeError):
                return None, {}  # of the last two, an image model's: it has no embeddings for virtual tokens
            disturb(model, seed)
            with patch.object(PeftModel, "create_or_update_model_card"):  # takes four times as long as the tensors
                model.save_pretrained(str(folder))
        return model, read_folder(folder)

    def _made_by_hand(self, variant: Variant, form: Form) -> dict[str, bytes]:
        """The files as somebody without PEFT would write them: of the variant that this one is like, or of the
        same under another head."""
        source = next((one for one in VARIANTS if one.name == variant.like), variant)
        headless = next(one for one in FORMS if one.peft_type == "FEATURE_EXTRACTION")
        files = self._made_by_peft(source, form)[1] or self._made_by_peft(source, headless)[1]
        if not files:
            head = load(self._made_by_peft(VARIANTS[0], form)[1].get(TENSORS_FILE, save({})))
            files = _virtual_tokens(variant.config(headless.making(self._spec.model_type)), head)
        config = json.loads(files[CONFIG_FILE]) | variant.changes | {"task_type": form.peft_type or None}
        return files | {CONFIG_FILE: json.dumps(config).encode()}

    def _task_model(self, form: Form) -> Any:
        key = form.peft_type, form.labels
        if key not in self._task_models:
            try:
                self._task_models[key] = task_model(self._base, form)
            except ValueError:
                self._task_models[key] = None
        return self._task_models[key]


def _virtual_tokens(config: Any, of_lora: dict[str, Tensor]) -> dict[str, bytes]:
    """The files of prompt or prefix tuning for a model with which PEFT makes neither, with the head of a LoRA."""
    values = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    width = config.token_dim * (2 * config.num_layers if config.peft_type == "PREFIX_TUNING" else 1)
    head = {name: tensor for name, tensor in of_lora.items() if "lora_" not in name}
    # With virtual tokens PEFT wraps no module, and says "model" once less.
    tensors = {name.replace("base_model.model.", "base_model.", 1): tensor for name, tensor in head.items()}
    tensors["prompt_embeddings"] = torch.ones(config.num_virtual_tokens, width)
    return {CONFIG_FILE: json.dumps(values).encode(), TENSORS_FILE: save(tensors)}


def _reason(error: InvalidAdapterError) -> str:
    """The first reason of a refusal, without the names of modules and tensors that it ends with."""
    own = [problem for problem in error.problems if not problem.startswith(SPARE)]
    assert own, error.problems
    return NAMES.sub(" …", own[0])
