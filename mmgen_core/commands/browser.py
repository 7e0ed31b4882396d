"""Finds (or, as root on Debian, installs) the browser that the browser tests drive."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from .console import CommandError, Progress
from .environment import apt_install, can_apt_install

PATH_NAMES = (
    "google-chrome",
    "google-chrome-stable",
    "chromium",
    "chromium-browser",
    "chrome",
    "microsoft-edge",
)
MAC_NAMES = ("Google Chrome", "Chromium", "Microsoft Edge")
WINDOWS_NAMES = (
    "Google/Chrome/Application/chrome.exe",
    "Chromium/Application/chrome.exe",
    "Microsoft/Edge/Application/msedge.exe",
)


def find_browser() -> Path | None:
    """An installed Chrome or Chromium (Edge is one too); MMGEN_BROWSER names another one."""
    return next((path for path in _candidates() if path.is_file()), None)


def ensure_browser(progress: Progress) -> Path | None:
    """`find_browser`, after installing Debian's chromium where that is possible."""
    found = find_browser()
    if found is None and can_apt_install():
        try:
            apt_install(["chromium"], progress)
        except CommandError as error:
            progress.step(f"browser: {error}; log: {error.log}")
        found = find_browser()
    progress.step(f"browser: {found or 'none found'}")
    return found


def _candidates() -> Iterator[Path]:
    if os.environ.get("MMGEN_BROWSER"):
        yield Path(os.environ["MMGEN_BROWSER"])
    for name in PATH_NAMES:
        found = shutil.which(name)
        if found:
            yield Path(found)
    if sys.platform == "darwin":
        for name in MAC_NAMES:
            for root in (Path("/Applications"), Path.home() / "Applications"):
                yield root / f"{name}.app" / "Contents" / "MacOS" / name
    if sys.platform == "win32":
        for variable in ("ProgramFiles", "ProgramFiles(x86)", "LocalAppData"):
            for name in WINDOWS_NAMES:
                yield Path(os.environ.get(variable, "C:/Program Files")) / name
