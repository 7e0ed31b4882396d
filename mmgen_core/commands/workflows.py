"""Runs API-format workflow files on one server and collects their pictures."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from .client import Client, OutputFile, Result, WorkflowError
from .console import CommandError, Progress
from .server import Server

DEMO_MODEL = "mmgen_demo_"
ANNOTATION = re.compile(r" \[(input|output|temp)\]$")


def read_workflow(path: Path) -> dict:
    """Reads an API-format workflow.

    Raises:
        CommandError: no such file, not JSON, or the form the browser saves for itself.
    """
    try:
        graph = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise CommandError(f"{path} is not JSON: {error}") from error
    if isinstance(graph, dict) and isinstance(graph.get("nodes"), list):
        raise CommandError(
            f"{path} is a workflow for the browser; export it with Workflow > Export (API)"
        )
    is_api = isinstance(graph, dict) and graph and all(map(_is_node, graph.values()))
    if not is_api:
        raise CommandError(f"{path} is no API-format workflow: its nodes need class_type")
    return graph


def _is_node(node: object) -> bool:
    return isinstance(node, dict) and isinstance(node.get("class_type"), str)


def run_workflow(server: Server, path: Path, out: Path, replace: bool) -> list[Path]:
    """Runs one file; returns the pictures written to `out`.

    Pictures (and other files a node names) that the workflow loads are looked for beside it, in
    `input` beside it or one folder up, and in the host's input folder.

    Raises:
        CommandError: the file is unusable.
        WorkflowError: the server refused it, or a node failed.
    """
    graph = read_workflow(path)
    provide_inputs(graph, path, server)
    client = server.client
    result = client.run(graph, whole=True)
    return save_files(client, result, path.stem, out, replace)


def provide_inputs(graph: dict, path: Path, server: Server) -> None:
    """Copies the files that the nodes' inputs name into the server's own input folder."""
    folder = path.resolve().parent
    places = [folder, folder / "input", folder.parent / "input", server.host.comfyui / "input"]
    for name in _file_names(graph):
        source = next((place / name for place in places if (place / name).is_file()), None)
        if source is not None:
            target = server.input / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def _file_names(graph: dict) -> Iterator[str]:
    for node in graph.values():
        for value in node.get("inputs", {}).values():
            if not isinstance(value, str) or len(value) > 200 or "\n" in value:
                continue
            name = PurePosixPath(ANNOTATION.sub("", value).replace("\\", "/"))
            if name.suffix and not name.is_absolute() and ".." not in name.parts:
                yield str(name)


def save_files(client: Client, result: Result, stem: str, out: Path, replace: bool) -> list[Path]:
    """Downloads what the nodes saved; previews only when nothing was saved."""
    saved = [file for file in result.files if file.kind == "output"] or result.files
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for number, file in enumerate(saved, 1):
        path = out / _name(stem, file, number)
        written.append(_save(client.download(file), path, replace))
    return written


def _name(stem: str, file: OutputFile, number: int) -> str:
    """The same name in every run: a preview's own name is random."""
    own = PurePosixPath(file.filename)
    if file.kind == "temp":
        return f"{stem}-{file.node.replace(':', '_')}-{number:02}{own.suffix}"
    name = own.stem.rstrip("_")
    return f"{name if name.startswith(stem) else f'{stem}-{name}'}{own.suffix}"


def _save(data: bytes, path: Path, replace: bool) -> Path:
    """Writes in one go. Without `replace` an existing other file stays and ours is numbered."""
    number, wanted = 1, path
    while not replace and path.exists() and path.read_bytes() != data:
        number += 1
        path = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
    fresh = path.with_name(path.name + ".part")
    fresh.write_bytes(data)
    os.replace(fresh, path)
    return path


def needs_other_models(error: WorkflowError) -> bool:
    """Whether a workflow only waits for models that the user may install; not for our own."""
    missing = error.missing_files
    return bool(missing) and not any(DEMO_MODEL in name for name in missing)


def run_files(
    server: Server,
    files: Sequence[Path],
    out: Path,
    progress: Progress,
    replace: bool = False,
    may_skip: bool = False,
) -> tuple[int, int]:
    """Runs every file, whatever happens to the ones before it.

    Args:
        replace: overwrite earlier pictures of the same name.
        may_skip: a workflow that needs models we do not ship is skipped, not failed.
    Returns:
        how many pictures were written, and how many workflows failed.
    """
    pictures = failures = 0
    for path in files:
        progress.step(f"{path.name}: running")
        try:
            written = run_workflow(server, path, out, replace)
        except WorkflowError as error:
            if may_skip and needs_other_models(error):
                names = ", ".join(error.missing_files)
                progress.step(f"{path.name}: skipped, it needs {names}")
                continue
            failures += 1
            progress.step(f"{path.name}: FAILED: {error}")
        except CommandError as error:
            failures += 1
            progress.step(f"{path.name}: FAILED: {error}")
        else:
            pictures += len(written)
            for picture in written:
                progress.step(f"{path.name}: wrote {picture}")
    return pictures, failures
