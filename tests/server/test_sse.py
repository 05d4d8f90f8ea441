"""Events of a stream: the quick way to write them gives what the plain one gives."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from multigraft_server.api.sse import HOLE, EventTemplate, event


@given(st.text(), st.text(min_size=2))
@settings(max_examples=100, deadline=None)
def test_an_event_of_a_template_is_the_event_of_the_data(text: str, model: str) -> None:
    def data(content: str) -> dict[str, object]:
        return {"model": model, "choices": [{"delta": {"content": content}, "finish_reason": None}]}

    assert EventTemplate(data(HOLE)).event(text) == event(data(text))
