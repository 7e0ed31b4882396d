"""Which ComfyUI runs the workflows, and with which interpreter: ours, or the user's untouched."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .console import CommandError, Progress
from .environment import (
    ensure_extras,
    ensure_requirements,
    ensure_torch,
    ensure_venv,
    succeeds,
)
from .host_source import ensure_comfyui, link_pack
from .lock import only_one
from .places import CACHE, ROOT, VENV, venv_python
from .repair import ensure_importable

NEEDED_MODULES = "import aiohttp, torch, yaml"


@dataclass(frozen=True)
class Host:
    """A ComfyUI folder, the interpreter that runs it, and whether its custom_nodes has this pack.

    A user's folder is never written to: the server then gets the pack from a temporary one.
    """

    comfyui: Path
    python: Path
    has_pack: bool


def prepare_host(comfyui: Path | None, progress: Progress, extras: Sequence[str] = ()) -> Host:
    """Sets up what is missing and returns the host.

    Args:
        comfyui: an existing install to use as it is; None for our own in `.comfyui`.
        extras: optional dependency groups that our `.venv` must have as well.
    Raises:
        CommandError: a step failed.
    """
    if comfyui is not None:
        check_comfyui(comfyui)
    with only_one(CACHE / "setup.lock", progress):
        if comfyui is None:
            return prepare_own_host(progress, extras)
        return prepare_existing_host(comfyui, progress, extras)


def prepare_existing_host(comfyui: Path, progress: Progress, extras: Sequence[str] = ()) -> Host:
    """A user's ComfyUI as it is; our `.venv` joins in for tests, or if it has no interpreter."""
    python = find_python(comfyui)
    if extras or python is None:
        own = ensure_venv(progress)
        fill_venv(own, comfyui, progress, extras)
        python = python or own
    progress.step(f"ComfyUI: using {comfyui} with {python}")
    return Host(comfyui, python, has_pack=contains_pack(comfyui / "custom_nodes"))


def prepare_own_host(progress: Progress, extras: Sequence[str] = ()) -> Host:
    """Our ComfyUI in `.comfyui`, our environment in `.venv`, this pack linked into the first."""
    python = ensure_venv(progress)
    comfyui = ensure_comfyui(python, progress)
    fill_venv(python, comfyui, progress, extras)
    link_pack(comfyui / "custom_nodes")
    return Host(comfyui, python, has_pack=True)


def fill_venv(python: Path, comfyui: Path, progress: Progress, extras: Sequence[str]) -> None:
    """Fills `.venv` with torch, the requirements of that ComfyUI, and our extras."""
    ensure_torch(python, progress)
    ensure_requirements(python, comfyui, progress)
    if extras:
        ensure_extras(python, extras, progress)
    ensure_importable(python, progress)


def check_comfyui(comfyui: Path) -> None:
    """Raises CommandError unless the folder looks like ComfyUI."""
    if not (comfyui / "main.py").is_file() or not (comfyui / "comfy").is_dir():
        raise CommandError(f"{comfyui} is not a ComfyUI folder: it has no main.py and comfy/")


def find_python(comfyui: Path) -> Path | None:
    """The interpreter an existing install runs with, or None if none of the usual ones can.

    Looked for: DIR/.venv, DIR/venv, python_embeded beside or in DIR (the portable Windows build
    spells it so), and the interpreter this command runs in.
    """
    embedded = [comfyui.parent / "python_embeded", comfyui / "python_embeded"]
    candidates = [venv_python(comfyui / ".venv"), venv_python(comfyui / "venv")]
    candidates += [folder / "python.exe" for folder in embedded]
    candidates.append(Path(sys.executable))
    return next((python for python in candidates if can_run_comfyui(python)), None)


def can_run_comfyui(python: Path) -> bool:
    """Whether the interpreter exists and has ComfyUI's main packages."""
    return succeeds(python, NEEDED_MODULES)


def contains_pack(custom_nodes: Path) -> bool:
    """Whether this very repository is already one of the folder's packs."""
    if not custom_nodes.is_dir():
        return False
    folders = [entry for entry in custom_nodes.iterdir() if entry.is_dir()]
    return any(os.path.samefile(folder, ROOT) for folder in folders)


def library_python() -> Path | None:
    """An interpreter with torch for commands that use the library: this one, or `.venv`'s."""
    for python in (Path(sys.executable), venv_python(VENV)):
        # found, not imported: that takes seconds
        if succeeds(python, "import importlib.util as u, sys; sys.exit(not u.find_spec('torch'))"):
            return python
    return None
