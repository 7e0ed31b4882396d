"""Writes workflows/*.jpg from the pictures the templates draw.

    python tests/make_thumbnails.py http://127.0.0.1:8188

needs a running ComfyUI with this pack and its demo models. The refiner's thumbnail shows what VAR
drew where no Stable Diffusion checkpoint is installed. A template that draws nothing for want of
models gets a card with its name instead of a picture.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmgen_core.commands.client import Client, Result, WorkflowError
from mmgen_core.commands.places import API_WORKFLOWS, ROOT

SIDE, INSET = 512, 150


def pictures(client: Client, result: Result, kind: str) -> list[Image.Image]:
    """Saved ("output") or previewed ("temp") pictures."""
    files = [f for f in result.files if f.kind == kind and f.filename.endswith(".png")]
    return [Image.open(io.BytesIO(client.download(file))).convert("RGB") for file in files]


def sheet(images: list[Image.Image]) -> Image.Image:
    """One picture in full, or four in a square."""
    columns = 2 if len(images) > 1 else 1
    side, page = SIDE // columns, Image.new("RGB", (SIDE, SIDE), "white")
    for i, image in enumerate(images[: columns**2]):
        scaled = image.resize((side, side), Image.Resampling.LANCZOS)
        page.paste(scaled, (i % columns * side, i // columns * side))
    return page


def with_inset(page: Image.Image, image: Image.Image) -> Image.Image:
    """A small picture in the lower left corner: what was there before."""
    small = image.resize((INSET, INSET), Image.Resampling.LANCZOS)
    framed = ImageOps.expand(small, 4, "#444")
    page.paste(framed, (12, SIDE - framed.height - 12))
    return page


def card(name: str) -> Image.Image:
    """The template's name in plain letters."""
    page = Image.new("RGB", (SIDE, SIDE), "#223")
    pen = ImageDraw.Draw(page)
    system, *words = name.replace("unified_io", "unified-io").split("_")
    for text, at, colour, size in (
        (system.upper(), (40, 150), "#fc6", 96),
        (" ".join(words), (40, 270), "white", 48),
    ):
        font = ImageFont.load_default(size)
        font = ImageFont.load_default(size * min(1, (SIDE - 80) / font.getlength(text)))
        pen.text(at, text, colour, font)
    pen.text((40, 440), "needs the public model files", "#99a", ImageFont.load_default(26))
    return page


def run(client: Client, prompt: dict) -> Result | None:
    """The prompt, or without the nodes that need a file nobody has; None if no node can run."""
    saving = [node for node, entry in prompt.items() if entry["class_type"] == "SaveImage"]
    rest = {k: v for k, v in prompt.items() if k not in saving}
    shows = any(entry["class_type"] == "PreviewImage" for entry in rest.values())
    for part in [prompt, rest] if shows else [prompt]:
        try:
            return client.run(part)
        except WorkflowError as error:
            if not error.missing_files:
                raise
    return None


def pictured(client: Client, result: Result, name: str) -> Image.Image:
    """What a template drew, with what it began from in a corner."""
    saved, shown = pictures(client, result, "output"), pictures(client, result, "temp")
    page = sheet(saved or shown)
    if saved and shown and name != "var_variation":
        page = with_inset(page, shown[0])
    return page


def main(address: str) -> None:
    client = Client(address)
    for path in sorted(API_WORKFLOWS.glob("*.json")):
        result = run(client, json.loads(path.read_text("utf-8")))
        page = card(path.stem) if result is None else pictured(client, result, path.stem)
        page.save(ROOT / "workflows" / f"{path.stem}.jpg", quality=88)


if __name__ == "__main__":
    main(sys.argv[1])
