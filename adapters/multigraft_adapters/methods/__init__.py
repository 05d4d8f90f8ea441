"""The methods: one unit each, registered by its name. A new method is one file and one line here."""

from __future__ import annotations

from multigraft_adapters.methods.lora import (
    LoraDelta,
    LoraPair,
    apply_lora,
    describe_lora,
    read_lora,
)
from multigraft_adapters.methods.lora_config import read_settings
from multigraft_adapters.methods.method import METHODS, Delta, Method, get_method, method_of_peft, register

__all__ = [
    "METHODS",
    "Delta",
    "LoraDelta",
    "LoraPair",
    "Method",
    "apply_lora",
    "get_method",
    "method_of_peft",
    "register",
]

register(Method(name="lora", peft_type="LORA", check=read_settings, read=read_lora, describe=describe_lora))
