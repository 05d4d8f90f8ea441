"""The bytes that the engine says its weights take."""

from __future__ import annotations

import pytest

from multigraft_server.engine.context import StepContext
from multigraft_server.engine.layers import wrap_base
from multigraft_server.engine.memory import weight_bytes
from tests.engine.conftest import LoadTiny


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", ["llama", "bert"])
def test_wrapping_packing_and_sharing_leave_the_bytes_of_the_weights(
    load_tiny: LoadTiny, model_type: str, dtype: str
) -> None:
    base = load_tiny(model_type, dtype)
    own = weight_bytes([base.model])
    assert own == sum(one.nbytes for one in {*base.model.parameters(), *base.model.buffers()})
    wrap_base(base, StepContext())
    assert weight_bytes([base.model]) == own
