"""A small HTTP server whose answers a test writes down, and which remembers what it was asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass(frozen=True)
class Asked:
    """One request: `path` with its query, header names in small letters."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def parts(self) -> list[tuple[str, str | None, bytes]]:
        """Name, file name and content of each part of a multipart body."""
        head = f"content-type: {self.headers['content-type']}\r\n\r\n".encode()
        message: Message = BytesParser().parsebytes(head + self.body)
        parts = [part for part in message.walk() if not part.is_multipart()]
        return [(_name(part), part.get_filename(), _content(part)) for part in parts]


@dataclass(frozen=True)
class Answer:
    """`length` is what the header claims; more than the body has is an answer that breaks off."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None


def _name(part: Message) -> str:
    return str(part.get_param("name", header="content-disposition"))


def _content(part: Message) -> bytes:
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content


class StubServer(ThreadingHTTPServer):
    """Answers `method path` (without the query) from `answers`; anything else is a 404 in the one error shape."""

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, Answer] = {}
        self.asked: list[Asked] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: StubServer

    def do_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append(Asked(self.command, self.path, headers, body))
        self.reply(self.server.answers.get(f"{self.command} {self.path.partition('?')[0]}", UNKNOWN))

    do_GET = do_POST = do_PUT = do_DELETE = do_any

    def reply(self, answer: Answer) -> None:
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body) if answer.length is None else answer.length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps the test's output quiet."""


def error(message: str, code: str, status: int) -> Answer:
    """An error in the server's one shape."""
    return Answer({"error": {"message": message, "type": "error", "param": "task", "code": code}}, status)


def events(*objects: Any, done: bool = True) -> Answer:
    """A stream of server-sent events."""
    lines = [f"data: {json.dumps(value, ensure_ascii=False)}\n\n" for value in objects]
    body = "".join(lines + ["data: [DONE]\n\n"] * done).encode()
    return Answer(body, headers={"content-type": "text/event-stream"})


UNKNOWN = error("no route has this path", "route_not_found", 404)


@contextmanager
def serving() -> Iterator[StubServer]:
    with StubServer() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
