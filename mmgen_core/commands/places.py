"""Where things live: the repository, our environment, our ComfyUI, the logs."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
COMFYUI = ROOT / ".comfyui"
CACHE = ROOT / ".cache"
LOGS = CACHE / "logs"
OUT = ROOT / "out"
API_WORKFLOWS = ROOT / "workflows" / "api"
# ComfyUI makes a module name of the folder's name, so the repository's own name will not always do.
PACK_NAME = "mmgen"


def venv_python(venv: Path = VENV) -> Path:
    """The interpreter of a virtual environment, on any system."""
    return venv / "Scripts" / "python.exe" if os.name == "nt" else venv / "bin" / "python"
