"""The methods: one unit each, registered by its name. A new method is one file and one line here."""

from __future__ import annotations

from multigraft_adapters.methods.bottleneck import (
    PEFT_TYPE,
    Bottleneck,
    BottleneckDelta,
    apply_bottleneck,
    describe_bottleneck,
    read_bottleneck,
    read_bottleneck_settings,
)
from multigraft_adapters.methods.head import (
    PEFT_TYPE as HEAD_PEFT_TYPE,
)
from multigraft_adapters.methods.head import (
    HeadDelta,
    check_head_only,
    describe_head_only,
    read_head_only,
)
from multigraft_adapters.methods.ia3 import Ia3Delta, describe_ia3, read_ia3, read_ia3_settings
from multigraft_adapters.methods.lora import LoraDelta, LoraPair, apply_lora, embed_scale_of, weight_of
from multigraft_adapters.methods.lora_config import describe_lora, read_settings
from multigraft_adapters.methods.lora_tensors import read_lora
from multigraft_adapters.methods.method import METHODS, Delta, Method, method_of_peft, register
from multigraft_adapters.methods.prefix import PrefixDelta, check_prefix, read_prefix
from multigraft_adapters.methods.prompt import PromptDelta, check_prompt, read_prompt
from multigraft_adapters.methods.reference import applied, compute
from multigraft_adapters.methods.virtual import describe_virtual, long_names, virtual_tokens

__all__ = [
    "METHODS",
    "Bottleneck",
    "BottleneckDelta",
    "Delta",
    "HeadDelta",
    "Ia3Delta",
    "LoraDelta",
    "LoraPair",
    "Method",
    "PrefixDelta",
    "PromptDelta",
    "applied",
    "apply_bottleneck",
    "apply_lora",
    "compute",
    "embed_scale_of",
    "method_of_peft",
    "register",
    "virtual_tokens",
    "weight_of",
]

register(Method(name="lora", peft_types=("LORA",), check=read_settings, read=read_lora, describe=describe_lora))
register(Method(name="ia3", peft_types=("IA3",), check=read_ia3_settings, read=read_ia3, describe=describe_ia3))
register(
    Method(
        name="bottleneck",
        peft_types=(PEFT_TYPE,),
        check=read_bottleneck_settings,
        read=read_bottleneck,
        describe=describe_bottleneck,
    )
)
register(
    Method(
        name="prompt",
        peft_types=("PROMPT_TUNING", "P_TUNING"),
        check=check_prompt,
        read=read_prompt,
        describe=describe_virtual,
        normalise=long_names,
    )
)
register(
    Method(
        name="prefix",
        peft_types=("PREFIX_TUNING",),
        check=check_prefix,
        read=read_prefix,
        describe=describe_virtual,
        normalise=long_names,
    )
)
register(
    Method(
        name="head",
        peft_types=(HEAD_PEFT_TYPE,),
        check=check_head_only,
        read=read_head_only,
        describe=describe_head_only,
    )
)
