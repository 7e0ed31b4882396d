"""An OpenAI-compatible server on this machine that answers as it is told, well or badly."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PLAN = (
    '{"caption": "a cat and a dog", "background": "lawn", "objects": [{"label": "cat", '
    '"attributes": "black", "box": [100, 200, 450, 900]}, {"label": "dog", "attributes": "", '
    '"box": [550, 300, 950, 900]}]}'
)


@dataclass
class Served:
    """What the server does next, and what it was asked.

    ``behaviour`` names are methods of ``Handler``; several are taken in turn, the last stays.
    """

    address: str = ""
    text: str = PLAN
    behaviour: list[str] = field(default_factory=lambda: ["stream"])
    requests: list[dict] = field(default_factory=list)
    headers: list[dict] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"{self.address}/v1"

    def next(self) -> str:
        return self.behaviour.pop(0) if len(self.behaviour) > 1 else self.behaviour[0]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Served

    def do_POST(self) -> None:
        served = self.server.served  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        served.requests.append(json.loads(body))
        served.headers.append(dict(self.headers))
        if self.path != "/v1/chat/completions":
            return self.reply(404, {"error": {"message": "no such path"}})
        try:
            getattr(self, served.next())(served)
        except (BrokenPipeError, ConnectionResetError):
            served.hung_up.set()
        self.close_connection = True

    def reply(self, status: int, content: object, kind="application/json", **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def start(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def event(self, delta: dict, reason: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        self.chunk(f"data: {json.dumps({'choices': [choice]})}\n\n")

    # Good answers

    def stream(self, served: Served) -> None:
        self.start()
        self.event({"role": "assistant", "content": ""})
        for i in range(0, len(served.text), 12):
            self.event({"content": served.text[i : i + 12]})
        self.event({}, "stop")
        self.chunk('data: {"choices": [], "usage": {"total_tokens": 9}}\n\ndata: [DONE]\n\n')
        self.wfile.write(b"0\r\n\r\n")

    def whole(self, served: Served) -> None:
        message = {"role": "assistant", "content": served.text}
        self.reply(200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    # Slow and bad ones

    def endless(self, served: Served) -> None:
        self.start()
        for _ in range(2000):
            self.event({"content": "more "})
            time.sleep(0.02)

    def silent(self, served: Served) -> None:
        served.hung_up.wait(30)

    def stalls(self, served: Served) -> None:
        self.start()
        self.event({"content": "and then"})
        served.hung_up.wait(30)

    def breaks_off(self, served: Served) -> None:
        self.start()
        self.event({"content": served.text[:30]})
        self.wfile.flush()
        self.connection.close()

    def busy(self, served: Served) -> None:
        self.reply(503, {"error": {"message": "model is loading"}}, Retry_After="0")

    def limited(self, served: Served) -> None:
        self.reply(429, {"error": {"message": "too many requests"}}, Retry_After="0")

    def forbidden(self, served: Served) -> None:
        said = f"bad key {self.headers.get('Authorization', '')}"
        self.reply(401, {"error": {"message": said, "type": "auth"}})

    def unknown(self, served: Served) -> None:
        self.reply(404, {"error": {"message": "model not found"}})

    def page(self, served: Served) -> None:
        self.reply(200, b"<html><body>It works!</body></html>", "text/html")

    def no_json(self, served: Served) -> None:
        self.start()
        self.chunk("data: {not json\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def no_choices(self, served: Served) -> None:
        self.reply(200, {"object": "list", "data": []})

    def error_inside(self, served: Served) -> None:
        self.start()
        self.chunk('data: {"error": {"message": "CUDA out of memory"}}\n\n')
        self.wfile.write(b"0\r\n\r\n")

    def empty(self, served: Served) -> None:
        self.start()
        self.event({}, "stop")
        self.chunk("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Served]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served = server.served = Served(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        served.hung_up.set()
        server.shutdown()
        server.server_close()
