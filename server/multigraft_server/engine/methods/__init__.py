"""The methods as the engine serves them: each one unit that turns a delta into what the banks take.

A new method is one file here and one line in `_PREPARE`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from multigraft_adapters.methods import (
    BottleneckDelta,
    Delta,
    HeadDelta,
    Ia3Delta,
    LoraDelta,
    PrefixDelta,
    PromptDelta,
)
from multigraft_server.engine.methods.bottleneck import prepare_bottleneck
from multigraft_server.engine.methods.frozen import FrozenModules
from multigraft_server.engine.methods.ia3 import prepare_ia3
from multigraft_server.engine.methods.lora import prepare_lora
from multigraft_server.engine.methods.prefix import prepare_prefix
from multigraft_server.engine.methods.prepared import PreparedDelta
from multigraft_server.engine.methods.prompt import prepare_prompt

Prepare = Callable[[Any, FrozenModules], PreparedDelta]

_PREPARE: dict[type, Prepare] = {
    LoraDelta: prepare_lora,
    Ia3Delta: prepare_ia3,
    BottleneckDelta: prepare_bottleneck,
    PromptDelta: prepare_prompt,
    PrefixDelta: prepare_prefix,
    HeadDelta: lambda delta, frozen: PreparedDelta(),
}


def prepare(delta: Delta, frozen: FrozenModules) -> PreparedDelta:
    """Bring a delta into the banks' layout and dtype, off the step's path.

    Raises TypeError for a delta whose method the engine does not serve.
    """
    if type(delta) not in _PREPARE:
        raise TypeError(f"the engine does not serve {type(delta).__name__}")
    return _PREPARE[type(delta)](delta, frozen)
