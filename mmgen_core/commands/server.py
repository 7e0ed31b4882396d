"""A headless ComfyUI server as a context manager; it writes to a temporary folder only."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from .client import Client
from .console import CommandError
from .environment import succeeds
from .host import Host
from .host_source import link_pack
from .places import COMFYUI

START_SECONDS = 180.0
STOP_SECONDS = 15.0
ACCELERATOR = "import sys, torch; sys.exit(not torch.accelerator.is_available())"


class Server:
    """One ComfyUI process on a free port.

    Args:
        host: the ComfyUI folder and its interpreter.
        log: file for the server's output (replaced).
        isolated: True hides the host's own models and packs: only this pack and what is put into
            `models` is there. False runs with the host's models and packs, as its user would.
        cpu: True for --cpu; None asks the interpreter's torch whether there is an accelerator.
        arguments: more arguments for ComfyUI's main.py.
        folder: keep everything here instead of in a temporary folder that is deleted at the end.

    `with Server(...) as server:` starts it, waits until it answers, and stops it.
    `server.client` talks to it; `server.base`, `.models`, `.input`, `.output` are its folders.

    Raises:
        CommandError: it ended early, or did not answer in three minutes.
    """

    def __init__(
        self,
        host: Host,
        log: Path,
        isolated: bool = False,
        cpu: bool | None = None,
        arguments: Sequence[str] = (),
        folder: Path | None = None,
    ):
        self.host = host
        self.log = log.resolve()
        self.isolated = isolated
        self.cpu = cpu
        self.arguments = list(arguments)
        self.keep = folder is not None
        self.base = Path(folder or tempfile.mkdtemp(prefix="mmgen-host-")).resolve()
        self.input, self.output = self.base / "input", self.base / "output"
        self.models = self.base / "models"
        self.process: subprocess.Popen | None = None
        self.port = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> Client:
        return Client(self.address, self.is_running)

    def __enter__(self) -> Server:
        try:
            self._start()
        except BaseException:  # Ctrl-C while it starts must not leave the process behind
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def is_running(self) -> bool:
        """Whether the process is alive."""
        return self.process is not None and self.process.poll() is None

    def _start(self) -> None:
        self._make_folders()
        self.port = free_port()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = self._command()
        with self.log.open("w", encoding="utf-8") as out:
            out.write("$ " + " ".join(command) + "\n")
            out.flush()
            self.process = subprocess.Popen(
                command,
                cwd=self.base,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._variables()},
                **_own_group(),
            )
        self._wait_until_it_answers()

    def _variables(self) -> dict[str, str]:
        variables = {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
        if self.host.comfyui != COMFYUI:
            variables["PYTHONDONTWRITEBYTECODE"] = "1"  # not even that goes into a user's install
        return variables

    def _make_folders(self) -> None:
        for folder in ("input", "output", "user", "models", "custom_nodes"):
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        if self.isolated or not self.host.has_pack:
            link_pack(self.base / "custom_nodes")

    def _command(self) -> list[str]:
        command = [str(self.host.python), str(self.host.comfyui / "main.py")]
        command += ["--listen", "127.0.0.1", "--port", str(self.port), "--disable-auto-launch"]
        # the nodes of paid services would only make the start slower, and call the network
        command += ["--disable-api-nodes"]
        for name in ("input", "output", "user"):
            command += [f"--{name}-directory", str(self.base / name)]
        command += ["--temp-directory", str(self.base)]  # ComfyUI makes a folder temp in it
        database = (self.base / "user" / "comfyui.db").as_posix()
        command += ["--database-url", f"sqlite:///{database}"]
        command += self._pack_arguments()
        if self.cpu or (self.cpu is None and not has_accelerator(self.host.python)):
            command.append("--cpu")
        return command + self.arguments

    def _pack_arguments(self) -> list[str]:
        if self.isolated:
            return ["--base-directory", str(self.base)]
        if self.host.has_pack:
            return []
        # a JSON file is a YAML file, and JSON quotes every path correctly
        config = self.base / "extra_paths.yaml"
        paths = {"mmgen": {"custom_nodes": str(self.base / "custom_nodes")}}
        config.write_text(json.dumps(paths), encoding="utf-8")
        return ["--extra-model-paths-config", str(config)]

    def _wait_until_it_answers(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if not self.is_running():
                code = self.process.returncode if self.process else None
                raise CommandError(f"ComfyUI ended while it started (status {code})", self.log)
            if self._answers():
                return
            time.sleep(0.2)
        raise CommandError(f"ComfyUI did not answer within {START_SECONDS:.0f} s", self.log)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/features", timeout=5) as reply:
                return reply.status == 200
        except (OSError, http.client.HTTPException):
            return False

    def stop(self) -> None:
        """Ends the process and deletes the temporary folder; safe to call twice."""
        if self.process is not None:
            end_process(self.process)
            self.process = None
        if not self.keep:
            # rmtree takes the links to this pack away, and never what they name
            shutil.rmtree(self.base, ignore_errors=True)


def free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def has_accelerator(python: Path) -> bool:
    """Whether that interpreter's torch has a GPU of any make."""
    return succeeds(python, ACCELERATOR)


def end_process(process: subprocess.Popen) -> None:
    """Ends a process with its children: asked first, then made to."""
    if process.poll() is None:
        _signal_group(process, force=False)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            _signal_group(process, force=True)
    process.wait()


def _own_group() -> dict[str, object]:
    """Popen options that let the server be ended together with its children."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def _signal_group(process: subprocess.Popen, force: bool) -> None:
    if sys.platform == "win32":
        # a venv's python.exe only starts the real one: the whole tree has to go
        command = ["taskkill", "/F", "/T", "/PID", str(process.pid)]
        subprocess.run(command, capture_output=True)
        return
    try:
        os.killpg(process.pid, signal.SIGKILL if force else signal.SIGTERM)
    except ProcessLookupError:
        return
