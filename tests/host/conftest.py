"""Fixtures for tests in a real ComfyUI: one server for all of them, its client, a browser page."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import tiny

from mmgen_core.commands.browser import find_browser
from mmgen_core.commands.client import Client, OutputFile, Result
from mmgen_core.commands.console import CommandError, last_lines
from mmgen_core.commands.host import Host
from mmgen_core.commands.places import COMFYUI, LOGS, ROOT, VENV, venv_python
from mmgen_core.commands.server import Server

SET_UP = "run `python -m mmgen_core test`, or set MMGEN_COMFYUI and MMGEN_PYTHON"
JPEG_OR_PNG_EVENT, PREVIEW_WITH_METADATA_EVENT = 1, 4


def find_host() -> Host:
    """The ComfyUI that the command named, or the one it would set up."""
    comfyui = Path(os.environ.get("MMGEN_COMFYUI") or COMFYUI)
    python = Path(os.environ.get("MMGEN_PYTHON") or venv_python(VENV))
    if not (comfyui / "main.py").is_file():
        pytest.fail(f"no ComfyUI at {comfyui}: {SET_UP}", pytrace=False)
    if not python.is_file():
        pytest.fail(f"no Python for ComfyUI at {python}: {SET_UP}", pytrace=False)
    return Host(comfyui, python, has_pack=False)


@dataclass
class Preview:
    """A preview frame: the picture's bytes, and what the server says about it (type-4 frames)."""

    image: bytes
    metadata: dict


@dataclass
class Events:
    """What the websocket said while a prompt ran: JSON messages in order, and preview frames."""

    messages: list[dict] = field(default_factory=list)
    previews: list[Preview] = field(default_factory=list)

    def of(self, kind: str) -> list[dict]:
        """The data of every message of that type."""
        return [message["data"] for message in self.messages if message["type"] == kind]

    def kinds(self) -> list[str]:
        """The types in order."""
        return [message["type"] for message in self.messages]


class Socket:
    """The browser's side of ComfyUI's websocket."""

    def __init__(self, address: str, client_id: str):
        import websocket  # only the tests that listen need the package

        url = f"{address.replace('http', 'ws', 1)}/ws?clientId={client_id}"
        self.connection = websocket.create_connection(url, timeout=60)
        flags = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
        self.connection.send(json.dumps(flags))

    def collect(self, prompt_id: str, timeout: float = 120.0, on_message=None) -> Events:
        """Reads until the prompt succeeded, failed or was interrupted.

        Args:
            on_message: called with (events so far) after each message; may talk to the server.
        """
        events, end = Events(), time.monotonic() + timeout
        finals = {"execution_success", "execution_error", "execution_interrupted"}
        while time.monotonic() < end:
            frame = self.connection.recv()
            self._take(frame, events)
            if on_message is not None:
                on_message(events)
            if isinstance(frame, str):
                message = events.messages[-1]
                if message["type"] in finals and message["data"]["prompt_id"] == prompt_id:
                    return events
        raise TimeoutError(f"prompt {prompt_id} sent no end within {timeout} s: {events.kinds()}")

    def _take(self, frame: str | bytes, events: Events) -> None:
        if isinstance(frame, str):
            events.messages.append(json.loads(frame))
            return
        kind = int.from_bytes(frame[:4], "big")
        size = int.from_bytes(frame[4:8], "big")
        if kind == PREVIEW_WITH_METADATA_EVENT:
            metadata = json.loads(frame[8 : 8 + size])
            events.previews.append(Preview(frame[8 + size :], metadata))
        elif kind == JPEG_OR_PNG_EVENT:
            events.previews.append(Preview(frame[8:], {}))

    def close(self) -> None:
        self.connection.close()


@dataclass(frozen=True)
class RunningHost:
    """The shared server as the tests see it."""

    server: Server

    @property
    def client(self) -> Client:
        return self.server.client

    @property
    def address(self) -> str:
        return self.server.address

    @property
    def models_dir(self) -> Path:
        """The server's models folder: files put into models_dir / "mmgen" show up in pickers."""
        return self.server.models

    @property
    def input_dir(self) -> Path:
        return self.server.input

    @property
    def output_dir(self) -> Path:
        return self.server.output

    @property
    def log(self) -> str:
        """Everything the server wrote so far."""
        return self.server.log.read_text(encoding="utf-8", errors="replace")

    def run(self, prompt: dict, timeout: float = 300.0) -> Result:
        """Runs an API-format workflow to its end; WorkflowError if a node fails."""
        return self.client.run(prompt, timeout)

    def images(self, result: Result) -> list[bytes]:
        """The saved pictures of a result, or its previews."""
        return [self.client.download(file) for file in self.image_files(result)]

    def image_files(self, result: Result) -> list[OutputFile]:
        suffixes = (".png", ".jpg", ".jpeg", ".webp")
        return [file for file in result.files if file.filename.lower().endswith(suffixes)]

    def watch(self, prompt: dict, timeout: float = 300.0, on_message=None, **options) -> Events:
        """Runs a workflow and returns all websocket messages and preview frames of it.

        Args:
            on_message: called with the events so far after each message, e.g. to interrupt.
            options: more fields for POST /prompt.
        """
        client = self.client
        socket = Socket(self.address, client.client_id)
        try:
            prompt_id = client.submit(prompt, **options)
            return socket.collect(prompt_id, timeout, on_message)
        finally:
            socket.close()


@pytest.fixture(scope="session")
def host() -> Iterator[RunningHost]:
    """One ComfyUI server with this pack and nothing else, for the whole session."""
    found = find_host()
    # a terminated pytest would leave the server running; ended like Ctrl-C it cleans up
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        previews = ["--preview-method", "auto"]  # ComfyUI's default is none
        log = LOGS / "test-server.log"
        with Server(found, log, isolated=True, arguments=previews) as server:
            (server.models / "mmgen").mkdir(exist_ok=True)
            yield RunningHost(server)
    except CommandError as error:
        end = "\n".join(last_lines(error.log)) if error.log else ""
        pytest.fail(f"{error}\n{end}\nfull log: {error.log}", pytrace=False)
    finally:
        signal.signal(signal.SIGTERM, previous)


STAND_IN_CLASSES = ["smiling face", "sad face", "heart", "moon", "flower", "tree", "cat", "dog"]


@pytest.fixture(scope="session")
def models(host: RunningHost) -> Path:
    """The server's models/mmgen with tiny_vae and tiny_var in it, and the demo models' names:
    where a demo model is not there yet, a tiny random one stands in for it."""
    folder = host.models_dir / "mmgen"
    config = {**tiny.TRANSFORMER_CONFIG, "classes": STAND_IN_CLASSES}
    tensors = tiny.transformer_tensors(classes=len(STAND_IN_CLASSES))
    tiny.write(folder / "tiny_var.safetensors", tensors, config)
    tiny.write(folder / "tiny_vae.safetensors", tiny.tokenizer_tensors(), tiny.TOKENIZER_CONFIG)
    for kind in ("vae", "var"):
        demo = f"mmgen_demo_{kind}.safetensors"
        if not (ROOT / "models" / demo).is_file():
            (folder / demo).write_bytes((folder / f"tiny_{kind}.safetensors").read_bytes())
    return folder


@pytest.fixture(scope="session")
def _browser() -> Iterator[object]:
    path = find_browser()
    if path is None:
        pytest.skip("no Chrome or Chromium found: install one, or set MMGEN_BROWSER")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(
            executable_path=str(path), args=["--no-sandbox"] if as_root else []
        )
        yield browser
        browser.close()


@pytest.fixture
def browser_page(host: RunningHost, _browser) -> Iterator[object]:
    """A fresh playwright page at the server's address, with ComfyUI's canvas ready.

    Page errors are collected in `page.mmgen_errors`.
    """
    context = _browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.mmgen_errors = []
    page.on("pageerror", lambda error: page.mmgen_errors.append(str(error)))
    page.goto(host.address)
    ready = "() => window.app?.extensionManager && window.app?.graph"
    page.wait_for_function(ready, timeout=90_000)
    yield page
    context.close()
