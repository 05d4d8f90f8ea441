"""The methods: one unit each, registered by its name. A new method is one file and one line here."""

from __future__ import annotations

from multigraft_adapters.methods.ia3 import Ia3Delta, describe_ia3, read_ia3, read_ia3_settings
from multigraft_adapters.methods.lora import (
    LoraDelta,
    LoraPair,
    apply_lora,
    describe_lora,
    read_lora,
)
from multigraft_adapters.methods.lora_config import read_settings
from multigraft_adapters.methods.method import METHODS, Delta, Method, get_method, method_of_peft, register
from multigraft_adapters.methods.reference import applied

__all__ = [
    "METHODS",
    "Delta",
    "Ia3Delta",
    "LoraDelta",
    "LoraPair",
    "Method",
    "applied",
    "apply_lora",
    "get_method",
    "method_of_peft",
    "register",
]

register(Method(name="lora", peft_type="LORA", check=read_settings, read=read_lora, describe=describe_lora))
register(Method(name="ia3", peft_type="IA3", check=read_ia3_settings, read=read_ia3, describe=describe_ia3))
