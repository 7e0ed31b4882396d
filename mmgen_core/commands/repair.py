"""Repairs PyPI's torchvision and torchaudio beside a CPU-only torch, in our environment only.

Their binary parts are built for CUDA. Without it torchvision stops at
"operator torchvision::nms does not exist" and torchaudio at loading its libraries; ComfyUI needs
both, and transformers fails to import its models while a broken torchvision is installed.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from . import stamps
from .console import CommandError, Progress
from .environment import STAMPS, package_version, site_packages, torch_version
from .places import LOGS

HOOK_SOURCE = Path(__file__).with_name("torchvision_hook.py")
HOOK_MODULE = "mmgen_torchvision_hook"


def ensure_importable(python: Path, progress: Progress) -> None:
    """Checks that torchvision and torchaudio import, and repairs them where they do not.

    Args:
        python: the interpreter of our own environment, never a user's.
    Raises:
        CommandError: they do not import even after the repair.
    """
    stamp = STAMPS / "repair.json"
    versions = [package_version(python, name) for name in ("torchvision", "torchaudio")]
    key = stamps.key_of(torch_version(python), versions, HOOK_SOURCE.read_text(encoding="utf-8"))
    if stamps.is_done(stamp, key):
        progress.step("torchvision, torchaudio: ready")
        return
    progress.step("torchvision, torchaudio: checking")
    stamps.forget(stamp)
    remove_hook(python)
    if not imports(python, "torchvision"):
        progress.step("torchvision: its binary part needs CUDA; defining its operators instead")
        install_hook(python, versions[0])
    if not imports(python, "torchaudio"):
        progress.step("torchaudio: its binary part needs CUDA; removing that part")
        remove_torchaudio_libraries(python)
    for name in ("torchvision", "torchaudio"):
        if not imports(python, name, LOGS / "repair.log"):
            raise CommandError(f"{name} cannot be imported in {python}", LOGS / "repair.log")
    stamps.mark_done(stamp, key)


def imports(python: Path, module: str, log: Path | None = None) -> bool:
    """Whether a fresh process of that interpreter can import the module."""
    command = [str(python), "-c", f"import {module}"]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(result.stdout + result.stderr, encoding="utf-8")
    return result.returncode == 0


def install_hook(python: Path, torchvision_version: str) -> None:
    """Makes every process of the interpreter's environment prepare the import of torchvision."""
    packages = site_packages(python)
    shutil.copyfile(HOOK_SOURCE, packages / f"{HOOK_MODULE}.py")
    line = f"import {HOOK_MODULE}; {HOOK_MODULE}.install({torchvision_version!r})\n"
    (packages / f"{HOOK_MODULE}.pth").write_text(line, encoding="utf-8")


def remove_hook(python: Path) -> None:
    """Takes an earlier hook away, so that the check sees torchvision as it is."""
    for suffix in (".pth", ".py"):
        (site_packages(python) / f"{HOOK_MODULE}{suffix}").unlink(missing_ok=True)


def remove_torchaudio_libraries(python: Path) -> None:
    """Without its libraries torchaudio runs its plain Python parts, all that ComfyUI uses."""
    folder = site_packages(python) / "torchaudio" / "lib"
    for library in [*folder.glob("*.so"), *folder.glob("*.pyd")]:
        library.unlink()
