"""One set-up at a time: two pips in one environment spoil it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .console import Progress

if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int, wait: bool) -> None:
        msvcrt.locking(handle, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(handle: int, wait: bool) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def only_one(path: Path, progress: Progress) -> Iterator[None]:
    """Holds a lock file; waits for another process that holds it.

    The system frees it when its holder ends in whatever way, so it cannot be left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        _take(handle, progress)
        yield
    finally:
        os.close(handle)


def _take(handle: int, progress: Progress) -> None:
    try:
        _lock(handle, wait=False)
        return
    except OSError:
        progress.step("waiting for another mmgen command to finish its set-up")
    while True:
        try:
            _lock(handle, wait=True)
            return
        except OSError:  # Windows gives up after ten seconds
            continue
