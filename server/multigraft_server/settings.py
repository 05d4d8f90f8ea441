"""The server's settings: one frozen value, read once from the command line, the environment and a file."""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from multigraft_adapters.errors import BindError, SetupError

API_KEY_VARIABLE = "MULTIGRAFT_API_KEY"
REGISTRY_VARIABLE = "MULTIGRAFT_REGISTRY"
"""The only environment variables that the server reads: they keep secrets out of the process list."""

MiB = 1024 * 1024
MAX_IMAGE_PIXELS = 89_478_485
"""From where on Pillow warns of a decompression bomb: 256 MiB of RGB."""
Port = Annotated[int, Field(ge=0, le=65535)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Bytes = Annotated[int, Field(ge=1024, le=64 * 1024 * MiB)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class ServerSettings(BaseModel):
    """Everything that can be set about a serving process. A file given by `--config` uses the same names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: Annotated[str, Field(min_length=1, description="short name, local folder or Hugging Face id")] = (
        "smollm2"
    )
    data_dir: Annotated[Path, Field(description="folder of the bases, the store and the registry")] = Path(
        "multigraft-data"
    )
    store_url: Annotated[
        str | None, Field(description="where adapters are kept in place of the data folder: s3://bucket/prefix")
    ] = None
    store_timeout_seconds: Annotated[Seconds, Field(description="longest silence of an object store")] = 30.0
    registry_url: Annotated[
        str | None,
        Field(repr=False, description="PostgreSQL database of the registry, else a file in the data folder"),
    ] = None
    host: Annotated[str, Field(description="address to listen on")] = "127.0.0.1"
    port: Annotated[Port, Field(description="port to listen on; 0 takes a free one")] = 8100
    device: Annotated[str, Field(description="auto, cpu, cuda or cuda:N")] = "auto"
    dtype: Annotated[Literal["auto", "bfloat16", "float32"], Field(description="number format of the base")] = (
        "auto"
    )
    quantize: Annotated[Literal["none", "int8"], Field(description="weights of the base's linear modules")] = (
        "none"
    )
    merge: Annotated[
        str,
        Field(
            pattern=r"^(off|auto|pin:[a-z0-9][a-z0-9._-]{0,63})$",
            description="off, auto, or pin:TASK: what is merged into a second copy of the weights",
        ),
    ] = "off"
    merge_bytes: Annotated[Bytes, Field(description="that second copy")] = 2048 * MiB
    slots: Annotated[int, Field(ge=1, le=1024, description="adapters resident on the device at once")] = 16
    max_running_rows: Annotated[int, Field(ge=1, le=4096, description="generating answers at once")] = 32
    max_waiting_requests: Annotated[Count, Field(description="requests that may be open at once")] = 4096
    max_waiting_tokens: Annotated[
        int, Field(ge=1, le=1_000_000_000, description="tokens of the inputs of open requests")
    ] = 2_000_000
    max_waiting_steps: Annotated[
        float, Field(gt=0, le=1_000_000, description="full steps of inputs that may wait before a request")
    ] = 64.0
    max_waiting_rounds: Annotated[
        float, Field(gt=0, le=1_000_000, description="full sets of running answers that may wait before one")
    ] = 16.0
    max_step_tokens: Annotated[Count, Field(description="tokens of a step")] = 2048
    max_step_rows: Annotated[int, Field(ge=2, le=65_536, description="rows of a step")] = 512
    max_step_adapters: Annotated[
        int | None, Field(ge=1, le=1025, description="distinct adapters of a step, the base among them")
    ] = None
    max_mixed_tokens: Annotated[
        Count, Field(description="prompt tokens of a step in which answers go on, which wait for all of it")
    ] = 512
    kv_cache_bytes: Annotated[Bytes, Field(description="keys and values of answers that are generated")] = (
        2048 * MiB
    )
    prefix_cache_bytes: Annotated[
        int, Field(ge=0, le=1024 * 1024 * MiB, description="prefixes kept beside the KV cache; 0 keeps none")
    ] = 512 * MiB
    host_bytes: Annotated[Bytes, Field(description="adapters kept in host memory")] = 4096 * MiB
    device_bytes: Annotated[
        Bytes | None, Field(description="adapters in slots; as much as the slots take if it is not set")
    ] = None
    load_threads: Annotated[int, Field(ge=1, le=64, description="adapters loaded at once")] = 4
    retry_load_seconds: Annotated[
        Seconds, Field(description="how long a failed load is remembered; twice as long after each further one")
    ] = 1.0
    max_retry_load_seconds: Annotated[Seconds, Field(description="how long at most")] = 60.0
    kernels: Annotated[
        Literal["auto", "off", "required"], Field(description="compiled kernels for processors with matrix tiles")
    ] = "auto"
    age_bound_seconds: Annotated[
        Seconds, Field(description="wait after which no priority and no want of room holds a request up")
    ] = 2.0
    api_key: Annotated[
        str | None, Field(min_length=8, repr=False, description="bearer key that every route but /health asks")
    ] = None
    trusted_hosts: Annotated[
        tuple[str, ...] | None,
        Field(description="names that it answers to beside localhost and addresses; any if it asks for keys"),
    ] = None
    max_body_bytes: Annotated[Bytes, Field(description="cap of a JSON body")] = 4 * MiB
    max_upload_bytes: Annotated[Bytes, Field(description="cap of an uploaded adapter's body")] = 1024 * MiB
    max_file_bytes: Annotated[Bytes, Field(description="cap of an uploaded file of training data")] = 64 * MiB
    max_uploads: Annotated[int, Field(ge=1, le=256, description="uploads at once; further ones are a 503")] = 4
    body_timeout_seconds: Annotated[Seconds, Field(description="longest silence inside a body")] = 30.0
    stall_seconds: Annotated[
        Seconds, Field(description="time that a client may leave its answer unread, before it is cut off")
    ] = 30.0
    request_timeout_seconds: Annotated[Seconds, Field(description="deadline of an inference request")] = 600.0
    step_watchdog_seconds: Annotated[
        Seconds, Field(description="time of a step after which the process counts as dead")
    ] = 120.0
    drain_grace_seconds: Annotated[
        float, Field(ge=0, le=3600, description="time that new requests are still taken for after SIGTERM")
    ] = 5.0
    drain_deadline_seconds: Annotated[
        Seconds, Field(description="time that running answers get after that, before they end with an error")
    ] = 30.0
    retire_seconds: Annotated[Seconds, Field(description="time that running answers of a retired version get")] = (
        60.0
    )
    with_worker: Annotated[bool, Field(description="a worker for training jobs beside the server")] = False
    worker_lease_seconds: Annotated[
        float, Field(ge=1, le=3600, description="silence after which its job is given to another worker")
    ] = 30.0
    lora_folder: Annotated[
        Path | None, Field(description="folder that vLLM's load route may read; closed if it is not set")
    ] = None
    max_entries: Annotated[Count, Field(description="inputs, tasks or prompts in one request")] = 256
    max_image_pixels: Annotated[
        int, Field(ge=1, le=MAX_IMAGE_PIXELS, description="cap of an image's width times its height")
    ] = 25_000_000
    default_chat_tokens: Annotated[
        Count, Field(description="tokens of a chat answer that names no limit, if the context leaves them")
    ] = 1024
    log_format: Annotated[
        Literal["text", "json"], Field(description="text: warnings and errors; json: also requests and events")
    ] = "text"
    metrics: Annotated[bool, Field(description="whether anything is counted; else /metrics is closed")] = True
    tracing: Annotated[bool, Field(description="spans of requests by OpenTelemetry")] = False
    max_task_labels: Annotated[
        Count, Field(description="tasks with own metrics; further ones count as __other__")
    ] = 100
    tokeniser_threads: Annotated[
        int, Field(ge=1, le=64, description="threads that tokenise, or decode images")
    ] = 2
    retry_after_seconds: Annotated[int, Field(ge=1, le=120, description="Retry-After of a 503")] = 1

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def load_settings(overrides: Mapping[str, Any], config: Path | None = None) -> ServerSettings:
    """The defaults, overlaid by the TOML file, overlaid by `overrides` (None means not given).

    Raises SetupError naming every wrong field with its value, BindError when the address can be reached from
    outside and there is no key.
    """
    values = _read_file(config) if config else {}
    values |= {name: value for name, value in overrides.items() if value is not None}
    try:
        settings = ServerSettings(**values)
    except ValidationError as error:
        where = f" in {config}" if config else ""
        raise SetupError(f"bad settings{where}: " + "; ".join(map(_problem, error.errors()))) from None
    if not settings.is_loopback and settings.api_key is None:
        raise BindError(
            f"{settings.host} can be reached from other machines: set --api-key or {API_KEY_VARIABLE}, "
            "or listen on 127.0.0.1"
        )
    return settings


def _read_file(config: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(config.read_text("utf-8"))
    except OSError as error:
        raise SetupError(f"the settings file {config} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SetupError(f"the settings file {config} is not TOML: {error}") from None


def _problem(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{name}: there is no such setting"
    shown = "" if name in ("api_key", "registry_url") else f" (got {problem['input']!r})"
    return f"{name}: {problem['msg']}{shown}"
