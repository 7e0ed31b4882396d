"""The command line: `python -m mmgen_core COMMAND`. Standard library only."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from mmgen_core.commands import demo, library, run, test
from mmgen_core.commands.console import CommandError, complain

NEEDS_LIBRARY = ("inspect", "convert", "bench", "train")


def build_parser() -> argparse.ArgumentParser:
    """The parser with every command."""
    parser = argparse.ArgumentParser(
        prog="python -m mmgen_core", description="mmgen's command line", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text, add_arguments in (
        ("demo", "set everything up and make the demo pictures", demo.add_arguments),
        ("test", "set everything up and run every test", test.add_arguments),
        ("run", "run workflow files without a browser", run.add_arguments),
        ("inspect", "say what a checkpoint file is", library.add_inspect_arguments),
        ("convert", "turn a checkpoint into safetensors", library.add_convert_arguments),
        ("bench", "time a family of models", library.add_bench_arguments),
        ("train", "run a training recipe", library.add_train_arguments),
    ):
        add_arguments(commands.add_parser(name, help=text, description=text, allow_abbrev=False))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    if sys.version_info < (3, 10):  # noqa: UP036 -- a bare Python may be any
        found = sys.version.split()[0]
        complain(CommandError(f"mmgen needs Python 3.10 or newer; this is {found}"))
        return 1
    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    arguments, rest = parser.parse_known_args(words)
    if arguments.command == "test":
        arguments.rest = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return dispatch(arguments, words)
    except CommandError as error:
        complain(error)
        return 1
    except KeyboardInterrupt:
        complain(CommandError("interrupted"))
        return 130


def dispatch(arguments: argparse.Namespace, words: list[str]) -> int:
    """Calls the command's function; those that need torch run where torch is."""
    if arguments.command in NEEDS_LIBRARY:
        python = library.needs_another_python()
        if python is not None:
            return library.run_again(python, words)
    functions = {
        "demo": demo.run,
        "test": test.run,
        "run": run.run,
        "inspect": library.run_inspect,
        "convert": library.run_convert,
        "bench": library.run_bench,
        "train": library.run_train,
    }
    return functions[arguments.command](arguments)


def _stop_cleanly(number: int, frame: object) -> None:
    """A terminated command ends like an interrupted one: its server and pip are stopped too."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop_cleanly)
    sys.exit(main())
