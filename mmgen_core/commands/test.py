"""`test`: sets everything up, then runs every test in our environment."""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

from .browser import ensure_browser
from .console import Progress, say
from .host import prepare_host
from .places import ROOT, venv_python

EXTRAS = ("library", "train", "test")
NO_BROWSER = (
    "The browser tests did NOT run: no Chrome or Chromium found (install one, or set MMGEN_BROWSER)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--comfyui", type=Path, metavar="DIR", help="use this ComfyUI, untouched")
    parser.epilog = "All other arguments are pytest's, for example: -k tokenizer tests/host"


def run(arguments: argparse.Namespace) -> int:
    """Returns pytest's exit status; raises CommandError when the set-up fails."""
    progress = Progress()
    comfyui = arguments.comfyui.resolve() if arguments.comfyui else None
    host = prepare_host(comfyui, progress, EXTRAS)
    browser = ensure_browser(progress)
    progress.step("tests: running")
    variables = {
        "MMGEN_COMFYUI": str(host.comfyui),
        "MMGEN_PYTHON": str(host.python),
        "MMGEN_BROWSER": str(browser or ""),
    }
    command = [
        str(venv_python()),
        "-m",
        "pytest",
        "--import-mode=importlib",
        "-rfEs",
        *arguments.rest,
    ]
    status = _run_pytest(command, {**os.environ, **variables})
    if browser is None:
        say(NO_BROWSER)
    return status


def _run_pytest(command: list[str], env: dict[str, str]) -> int:
    process = subprocess.Popen(command, cwd=ROOT, env=env)
    try:
        return process.wait()
    except BaseException:  # pytest is told to stop, and waited for: it stops its server first
        process.terminate()
        process.wait()
        raise
