"""What an adapter's virtual tokens take of the context is not there for the caller."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save

from tests.server.conftest import Serve
from tests.server.running import Served

VIRTUAL = 40


@pytest.fixture
def prompted(serve: Serve) -> Served:
    """A server with the task `prompted`, of 40 virtual tokens, and its base of 256."""
    served = serve()
    width = served.spec.hidden_size
    config = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": VIRTUAL}
    files = {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": save({"prompt_embeddings": torch.randn(VIRTUAL, width)}),
    }
    response = served.upload("prompted", files, "production")
    assert response.status_code == 201, response.text
    return served


def test_a_longer_answer_than_the_virtual_tokens_leave_is_refused(prompted: Served) -> None:
    room = prompted.spec.max_length - VIRTUAL - len("hello")
    answer = prompted.predict("prompted", "hello", {"max_new_tokens": room})
    assert answer.status_code == 200, answer.text
    refused = prompted.predict("prompted", "hello", {"max_new_tokens": room + 1})
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    of_the_base = {"model": prompted.spec.name, "prompt": "hello", "max_tokens": room + 1}
    assert prompted.post("/v1/completions", of_the_base).status_code == 200


def test_an_answer_without_a_limit_gets_what_the_virtual_tokens_leave(prompted: Served) -> None:
    text = "a" * (prompted.spec.max_length - VIRTUAL - 3)
    answer = prompted.predict("prompted", text, {"details": True})
    assert answer.status_code == 200, answer.text
    assert answer.json()["details"]["generated_tokens"] <= 3
