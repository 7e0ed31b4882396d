"""`inspect`, `convert`, `bench`, `train`: commands that need torch and the library."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import subprocess
from pathlib import Path

from .console import CommandError, say
from .host import library_python
from .places import ROOT

AGAIN = "MMGEN_IN_VENV"


def add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a checkpoint")


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="IN", help="a published checkpoint")
    parser.add_argument("target", type=Path, metavar="OUT", help="the .safetensors file to write")


def add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="FAMILY", help=", ".join(_names("benchmarks")))
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="its own arguments")


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="RECIPE", help=", ".join(_names("mmgen_core.training")))
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="its own arguments")


def needs_another_python() -> Path | None:
    """The interpreter to run in, if torch is not in this one but in `.venv`.

    Raises:
        CommandError: torch is in neither.
    """
    if importlib.util.find_spec("torch") is not None:
        return None
    python = None if os.environ.get(AGAIN) else library_python()
    if python is None:
        raise CommandError(
            "this command needs torch; install torch and safetensors here, "
            "or run `python -m mmgen_core demo` once, which sets up .venv"
        )
    return python


def run_again(python: Path, arguments: list[str]) -> int:
    """Runs the same command in another interpreter; returns its exit status."""
    command = [str(python), "-m", "mmgen_core", *arguments]
    search = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(command, env={**os.environ, AGAIN: "1", "PYTHONPATH": search}).returncode


def run_inspect(arguments: argparse.Namespace) -> int:
    """Prints what the checkpoint is, one line per fact."""
    checkpoints = importlib.import_module("mmgen_core.checkpoints.convert")
    try:
        facts = checkpoints.describe(str(arguments.file))
    except (checkpoints.CheckpointError, OSError) as error:
        raise CommandError(str(error)) from error
    width = max(map(len, map(str, facts)), default=0)
    for name, value in facts.items():
        say(f"{name!s:<{width}}  {_text(value)}")
    return 0


def run_convert(arguments: argparse.Namespace) -> int:
    """Writes the checkpoint anew as safetensors."""
    checkpoints = importlib.import_module("mmgen_core.checkpoints.convert")
    try:
        checkpoints.convert_checkpoint(str(arguments.source), str(arguments.target))
    except (checkpoints.CheckpointError, OSError) as error:
        raise CommandError(str(error)) from error
    say(f"wrote {arguments.target}")
    return 0


def run_bench(arguments: argparse.Namespace) -> int:
    """Hands over to benchmarks/<family>.py."""
    return _run_main("benchmarks", arguments)


def run_train(arguments: argparse.Namespace) -> int:
    """Hands over to mmgen_core/training/<recipe>.py."""
    return _run_main("mmgen_core.training", arguments)


def _run_main(package: str, arguments: argparse.Namespace) -> int:
    names, name = _names(package), arguments.name.replace("-", "_")
    if name not in names:
        known = ", ".join(names) or "none yet"
        raise CommandError(f"{package} has no {arguments.name!r}; there are: {known}")
    return importlib.import_module(f"{package}.{name}").main(arguments.rest) or 0


def _names(package: str) -> list[str]:
    """The modules of a package that can be run: those with a main; none is imported for this."""
    files = ROOT.joinpath(*package.split(".")).glob("[!_]*.py")
    return sorted(p.stem for p in files if "\ndef main(" in p.read_text(encoding="utf-8"))


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)
