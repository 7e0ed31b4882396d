"""The client of OpenAI-compatible servers, against a server on this machine."""

from __future__ import annotations

import base64
import io
import time

import pytest
import torch
from llm_server import PLAN, serving
from PIL import Image

from mmgen_core.conditioners.endpoint import EndpointWriter
from mmgen_core.conditioners.endpoint_http import Endpoint, EndpointError
from mmgen_core.conditioners.text_writer import TextRequest, TextSettings

KEY = "sk-secret-123"


@pytest.fixture
def served():
    with serving() as server:
        yield server


def writer_of(served, **options) -> EndpointWriter:
    options = {"timeout": 5.0, "retries": 1} | options
    return EndpointWriter(Endpoint(served.url, "small", **options))


def ask(served, request: TextRequest | None = None, on_token=lambda *_: None, **options) -> str:
    settings = options.pop("settings", TextSettings(max_tokens=50, temperature=0.5, seed=7))
    writer = writer_of(served, **options)
    return writer.write(writer.encode(request or TextRequest("a cat")), settings, on_token)


@pytest.mark.parametrize("behaviour", ["stream", "whole"])
def test_answers(served, behaviour):
    served.behaviour = [behaviour]
    seen = []
    assert ask(served, on_token=lambda *state: seen.append(state)) == PLAN
    assert seen[-1][2] == PLAN
    assert behaviour == "whole" or len({text for _, _, text in seen}) > 5


def test_what_is_sent(served):
    ask(served, TextRequest("a cat", system="plan"), key=KEY)
    sent = served.requests[0]
    assert sent["messages"] == [
        {"role": "system", "content": "plan"},
        {"role": "user", "content": "a cat"},
    ]
    wanted = {"model": "small", "max_tokens": 50, "temperature": 0.5, "seed": 7, "stream": True}
    assert wanted.items() <= sent.items()
    assert not {"top_k", "min_p", "repetition_penalty"} & set(sent)
    assert served.headers[0]["Authorization"] == f"Bearer {KEY}"
    settings = TextSettings(top_k=5, min_p=0.1, repetition_penalty=1.1, seed=2**63)
    ask(served, settings=settings)
    sent = served.requests[1]
    assert (sent["top_k"], sent["min_p"], sent["repetition_penalty"]) == (5, 0.1, 1.1)
    assert 0 <= sent["seed"] < 2**31 and "Authorization" not in served.headers[1]


def test_pictures_are_sent(served):
    picture = torch.zeros(6, 9, 3)
    picture[..., 0] = 1.0
    ask(served, TextRequest("what?", [picture]))
    text, image = served.requests[0]["messages"][0]["content"]
    assert text == {"type": "text", "text": "what?"}
    kind, data = image["image_url"]["url"].split(",")
    assert kind == "data:image/jpeg;base64"
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    assert shown.size == (9, 6) and shown.getpixel((3, 3))[0] > 240


@pytest.mark.parametrize("first", ["busy", "limited", "breaks_off"])
def test_tries_again(served, first):
    served.behaviour = [first, "stream"]
    assert ask(served) == PLAN
    assert len(served.requests) == 2


@pytest.mark.parametrize(
    ("behaviour", "message", "requests"),
    [
        ("busy", r"HTTP 503.*model is loading.*\(2 attempts\)", 2),
        ("breaks_off", r"broke off after 30 characters|no connection", 2),
        ("silent", r"nothing came for 0.6 s.*\(2 attempts\)", 2),
        ("stalls", r"nothing came for 0.6 s", 2),
        ("forbidden", r"HTTP 401.*bad key.*environment variable", 1),
        ("unknown", r"HTTP 404.*model not found.*/v1", 1),
        ("page", r"no JSON: '<html>", 1),
        ("no_json", r"no JSON", 1),
        ("no_choices", r"no choices.*found: object, data", 1),
        ("error_inside", r"CUDA out of memory", 1),
        ("empty", r"the answer is empty", 1),
    ],
)
def test_bad_answers(served, behaviour, message, requests):
    served.behaviour = [behaviour]
    timeout = 0.6 if behaviour in ("silent", "stalls") else 5.0
    with pytest.raises(EndpointError, match=message) as caught:
        ask(served, timeout=timeout, key=KEY)
    assert served.url in str(caught.value) and KEY not in str(caught.value)
    assert len(served.requests) == requests


def test_no_server():
    writer = EndpointWriter(Endpoint("http://127.0.0.1:9/v1", "small", retries=1), lambda _: None)
    with pytest.raises(EndpointError, match=r"127.0.0.1:9.*no connection.*running"):
        writer.write(writer.encode(TextRequest("a")), TextSettings(), lambda *_: None)


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:80", "ftp://a/v1", "http://", "http://user:x@a/v1", "file:///etc/passwd"]
)
def test_bad_addresses(url):
    with pytest.raises(EndpointError, match="address"):
        Endpoint(url, "small")


def test_a_key_that_would_break_the_header():
    with pytest.raises(EndpointError, match="key"):
        Endpoint("http://a/v1", "small", key="a\r\nX-Evil: 1")


@pytest.mark.parametrize("behaviour", ["endless", "silent", "busy"])
def test_interrupt_hangs_up(served, behaviour):
    served.behaviour = [behaviour]
    begun = time.monotonic()

    def stop(*_):
        if time.monotonic() - begun > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(served, on_token=stop, timeout=60, retries=1000)
    assert time.monotonic() - begun < 2
    if behaviour == "endless":
        assert served.hung_up.wait(5), "the server is still being listened to"


def test_key_is_not_shown():
    assert KEY not in repr(Endpoint("http://a/v1", "small", key=KEY))
