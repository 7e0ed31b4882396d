"""What every command needs: lines on the terminal, one kind of error, logged child processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

LAST_LINES = 15
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
HEARTBEAT_SECONDS = 20.0


class CommandError(Exception):
    """A step failed: one line for the user, and where to read more.

    Args:
        message: what went wrong and what to do.
        log: the full log of the step; its last lines are shown.
    """

    def __init__(self, message: str, log: Path | None = None):
        super().__init__(message)
        self.log = log


def say(line: str = "") -> None:
    """Writes one line to stdout at once, whatever the terminal's encoding can show."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(line.encode(encoding, "replace").decode(encoding) + "\n")
    sys.stdout.flush()


def complain(error: CommandError) -> None:
    """Writes the error to stderr, with the end of its log and the log's place."""
    sys.stdout.flush()
    if error.log is not None and error.log.is_file():
        for line in last_lines(error.log):
            sys.stderr.write(f"  | {line}\n")
        sys.stderr.write(f"full log: {error.log}\n")
    sys.stderr.write(f"mmgen: error: {error}\n")
    sys.stderr.flush()


def last_lines(log: Path, count: int = LAST_LINES) -> list[str]:
    """The last non-empty lines of a log file."""
    text = COLOURS.sub("", log.read_text(encoding="utf-8", errors="replace"))
    lines = text.replace("\r", "\n").splitlines()
    return [line.rstrip() for line in lines if line.strip()][-count:]


class Progress:
    """Lines with the seconds since the command began."""

    def __init__(self) -> None:
        self.begin = time.monotonic()

    def step(self, text: str) -> None:
        say(f"[{time.monotonic() - self.begin:6.1f} s] {text}")


def run_logged(
    command: Sequence[str | Path],
    log: Path,
    progress: Progress,
    failure: str,
    env: dict[str, str] | None = None,
) -> None:
    """Runs a long step with its output in a log, and a sign of life every 20 seconds.

    Args:
        command: program and arguments; gets no stdin.
        log: file the output goes to (replaced).
        failure: the error's first words when the program fails.
        env: variables set on top of the present environment.
    Raises:
        CommandError: the program is missing or exits non-zero.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [str(part) for part in command]
    with log.open("w", encoding="utf-8") as out:
        out.write("$ " + " ".join(words) + "\n")
        out.flush()
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
            )
        except OSError as error:
            raise CommandError(f"{failure}: {error}", log) from error
        code = _wait(process, log, progress)
    if code:
        raise CommandError(f"{failure} (exit status {code})", log)


def _wait(process: subprocess.Popen, log: Path, progress: Progress) -> int:
    done = threading.Event()
    beat = threading.Thread(target=_heartbeat, args=(done, log, progress), daemon=True)
    beat.start()
    try:
        return process.wait()
    except BaseException:  # an interrupted command must not leave pip running behind it
        process.terminate()
        process.wait()
        raise
    finally:
        done.set()
        beat.join()


def _heartbeat(done: threading.Event, log: Path, progress: Progress) -> None:
    while not done.wait(HEARTBEAT_SECONDS):
        lines = last_lines(log, 1)
        progress.step("  ... " + (lines[0].strip()[:90] if lines else "working"))
