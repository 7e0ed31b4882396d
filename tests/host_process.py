"""Runs a script in a process that has ComfyUI's modules and this pack, but no server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmgen_core.commands.places import ROOT

PRELUDE = r"""
import importlib.util, sys
from pathlib import Path

comfyui, pack_folder, *arguments = sys.argv[1:]
sys.argv = sys.argv[:1]
sys.path.insert(0, comfyui)
from comfy.cli_args import args
args.cpu = True  # before anything asks for the device
import torch
import comfy.memory_management
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import folder_paths

spec = importlib.util.spec_from_file_location(
    "pack", Path(pack_folder) / "__init__.py", submodule_search_locations=[pack_folder]
)
pack = sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
from pack.nodes import host
"""


def run_script(script: str, folder: Path, *arguments: str) -> None:
    """Fails the test with the script's output unless it ends well."""
    comfyui = os.environ.get("MMGEN_COMFYUI") or str(ROOT / ".comfyui")
    python = os.environ.get("MMGEN_PYTHON") or sys.executable
    if not (Path(comfyui) / "main.py").is_file():
        pytest.fail(f"no ComfyUI at {comfyui}: run `python -m mmgen_core test`", pytrace=False)
    path = folder / "script.py"
    path.write_text(PRELUDE + script, encoding="utf-8")
    command = [python, str(path), comfyui, str(ROOT), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
