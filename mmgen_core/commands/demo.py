"""`demo`: sets everything up and runs the shipped workflows on the demo models."""

from __future__ import annotations

import argparse
from pathlib import Path

from .console import CommandError, Progress, say
from .host import prepare_host
from .places import API_WORKFLOWS, LOGS, OUT
from .server import Server
from .workflows import run_files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--comfyui", type=Path, metavar="DIR", help="use this ComfyUI, untouched")
    parser.add_argument("--out", type=Path, metavar="DIR", default=OUT, help="default: out/")
    parser.add_argument("--cpu", action="store_true", help="leave an existing GPU alone")


def run(arguments: argparse.Namespace) -> int:
    """Returns the exit status; raises CommandError when a step fails."""
    progress = Progress()
    files = sorted(API_WORKFLOWS.glob("*.json"))
    if not files:
        raise CommandError(f"no workflows in {API_WORKFLOWS}")
    comfyui = arguments.comfyui.resolve() if arguments.comfyui else None
    host = prepare_host(comfyui, progress)
    log = LOGS / "server.log"
    progress.step("ComfyUI: starting a headless server")
    with Server(host, log, cpu=arguments.cpu or None) as server:
        progress.step(f"ComfyUI: answers at {server.address}")
        out = arguments.out.resolve()
        pictures, failures = run_files(server, files, out, progress, replace=True, may_skip=True)
    if failures:
        raise CommandError(f"{failures} of {len(files)} workflows failed", log)
    if not pictures:
        raise CommandError("no workflow wrote a picture", log)
    progress.step("done")
    say(f"{pictures} pictures in {out}")
    return 0
