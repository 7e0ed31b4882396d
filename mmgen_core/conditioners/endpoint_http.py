"""One request to an OpenAI-compatible server and its answer, piece by piece."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

_LOOK = 0.2  # seconds between two looks whether the user has stopped the run
MAX_REPLY = 8 << 20  # bytes


class EndpointError(ValueError):
    """A server that cannot be reached, refuses, or answers what is no answer."""


@dataclass(frozen=True)
class Endpoint:
    """Where a model is served.

    Attributes:
        url: up to and with the version, such as http://127.0.0.1:8000/v1.
        key: sent as a bearer token; empty for none. Never shown.
        timeout: seconds to wait for a connection and for each piece of the answer.
        retries: further attempts after a failure that may pass.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    timeout: float = 60.0
    retries: int = 2

    def __post_init__(self) -> None:
        try:
            parts = urllib.parse.urlsplit(self.url)
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # a port that is no number, a bracket that is not closed
            good = False
        if not good:
            raise EndpointError(
                f"{self.url!r} is no address of a server: it begins with http:// or https://, "
                f"such as http://127.0.0.1:8000/v1."
            )
        if parts.username or parts.password or parts.query or parts.fragment:
            raise EndpointError("The address must hold no user, password or query.")
        if not self.key.isprintable() or not self.key.isascii():
            raise EndpointError("The key has characters that no key has; check the variable.")

    @property
    def path(self) -> str:
        base = urllib.parse.urlsplit(self.url).path.rstrip("/").removesuffix("/chat/completions")
        return f"{base}/chat/completions"

    def connection(self) -> http.client.HTTPConnection:
        parts = urllib.parse.urlsplit(self.url)
        secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        return kind(parts.hostname or "", parts.port, timeout=self.timeout)


@dataclass(frozen=True)
class Refused:
    """An answer with another status than 200."""

    status: int
    reason: str
    body: bytes
    retry_after: str


class Reply:
    """An answer, read by a thread of its own, so that whoever waits can look for an interrupt."""

    def __init__(self, endpoint: Endpoint, body: dict[str, Any]):
        self._connection, self._endpoint = endpoint.connection(), endpoint
        self._body = json.dumps(body).encode()
        self._queue: queue.Queue[Any] = queue.Queue()

    def events(self, look: Callable[[], None]) -> Iterator[str | bytes | Refused]:
        """The data of server-sent events; or the whole answer as bytes.

        Args:
            look: called while nothing comes; may raise.
        """
        thread = threading.Thread(target=self._run, daemon=True, name="mmgen endpoint")
        thread.start()
        try:
            while (event := self._next(look)) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            self._hang_up()

    def _next(self, look: Callable[[], None]) -> Any:
        until = time.monotonic() + self._endpoint.timeout
        while True:
            look()
            try:
                return self._queue.get(timeout=_LOOK)
            except queue.Empty:
                if time.monotonic() > until:
                    raise TimeoutError from None

    def _hang_up(self) -> None:
        """Ends the thread, which may be waiting for the server."""
        if (connected := self._connection.sock) is not None:
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _run(self) -> None:
        try:
            for event in self._exchange():
                self._queue.put(event)
            self._queue.put(None)
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            # AttributeError: the connection was closed while it was used
            self._queue.put(error)

    def _exchange(self) -> Iterator[str | bytes | Refused]:
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        if self._endpoint.key:
            headers["Authorization"] = f"Bearer {self._endpoint.key}"
        self._connection.request("POST", self._endpoint.path, self._body, headers)
        response = self._connection.getresponse()
        if response.status != 200:
            wait = response.getheader("Retry-After") or ""
            yield Refused(response.status, response.reason, response.read(4096), wait)
        elif "text/event-stream" not in (response.getheader("Content-Type") or ""):
            yield response.read(MAX_REPLY)
        else:
            while line := response.readline(MAX_REPLY):
                text = line.decode("utf-8", "replace").strip()
                if text.startswith("data:"):
                    yield text.removeprefix("data:").strip()
