"""Our virtual environment: made, filled with torch and the host's requirements, re-entrant."""

from __future__ import annotations

import ast
import os
import platform
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from . import stamps
from .console import CommandError, Progress, run_logged
from .places import LOGS, ROOT, VENV, venv_python

CPU_TORCH = "torch==2.13.0"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CUDA_INDEX = "https://download.pytorch.org/whl/cu130"
STAMPS = VENV / ".mmgen"
DEBIAN_VENV_HINT = "on Debian and Ubuntu: apt-get install python3-venv"


def ensure_venv(progress: Progress) -> Path:
    """Makes `.venv` unless a working one is there; returns its interpreter.

    A `.venv` that we did not make is used as it is. One that we began and never finished is made
    anew.
    """
    python, done, begun = venv_python(), STAMPS / "venv.json", STAMPS / "venv.begun"
    key = stamps.key_of("venv")
    ours = stamps.is_done(done, key) or not begun.exists()
    if ours and succeeds(python, "import sys, pip; sys.exit(sys.version_info < (3, 10))"):
        progress.step(f"Python environment {VENV}: ready")
        return python
    if VENV.exists() and not STAMPS.exists():
        raise CommandError(f"{VENV} is there but has no working Python 3.10 with pip; move it")
    progress.step(f"Python environment {VENV}: creating (Python {platform.python_version()})")
    shutil.rmtree(VENV, ignore_errors=True)
    stamps.mark_done(begun, key)
    _create_venv(progress)
    stamps.mark_done(done, key)
    return python


def _create_venv(progress: Progress) -> None:
    command = [sys.executable, "-m", "venv", str(VENV)]
    failure = "creating the Python environment failed"
    try:
        run_logged(command, LOGS / "venv.log", progress, failure)
    except CommandError:
        if not can_apt_install():
            raise CommandError(f"{failure}; {DEBIAN_VENV_HINT}", LOGS / "venv.log") from None
        apt_install(["python3-venv"], progress)
        run_logged(command, LOGS / "venv.log", progress, failure)


def ensure_torch(python: Path, progress: Progress) -> None:
    """Installs torch, torchvision and torchaudio together: a CPU build where no NVIDIA GPU is."""
    gpu = has_nvidia_gpu()
    torch, index = choose_torch(sys.platform, gpu)
    stamp, key = STAMPS / "torch.json", stamps.key_of(torch)
    kind = "NVIDIA GPU found" if gpu else "no NVIDIA GPU found"
    if stamps.is_done(stamp, key) and torch_version(python):
        progress.step(f"torch {torch_version(python)}: ready ({kind})")
        return
    progress.step(f"torch: installing {torch} ({kind}; the longest step)")
    sources = ["--extra-index-url", index] if index and _answers(f"{index}/torch/") else []
    stamps.forget(stamp)
    pip_install(python, [*sources, torch, "torchvision", "torchaudio"], "torch", progress)
    stamps.mark_done(stamp, key)


def choose_torch(system: str, gpu: bool) -> tuple[str, str | None]:
    """The torch requirement and a package index that holds the build for this machine.

    PyPI's builds are for CUDA on Linux, and for the CPU on Windows; the other ones are at
    download.pytorch.org (see ComfyUI's README). Where that index cannot be reached, pip's own
    configuration decides.
    """
    if gpu:
        return "torch", CUDA_INDEX if system == "win32" else None
    return CPU_TORCH, CPU_INDEX if system == "linux" else None


def has_nvidia_gpu() -> bool:
    """Whether NVIDIA's driver answers and lists a GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    try:
        result = subprocess.run([tool, "-L"], capture_output=True, timeout=30, text=True)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.returncode == 0 and "GPU" in result.stdout


def ensure_requirements(python: Path, comfyui: Path, progress: Progress) -> None:
    """Installs what ComfyUI's requirements.txt names."""
    requirements = comfyui / "requirements.txt"
    if not requirements.is_file():
        raise CommandError(f"{comfyui} is not a ComfyUI folder: it has no requirements.txt")
    text = requirements.read_text(encoding="utf-8")
    ensure_installed(python, "ComfyUI's requirements", ["-r", str(requirements)], text, progress)


def ensure_extras(python: Path, extras: Sequence[str], progress: Progress) -> None:
    """Installs optional dependency groups of pyproject.toml."""
    names = [name for extra in extras for name in read_extra(extra)]
    ensure_installed(python, f"packages for {' and '.join(extras)}", names, "", progress)


def read_extra(name: str) -> list[str]:
    """One list of [project.optional-dependencies]; Python 3.10 has no TOML reader."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(name)} = (\[.*?\])$", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise CommandError(f"pyproject.toml has no optional dependencies named {name!r}")
    return ast.literal_eval(found.group(1))


def ensure_installed(
    python: Path, what: str, arguments: Sequence[str], content: str, progress: Progress
) -> None:
    """One pip install, skipped when it was finished before with the same words and torch."""
    slug = re.sub(r"\W+", "-", what.lower()).strip("-")
    stamp = STAMPS / f"{slug}.json"
    key = stamps.key_of(content or list(arguments), torch_version(python))
    if stamps.is_done(stamp, key):
        progress.step(f"{what}: ready")
        return
    progress.step(f"{what}: installing")
    stamps.forget(stamp)
    pip_install(python, arguments, slug, progress)
    stamps.mark_done(stamp, key)


def pip_install(python: Path, arguments: Sequence[str], name: str, progress: Progress) -> None:
    """`pip install` with its output in a log of that name."""
    drop_half_installed(site_packages(python))
    command = [python, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    log = LOGS / f"{name}.log"
    run_logged([*command, *arguments], log, progress, f"installing {name} failed")


def drop_half_installed(packages: Path) -> None:
    """Forgets packages whose installation was interrupted; pip would take them for installed.

    pip writes INSTALLER after all of a wheel's own files.
    """
    for info in packages.glob("*.dist-info"):
        if not (info / "INSTALLER").is_file():
            shutil.rmtree(info)


def site_packages(python: Path) -> Path:
    """The folder that interpreter installs packages into."""
    command = [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


def succeeds(python: Path, code: str) -> bool:
    """Whether the interpreter exists and runs this code to its end with status 0."""
    if not python.is_file():
        return False
    try:
        command = [str(python), "-c", code]
        result = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL)
    except OSError:
        return False
    return result.returncode == 0


def torch_version(python: Path) -> str:
    """The version of the installed torch, read from its metadata (importing takes seconds)."""
    return package_version(python, "torch")


def package_version(python: Path, package: str) -> str:
    """A package's version in that interpreter's environment, or an empty string."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    result = subprocess.run([str(python), "-c", code], capture_output=True, text=True)
    return result.stdout.strip() if result.returncode == 0 else ""


def can_apt_install() -> bool:
    """Whether this is Debian and we are root."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    release = Path("/etc/os-release")
    return release.is_file() and "\nID=debian\n" in "\n" + release.read_text(encoding="utf-8")


def apt_install(packages: Sequence[str], progress: Progress) -> None:
    """Installs Debian packages; call only where `can_apt_install()`."""
    progress.step(f"Debian packages: installing {' '.join(packages)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["install", "-y", "--no-install-recommends", *packages]
    for words in (["update"], install):
        log, failure = LOGS / f"apt-{words[0]}.log", f"apt-get {words[0]} failed"
        run_logged(["apt-get", *words], log, progress, failure, quiet)


def _answers(address: str) -> bool:
    """Whether the index can be reached: pip would try an unreachable one for minutes."""
    try:
        with urllib.request.urlopen(address, timeout=10) as reply:
            return reply.status == 200
    except (OSError, ValueError):
        return False
