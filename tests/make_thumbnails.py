"""Writes workflows/*.jpg from the pictures the templates draw.

    python tests/make_thumbnails.py http://127.0.0.1:8188

needs a running ComfyUI with this pack and its demo models. The refiner's thumbnail shows what VAR
drew where no Stable Diffusion checkpoint is installed.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

from PIL import Image, ImageOps

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


def run(client: Client, prompt: dict) -> Result:
    """The prompt, or without the nodes that need a file nobody has."""
    try:
        return client.run(prompt)
    except WorkflowError:
        saving = [node for node, entry in prompt.items() if entry["class_type"] == "SaveImage"]
        return client.run({k: v for k, v in prompt.items() if k not in saving})


def main(address: str) -> None:
    client = Client(address)
    for path in sorted(API_WORKFLOWS.glob("*.json")):
        result = run(client, json.loads(path.read_text("utf-8")))
        saved, shown = pictures(client, result, "output"), pictures(client, result, "temp")
        page = sheet(saved or shown)
        if saved and shown and path.stem != "var_variation":
            page = with_inset(page, shown[0])
        page.save(ROOT / "workflows" / f"{path.stem}.jpg", quality=88)


if __name__ == "__main__":
    main(sys.argv[1])
