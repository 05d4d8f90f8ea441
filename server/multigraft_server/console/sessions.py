"""Who is logged in, and what is to be said on their next page. Kept in this process, and gone with it."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from multigraft_server.access.callers import ANYONE, Caller
from multigraft_server.access.keyring import Keyring

SESSION_SECONDS = 12 * 3600.0
MAX_SESSIONS = 10_000
MAX_MESSAGES = 1_000


@dataclass(frozen=True, slots=True)
class Session:
    """Who logged in with which key, and until when (of the clock)."""

    holder: str
    ends_at: float


class Sessions:
    """Sessions by the hash of their token. Each is bound to a key, and ends with it at once. Thread-safe."""

    def __init__(self, keyring: Keyring, clock: Callable[[], float] = time.monotonic) -> None:
        self._keyring = keyring
        self._clock = clock
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()
        self._salt = secrets.token_bytes(32)

    @property
    def is_open(self) -> bool:
        """Whether nobody has to log in: the server has no keys."""
        return self._keyring.is_open

    def begin(self, secret: str) -> str | None:
        """The token of a new session for who has the secret of a valid key; None for any other."""
        holder = self._keyring.holder_of(secret)
        if holder is None or self._keyring.caller_with(holder) is None:
            return None
        token = secrets.token_urlsafe(32)
        with self._lock:
            while len(self._sessions) >= MAX_SESSIONS:
                self._sessions.popitem(last=False)
            self._sessions[_hash(token)] = Session(holder, self._clock() + SESSION_SECONDS)
        return token

    def caller_of(self, token: str | None) -> Caller | None:
        """Who has the token; anyone is let in while the server has no keys. None where it is closed."""
        if self.is_open:
            return ANYONE
        session = self._sessions.get(_hash(token)) if token else None
        if token is None or session is None:
            return None
        caller = self._keyring.caller_with(session.holder)
        if caller is None or session.ends_at <= self._clock():
            self.end(token)
            return None
        return caller

    def end(self, token: str) -> None:
        """Log out."""
        with self._lock:
            self._sessions.pop(_hash(token), None)

    def csrf(self, token: str) -> str:
        """What a form must carry that is sent with this token: nobody else can tell it."""
        return hmac.new(self._salt, token.encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class Message:
    """What is said once, on the next page: `kind` is `done` or `refused`."""

    kind: str
    text: str


class Messages:
    """Messages by the token of who is to read them. Thread-safe."""

    def __init__(self) -> None:
        self._messages: OrderedDict[str, list[Message]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, token: str, message: Message) -> None:
        """To be said on the next page."""
        with self._lock:
            self._messages.setdefault(_hash(token), []).append(message)
            while len(self._messages) > MAX_MESSAGES:
                self._messages.popitem(last=False)

    def take(self, token: str) -> list[Message]:
        """What has not been said yet."""
        with self._lock:
            return self._messages.pop(_hash(token), [])


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
