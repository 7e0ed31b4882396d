"""A client for ComfyUI's HTTP interface, with the standard library only."""

from __future__ import annotations

import http.client
import itertools
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

POLL_SECONDS = 0.2
MODEL_SUFFIXES = {".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".json"}


class WorkflowError(Exception):
    """A workflow was refused or failed: the text says at which node and why.

    `missing_files` are the names of models to install, where that is the only trouble.
    """

    def __init__(self, message: str, missing_files: Sequence[str] = ()):
        super().__init__(message)
        self.missing_files = missing_files


@dataclass(frozen=True)
class OutputFile:
    """A file that a node left on the server; `kind` is "output" or "temp"."""

    node: str
    filename: str
    subfolder: str
    kind: str


@dataclass
class Result:
    """What a finished prompt left: the history entry, and its files."""

    prompt_id: str
    outputs: dict[str, dict]
    files: list[OutputFile] = field(default_factory=list)


class Client:
    """Talks to one server.

    Args:
        address: such as http://127.0.0.1:8188.
        is_alive: asked while waiting, so that a dead server is noticed.
    """

    def __init__(self, address: str, is_alive: Callable[[], bool] = lambda: True):
        self.address = address
        self.is_alive = is_alive
        self.client_id = uuid.uuid4().hex

    def get(self, path: str) -> object:
        """GET of a JSON route."""
        return json.loads(self._read(urllib.request.Request(self.address + path)))

    def post(self, path: str, body: object) -> object:
        """POST of JSON to a route; returns its JSON reply, or None for an empty one."""
        headers = {"Content-Type": "application/json"}
        data = json.dumps(body).encode()
        reply = self._read(urllib.request.Request(self.address + path, data, headers))
        return json.loads(reply) if reply.strip() else None

    def object_info(self) -> dict[str, dict]:
        """Every node the server has, by id."""
        return self.get("/object_info")

    def submit(self, prompt: dict, whole: bool = False, **options: object) -> str:
        """Queues an API-format workflow; returns the prompt's id.

        Args:
            whole: refuse a workflow of which ComfyUI would run only some outputs (it leaves out
                those with a bad input, and calls that a success).
            options: more fields of the request, such as `partial_execution_targets`.
        Raises:
            WorkflowError: the server refused it, with each node's complaint.
        """
        body = {"prompt": prompt, "client_id": self.client_id, **options}
        try:
            reply = self.post("/prompt", body)
        except urllib.error.HTTPError as error:
            raise _refusal(error.read(), error.code) from error
        if whole and reply["node_errors"]:
            self.cancel(reply["prompt_id"])
            raise _complaint(reply["node_errors"])
        return reply["prompt_id"]

    def wait(self, prompt_id: str, timeout: float | None = None) -> Result:
        """Waits for a queued prompt.

        Raises:
            WorkflowError: a node failed (its id, type and message), or it was interrupted.
            TimeoutError: not finished after `timeout` seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None and entry.get("status"):
                return _finished(prompt_id, entry)
            if not self.is_alive():
                raise WorkflowError("ComfyUI ended while it ran the workflow")
            if end is not None and time.monotonic() > end:
                raise TimeoutError(f"prompt {prompt_id} not finished after {timeout} s")
            time.sleep(POLL_SECONDS)

    def run(self, prompt: dict, timeout: float | None = None, whole: bool = False) -> Result:
        """`submit` and `wait`."""
        return self.wait(self.submit(prompt, whole), timeout)

    def download(self, file: OutputFile) -> bytes:
        """The bytes of a file a node left."""
        query = {"filename": file.filename, "subfolder": file.subfolder, "type": file.kind}
        address = f"{self.address}/view?{urllib.parse.urlencode(query)}"
        return self._read(urllib.request.Request(address))

    def upload_image(self, path: Path, overwrite: bool = True) -> str:
        """Puts a picture into the server's input folder; returns the name to give LoadImage."""
        boundary = uuid.uuid4().hex
        disposition = f'Content-Disposition: form-data; name="image"; filename="{path.name}"'
        parts = [f"--{boundary}\r\n{disposition}\r\n".encode()]
        parts += [b"Content-Type: application/octet-stream\r\n\r\n", path.read_bytes()]
        flag = 'Content-Disposition: form-data; name="overwrite"'
        parts.append(f"\r\n--{boundary}\r\n{flag}\r\n\r\n{str(overwrite).lower()}".encode())
        parts.append(f"\r\n--{boundary}--\r\n".encode())
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        address = self.address + "/upload/image"
        reply = self._read(urllib.request.Request(address, b"".join(parts), headers))
        return json.loads(reply)["name"]

    def interrupt(self) -> None:
        """Asks the server to stop the running prompt."""
        self.post("/interrupt", {})

    def cancel(self, prompt_id: str) -> None:
        """Takes a prompt out of the queue, or stops it if it runs already."""
        self.post("/queue", {"delete": [prompt_id]})
        self.post("/interrupt", {"prompt_id": prompt_id})

    def free(self) -> None:
        """Unloads every model and drops cached results."""
        self.post("/free", {"unload_models": True, "free_memory": True})

    def _read(self, request: urllib.request.Request) -> bytes:
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.read()
        except urllib.error.HTTPError:
            raise
        except (OSError, http.client.HTTPException) as error:
            if not self.is_alive():
                raise WorkflowError("ComfyUI ended while it ran the workflow") from error
            raise WorkflowError(f"ComfyUI does not answer at {self.address}: {error}") from error


def _finished(prompt_id: str, entry: dict) -> Result:
    status = entry["status"]
    if status["status_str"] != "success":
        raise WorkflowError(_failure(status["messages"]))
    outputs = entry["outputs"]
    return Result(prompt_id, outputs, list(_files(outputs)))


def _files(outputs: dict[str, dict]) -> list[OutputFile]:
    """Every file in the nodes' UI results, whatever name the node gave the list."""
    found = []
    for node, results in outputs.items():
        lists = [values for values in results.values() if isinstance(values, list)]
        for entry in itertools.chain.from_iterable(lists):
            if isinstance(entry, dict) and "filename" in entry:
                kind = entry.get("type", "output")
                found.append(OutputFile(node, entry["filename"], entry.get("subfolder", ""), kind))
    return found


def _failure(messages: list) -> str:
    for event, data in messages:
        if event == "execution_error":
            # A pack's own errors are named by the path the host imported the pack from.
            kind = data["exception_type"].rpartition(".")[2]
            reason = f"{kind}: {data['exception_message'].strip()}"
            return f"node {data['node_id']} ({data['node_type']}): {reason}"
        if event == "execution_interrupted":
            return f"interrupted at node {data['node_id']} ({data['node_type']})"
    return "failed without a message"


def _refusal(body: bytes, code: int) -> WorkflowError:
    try:
        reply = json.loads(body)
        error, nodes = reply["error"], reply.get("node_errors") or {}
    except (ValueError, KeyError, TypeError):
        return WorkflowError(f"the server refused it with status {code}")
    if nodes:
        return _complaint(nodes)
    extra = error.get("extra_info") or {}
    where = f"node {extra['node_id']} ({extra['class_type']}): " if "class_type" in extra else ""
    return WorkflowError(f"{where}{error['message']} {error.get('details') or ''}".strip())


def _complaint(nodes: dict[str, dict]) -> WorkflowError:
    texts, missing = [], []
    for node, found in nodes.items():
        for error in found["errors"]:
            text = f"{error['message']}: {error['details']}"
            texts.append(f"node {node} ({found['class_type']}): {text}")
            missing.append(_missing_file(error))
    return WorkflowError("; ".join(texts), missing if all(missing) else ())


def _missing_file(error: dict) -> str:
    """The file that a picker does not have, or "" for a complaint of another kind."""
    value = (error.get("extra_info") or {}).get("received_value")
    is_file = isinstance(value, str) and PurePosixPath(value).suffix in MODEL_SUFFIXES
    return value if is_file and error["type"] == "value_not_in_list" else ""
