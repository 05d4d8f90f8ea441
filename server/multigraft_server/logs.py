"""The log as JSON: one object a line, of requests at their end, of what the server does, and of what goes wrong.

No line has anything of a request's content.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TextIO

from multigraft_adapters.json_log import TEXT_FORMAT, line_of
from multigraft_server.backlog import Backlog
from multigraft_server.trails import TRAIL, Trail

Format = Literal["text", "json"]

OURS = "multigraft_server"
REQUESTS = logging.getLogger(f"{OURS}.requests")
SERVER = logging.getLogger(f"{OURS}.server")
_UNTOLD = ("_srcfile", "logThreads", "logProcesses", "logMultiprocessing")
"""What `logging` looks up for each record unless these are off."""


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
        logging.basicConfig(level=logging.WARNING, format=TEXT_FORMAT, stream=stream)
        yield
        return
    handler, root = JsonHandler(stream or sys.stderr), logging.getLogger()
    root.addHandler(handler)
    logging.getLogger(OURS).setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        with _plain_records():
            yield
    finally:
        logging.captureWarnings(False)
        logging.getLogger(OURS).setLevel(logging.NOTSET)
        root.removeHandler(handler)
        handler.finish()


@contextmanager
def _plain_records() -> Iterator[None]:
    """Have records made without what no line tells, the caller's place and the thread, which is a third of what a
    record costs (the logging HOWTO, "Optimization")."""
    before = {name: getattr(logging, name) for name in _UNTOLD}
    for name in _UNTOLD:
        setattr(logging, name, None)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(logging, name, value)


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
            lines.append(_left_out(left_out))
        try:
            self._stream.write("".join(f"{line}\n" for line in lines))
            self._stream.flush()
        except (OSError, ValueError):
            # Nobody reads the log any longer; there is no better place to say so.
            return


def _line(record: logging.LogRecord) -> str:
    told = getattr(record, "told", {})
    if isinstance(told, Trail):
        return line_of(record, told.told())
    request_id = getattr(record, "request_id", None)
    asked = {} if request_id is None else {"request_id": request_id}
    return line_of(record, asked | told)


def _left_out(count: int) -> str:
    record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, "log-lines-left-out", (), None)
    return line_of(record, {"lines": count})
