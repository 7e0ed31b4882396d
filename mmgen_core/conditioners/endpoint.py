"""Language models behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, Ollama, or hosted.

Only the standard library. An answer is read as it is written (server-sent events), so that it can
be followed and stopped; a server that cannot stream may answer in one piece.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import logging
import random
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from .endpoint_http import MAX_REPLY, Endpoint, EndpointError, Refused, Reply
from .text_writer import OnToken, TextGrammar, TextRequest, TextSettings

log = logging.getLogger(__name__)

RETRIED = {408, 409, 425, 429, 500, 502, 503, 504}
BACK_OFF, LONGEST_WAIT = 1.0, 30.0  # seconds: first pause, longest pause
_LOOK = 0.2  # seconds between two looks whether the user has stopped the run


class _Again(Exception):
    """Something that may pass; ``wait`` is how long the server asks to wait."""

    def __init__(self, error: EndpointError, wait: float | None = None):
        super().__init__(str(error))
        self.error, self.wait = error, wait


class EndpointWriter:
    """A ``TextWriter`` over an endpoint."""

    takes_images = True
    takes_grammar = False

    def __init__(self, endpoint: Endpoint, sleep: Callable[[float], None] = time.sleep):
        self.endpoint, self._sleep = endpoint, sleep
        self.name = f"{endpoint.model or 'the model'} at {endpoint.url}"

    def encode(self, request: TextRequest) -> list[dict[str, Any]]:
        """The messages of the conversation."""
        if not request.text.strip() and not request.images:
            raise ValueError("The prompt is empty: write what the language model should answer.")
        content: Any = request.text
        if request.images:
            pictures = [_picture(image) for image in request.images]
            content = [{"type": "text", "text": request.text}, *pictures]
        asked = [{"role": "system", "content": request.system}] if request.system else []
        return [*asked, {"role": "user", "content": content}]

    def write(
        self,
        prompt: list[dict[str, Any]],
        settings: TextSettings,
        on_token: OnToken,
        grammar: TextGrammar | None = None,
    ) -> str:
        body = self._body(prompt, settings)
        for attempt in range(self.endpoint.retries + 1):
            try:
                return self._once(body, settings.max_tokens, on_token)
            except _Again as again:
                if attempt == self.endpoint.retries:
                    tries = f" ({attempt + 1} attempts)" if attempt else ""
                    raise EndpointError(f"{again.error}{tries}") from again
                self._pause(again, attempt, settings.max_tokens, on_token)
        raise AssertionError("unreachable")

    def _body(self, messages: list[dict[str, Any]], settings: TextSettings) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": messages,
            "max_tokens": settings.max_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "seed": settings.seed % 2**31,
            "stream": True,
        }
        # Not part of OpenAI's own protocol: sent where they do something only.
        extras = {
            "top_k": (settings.top_k, 0),
            "min_p": (settings.min_p, 0.0),
            "repetition_penalty": (settings.repetition_penalty, 1.0),
            "presence_penalty": (settings.presence_penalty, 0.0),
        }
        return body | {name: value for name, (value, off) in extras.items() if value != off}

    def _pause(self, again: _Again, attempt: int, total: int, on_token: OnToken) -> None:
        """Waits before the next attempt, longer each time, a little off so that many clients do
        not come back at once; the user can stop the run meanwhile."""
        wait = again.wait
        if wait is None:
            wait = BACK_OFF * 2**attempt * random.uniform(0.8, 1.2)
        wait = min(wait, LONGEST_WAIT)
        log.warning("mmgen: %s; trying again in %.1f s.", again.error, wait)
        until = time.monotonic() + wait
        while (left := until - time.monotonic()) > 0:
            on_token(0, total, "")
            self._sleep(min(left, _LOOK))

    def _once(self, body: dict[str, Any], total: int, on_token: OnToken) -> str:
        try:
            return self._read(Reply(self.endpoint, body), total, on_token)
        except TimeoutError as error:
            text = f"nothing came for {self.endpoint.timeout:g} s (the time-out)"
            raise _Again(self._error(text)) from error
        except ssl.SSLError as error:
            raise self._error(f"no secure connection: {error.reason or error}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise _Again(self._error(f"no connection: {reason}. Is the server running?")) from error

    def _read(self, reply: Reply, total: int, on_token: OnToken) -> str:
        text, count, ended = "", 0, False
        so_far = _SoFar(on_token, total)
        for event in reply.events(so_far.tell):
            if isinstance(event, Refused):
                raise self._refusal(event)
            if isinstance(event, bytes):  # an answer in one piece
                text, count, ended = _whole(self._json(event), self), total, True
            elif event == "[DONE]":
                ended = True
                break
            else:
                delta, finished = _delta(self._json(event.encode()), self)
                text, count, ended = text + delta, count + bool(delta), ended or finished
            so_far.count, so_far.text = min(count, total), text
            so_far.tell()
            if len(text) > MAX_REPLY:
                raise self._error("the answer does not end")
        if not ended:
            raise _Again(self._error(f"the answer broke off after {len(text)} characters"))
        if not text.strip():
            raise self._error("the answer is empty")
        return text

    def _json(self, raw: bytes) -> dict[str, Any]:
        try:
            reply = json.loads(raw[:MAX_REPLY])
        except ValueError as error:
            shown = raw[:80].decode("utf-8", "replace")
            raise self._error(f"the answer is no JSON: {shown!r}") from error
        if not isinstance(reply, dict):
            raise self._error(f"the answer is a {type(reply).__name__}, not an object")
        if reply.get("error"):
            raise self._error(_message(reply["error"]))
        return reply

    def _refusal(self, refused: Refused) -> Exception:
        try:
            content = json.loads(refused.body)
            said = _message(content.get("error") or content)
        except (ValueError, AttributeError):
            said = " ".join(refused.body.decode("utf-8", "replace").split())[:200]
        hint = {
            401: "Set the environment variable that holds the key, and name it on the node.",
            403: "The key may not use this model.",
            404: f"Is the address right up to /v1, and is {self.endpoint.model!r} served there?",
        }.get(refused.status, "")
        text = f"HTTP {refused.status} {refused.reason}: {said}".rstrip(": ")
        error = self._error(f"{text}. {hint}".rstrip())
        if refused.status not in RETRIED:
            return error
        wait = refused.retry_after
        return _Again(error, float(wait) if wait.isdigit() else None)

    def _error(self, text: str) -> EndpointError:
        return EndpointError(f"{self.name}: {self._hidden(text)}")

    def _hidden(self, text: str) -> str:
        """A server may repeat the key it was sent."""
        return text.replace(self.endpoint.key, "***") if self.endpoint.key else text


@dataclass
class _SoFar:
    """The answer up to now, for whoever follows it."""

    on_token: OnToken
    total: int
    count: int = 0
    text: str = ""

    def tell(self) -> None:
        self.on_token(self.count, self.total, self.text)


def _delta(reply: dict[str, Any], writer: EndpointWriter) -> tuple[str, bool]:
    """The text an event adds, and whether the answer ends with it."""
    choices = reply.get("choices")
    if not isinstance(choices, list):
        raise writer._error(f"the answer has no choices (found: {', '.join(reply)[:80]})")
    if not choices:
        return "", False  # the last event of some servers counts tokens only
    choice = choices[0] if isinstance(choices[0], dict) else {}
    delta = choice.get("delta") or {}
    content = delta.get("content") if isinstance(delta, dict) else None
    return content if isinstance(content, str) else "", bool(choice.get("finish_reason"))


def _whole(reply: dict[str, Any], writer: EndpointWriter) -> str:
    """The text of an answer in one piece."""
    try:
        text = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise writer._error(
            f"the answer has no choices[0].message.content (found: {', '.join(reply)[:80]})"
        ) from error
    if not isinstance(text, str) or not text.strip():
        raise writer._error("the answer is empty")
    return text


def _message(error: Any) -> str:
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return " ".join(str(error).split())[:300]


def _picture(image: Tensor) -> dict[str, Any]:
    """A picture [H, W, 3] as the protocol has it: a JPEG in the message."""
    pixels = image.mul(255).round().clamp(0, 255).byte().cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=92)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}
