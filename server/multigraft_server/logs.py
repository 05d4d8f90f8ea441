"""The log as JSON: one object a line, of requests at their end, of what the server does, and of what goes wrong.

No line has anything of a request's content: an error tells its kind and where it was raised, and its sentence only
where that cannot quote what a caller sent.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from multigraft_adapters.errors import MultigraftError
from multigraft_server.backlog import Backlog
from multigraft_server.trails import TRAIL, Trail

Format = Literal["text", "json"]

OURS = "multigraft_server"
REQUESTS = logging.getLogger(f"{OURS}.requests")
SERVER = logging.getLogger(f"{OURS}.server")
_TELLING = (MultigraftError, OSError, RuntimeError, MemoryError)
"""Errors whose sentences are about files, memory and shapes; those of values and keys quote them."""


def log_request(trail: Trail) -> None:
    """One line of a request that has ended."""
    REQUESTS.info("request", extra={"told": trail})


def log_event(event: str, **told: Any) -> None:
    """One line of something that the server did."""
    SERVER.info(event, extra={"told": told})


@contextmanager
def logging_as(form: Format, stream: TextIO | None = None) -> Iterator[None]:
    """Have all loggers write to `stream`, stderr by default, until the end; then what is left is written.

    As text these are warnings and errors, as JSON requests and the server's own events, too.
    """
    if form == "text":
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=stream)
        yield
        return
    handler, root = JsonHandler(stream or sys.stderr), logging.getLogger()
    root.addHandler(handler)
    logging.getLogger(OURS).setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        logging.getLogger(OURS).setLevel(logging.NOTSET)
        root.removeHandler(handler)
        handler.finish()


class JsonHandler(logging.Handler):
    """Writes records from a thread of its own: whoever logs does not wait for the reader of the log.

    Where that reader is too slow, lines are left out, and a line says how many.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._backlog: Backlog[logging.LogRecord] = Backlog(self._write, name="multigraft-log")

    def emit(self, record: logging.LogRecord) -> None:
        """Put the record off, with the id of the request that is being answered."""
        trail = TRAIL.get()
        record.request_id = None if trail is None else trail.request_id
        self._backlog.put(record)

    def finish(self) -> None:
        """Write what is left; `close` does not, since whoever configures logging anew closes every handler."""
        self._backlog.close()

    def _write(self, records: list[logging.LogRecord], left_out: int) -> None:
        lines = [_line(record) for record in records]
        if left_out:
            told = {"level": "warning", "logger": __name__, "event": "log-lines-left-out", "lines": left_out}
            lines.append(_encoded({"time": _time(time.time())} | told))
        try:
            self._stream.write("".join(f"{line}\n" for line in lines))
            self._stream.flush()
        except (OSError, ValueError):
            # Nobody reads the log any longer; there is no better place to say so.
            return


def _line(record: logging.LogRecord) -> str:
    told = getattr(record, "told", {})
    event: dict[str, Any] = {
        "time": _time(record.created),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": record.getMessage(),
    }
    request_id = getattr(record, "request_id", None)
    if request_id is not None:
        event["request_id"] = request_id
    event |= told.told() if isinstance(told, Trail) else dict(told)
    if record.exc_info and record.exc_info[1] is not None:
        event["exception"] = _exception(record.exc_info[1])
    return _encoded(event)


def _exception(error: BaseException) -> dict[str, Any]:
    kind = type(error)
    frames = traceback.extract_tb(error.__traceback__)
    told: dict[str, Any] = {
        "type": f"{kind.__module__}.{kind.__qualname__}",
        "message": str(error) if isinstance(error, _TELLING) else None,
        "stack": [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames],
    }
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return told if cause is None else told | {"cause": _exception(cause)}


def _encoded(event: Mapping[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=True, separators=(",", ":"), default=str)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
