"""`run`: API-format workflows through one headless server, pictures to a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from .console import CommandError, Progress, say
from .host import prepare_host
from .places import LOGS
from .server import Server
from .workflows import read_workflow, run_files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.json", help="API format")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="for the pictures")
    parser.add_argument("--comfyui", type=Path, metavar="DIR", help="use this ComfyUI, untouched")
    parser.add_argument("--cpu", action="store_true", help="leave an existing GPU alone")


def run(arguments: argparse.Namespace) -> int:
    """Returns the exit status; raises CommandError when a step or a workflow fails."""
    progress = Progress()
    for path in arguments.files:
        read_workflow(path)  # a typing error in a name should not cost a set-up
    comfyui = arguments.comfyui.resolve() if arguments.comfyui else None
    host = prepare_host(comfyui, progress)
    log = LOGS / "server.log"
    progress.step("ComfyUI: starting a headless server")
    with Server(host, log, cpu=arguments.cpu or None) as server:
        out = arguments.out.resolve()
        pictures, failures = run_files(server, arguments.files, out, progress)
    if failures:
        raise CommandError(f"{failures} of {len(arguments.files)} workflows failed; log: {log}")
    say(f"{pictures} pictures in {out}")
    return 0
