"""The demo models' pictures: two openly licensed emoji sets, fetched from npm and drawn with resvg.

`load_drawings` fetches each package once (`npm pack`), checks it against the digest pinned here,
draws every icon on white and keeps the result under the cache directory. Same versions, same
pixels, same split on every run.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import os
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

log = logging.getLogger(__name__)

HELD_OUT_PERCENT = 5
_TONE = re.compile(r"-(medium-light|medium-dark|light|medium|dark|tone[1-5])(?=-|$)")


class DrawingsError(RuntimeError):
    """The drawings cannot be had; the message says what to install or do."""


@dataclass(frozen=True)
class Package:
    """One npm package of drawings. `sha512` is npm's integrity digest, base64."""

    style: str
    name: str
    version: str
    sha512: str
    licence: str

    @property
    def file(self) -> str:
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


PACKAGES = (
    Package(
        "noto",
        "@iconify-json/noto",
        "1.2.9",
        "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        "Apache-2.0",
    ),
    Package(
        "fluent",
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        "MIT",
    ),
)


@dataclass(frozen=True)
class Drawings:
    """pixels uint8 [N, side, side, 3]; names and styles have N entries, in a fixed order."""

    pixels: np.ndarray
    names: list[str]
    styles: list[str]

    @property
    def motifs(self) -> list[str]:
        return [motif(name) for name in self.names]

    @property
    def held_out(self) -> np.ndarray:
        """bool [N]: True where the motif belongs to the held-out share."""
        return np.array([is_held_out(m) for m in self.motifs])


def motif(name: str) -> str:
    """The name without its skin tone: all tones of one motif fall on the same side of the split."""
    return _TONE.sub("", name).replace("-skin-tone", "")


def is_held_out(motif_name: str) -> bool:
    """True for about one motif in twenty; depends on nothing but the motif's name."""
    digest = hashlib.sha256(motif_name.encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


def load_drawings(side: int = 64, cache: str | Path = ".cache/drawings") -> Drawings:
    """Every drawing of both packages at side x side on white.

    Raises:
        DrawingsError: a package cannot be fetched or is not the pinned one, or resvg is absent.
    """
    cache = Path(cache)
    stored = cache / f"drawings_{side}_{_pins()}.npz"
    if not stored.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _store(stored, _draw_all(side, cache))
    with np.load(stored) as data:
        return Drawings(data["pixels"], data["names"].tolist(), data["styles"].tolist())


def _pins() -> str:
    return hashlib.sha256("".join(p.sha512 for p in PACKAGES).encode()).hexdigest()[:8]


def _store(path: Path, drawings: Drawings) -> None:
    part = path.with_suffix(".part.npz")
    np.savez_compressed(
        part,
        pixels=drawings.pixels,
        names=np.array(drawings.names),
        styles=np.array(drawings.styles),
    )
    os.replace(part, path)


def _draw_all(side: int, cache: Path) -> Drawings:
    pixels, names, styles = [], [], []
    for package in PACKAGES:
        icons = read_icons(fetch(package, cache))
        log.info("drawing %d icons of %s %s", len(icons), package.name, package.version)
        for name, svg in icons:
            pixels.append(draw(svg, side))
            names.append(name)
            styles.append(package.style)
    return Drawings(np.stack(pixels), names, styles)


def fetch(package: Package, cache: Path) -> Path:
    """The package's archive in the cache, fetched if absent, always checked."""
    path = cache / package.file
    if not path.exists():
        _npm_pack(package, cache)
    found = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if found != package.sha512:
        raise DrawingsError(
            f"{path} is not {package.name} {package.version}: sha512 {found[:16]}..., expected "
            f"{package.sha512[:16]}... Delete the file and run again."
        )
    return path


def _npm_pack(package: Package, cache: Path) -> None:
    spec = f"{package.name}@{package.version}"
    by_hand = f"install Node.js, or run `npm pack {spec}` elsewhere and put the file into {cache}"
    if shutil.which("npm") is None:
        raise DrawingsError(f"npm was not found, and it is needed to fetch {spec}: {by_hand}.")
    done = subprocess.run(
        [shutil.which("npm"), "pack", spec], cwd=cache, capture_output=True, text=True, check=False
    )
    if done.returncode or not (cache / package.file).exists():
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise DrawingsError(f"`npm pack {spec}` failed: {last[0]}. To go on, {by_hand}.")


def read_icons(archive: Path) -> list[tuple[str, str]]:
    """(name, svg text) of every icon in an Iconify JSON package, in name order."""
    with tarfile.open(archive) as tar:
        icons = json.load(tar.extractfile("package/icons.json"))
    default = {"width": icons.get("width", 16), "height": icons.get("height", 16)}
    drawn = []
    for name, icon in sorted(icons["icons"].items()):
        box = {**default, "left": 0, "top": 0, **icon}
        view = f"{box['left']} {box['top']} {box['width']} {box['height']}"
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}"'
        head += f' width="{box["width"]}" height="{box["height"]}"'
        head += ' xmlns:xlink="http://www.w3.org/1999/xlink">'
        drawn.append((name, f"{head}{box['body']}</svg>"))
    return drawn


def draw(svg: str, side: int) -> np.ndarray:
    """The svg as uint8 [side, side, 3] on white."""
    try:
        import resvg_py
    except ImportError as error:
        raise DrawingsError("resvg-py draws the icons: `pip install resvg-py`.") from error
    png = resvg_py.svg_to_bytes(
        svg_string=svg, width=side, height=side, background="#ffffff", skip_system_fonts=True
    )
    picture = Image.open(io.BytesIO(bytes(png))).convert("RGB")
    if picture.size != (side, side):
        picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(picture)
