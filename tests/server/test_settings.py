"""Settings: where they come from, which wins, and what is wrong with them, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from multigraft_adapters.errors import BindError, SetupError
from multigraft_server.assemble import assemble
from multigraft_server.settings import ServerSettings, load_settings

KEY = "a-long-enough-key"


def test_the_defaults_are_a_server_on_loopback() -> None:
    settings = load_settings({})
    assert (settings.base, settings.host, settings.port) == ("smollm2", "127.0.0.1", 8100)
    assert settings.is_loopback


def test_options_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text('base = "minilm"\nslots = 4\nport = 9000\n')
    settings = load_settings({"port": 9001, "slots": None}, file)
    assert (settings.base, settings.slots, settings.port, settings.dtype) == ("minilm", 4, 9001, "auto")


def test_everything_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text('slots = 0\nport = "many"\nspeed = "fast"\n')
    with pytest.raises(SetupError) as raised:
        load_settings({}, file)
    for part in ("slots", "got 0", "port", "'many'", "speed: there is no such setting", "serve.toml"):
        assert part in raised.value.message


@pytest.mark.parametrize(
    ("name", "content"), [("missing.toml", None), ("bad.toml", "= 1"), ("odd.toml", "\udcff")]
)
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path, name: str, content: str | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(SetupError, match=name):
        load_settings({}, tmp_path / name)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", "127.0.0.1.example.org"])
def test_an_address_that_others_reach_needs_a_key(host: str) -> None:
    with pytest.raises(BindError, match="api-key"):
        load_settings({"host": host})
    assert load_settings({"host": host, "api_key": KEY}).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    assert load_settings({"host": host}).is_loopback


def test_a_key_is_never_shown(tmp_path: Path) -> None:
    assert KEY not in repr(ServerSettings(api_key=KEY))
    with pytest.raises(SetupError) as raised:
        load_settings({"api_key": "short"})
    assert "short'" not in raised.value.message


def test_settings_are_frozen_and_every_one_is_described() -> None:
    with pytest.raises(ValidationError):
        ServerSettings().port = 1
    assert ServerSettings.model_fields
    assert all(field.description for field in ServerSettings.model_fields.values())


def test_limits_that_contradict_each_other_are_refused_before_anything_is_loaded() -> None:
    settings = ServerSettings(base="no-such-base", max_running_rows=64, max_step_tokens=64)
    with (
        pytest.raises(SetupError, match=r"max_step_tokens \(64\) must be more than max_running_rows"),
        assemble(settings),
    ):
        pass
