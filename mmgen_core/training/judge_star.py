"""Honest numbers for the demo text-to-image model: is the prompted motif what it draws?

Every picture is looked up among the real drawings of the core, the held-out ones with them: the
share of prompts whose motif is among the five nearest drawings, for trained and for held-out
names, and whether the nearest is of the prompted style. Beside it stands the same for drawings
that only went through the tokenizer, and for no text at all.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from ..conditioners.scale_prompt import TextFeatures, TextPrompt
from ..decoding.next_scale import ScaleSampling, generate
from . import loop
from .captions import CaptionedDrawing, captioned_drawings
from .judge import nearest_psnr
from .models import load_model
from .star import TextEncoder

log = logging.getLogger(__name__)

AMONG = 5
SEARCH_SIDE = 16  # drawings are compared at this size: what is where, not every edge

# What a reader would try; then colours and things that no drawing joins.
SHOWN = (
    "red heart, noto style",
    "blue heart, fluent style",
    "green apple, noto style",
    "pizza, fluent style",
    "a cat in noto style",
    "panda, fluent style",
    "a fox in noto style",
    "penguin, noto style",
    "red car, noto style",
    "rocket, fluent style",
    "a sailboat in noto style",
    "rainbow, noto style",
    "crescent moon, fluent style",
    "sunflower, noto style",
    "christmas tree, fluent style",
    "smiling face with sunglasses, noto style",
    "a crying face in fluent style",
    "birthday cake, noto style",
    "cup of coffee, fluent style",
    "guitar, noto style",
)
COMBINED = (
    "green star, noto style",
    "purple apple, noto style",
    "green car, noto style",
    "pink cat, noto style",
    "red cloud, fluent style",
    "yellow rocket, fluent style",
    "green cat face, fluent style",
    "orange fish, noto style",
    "black rose, noto style",
    "blue pizza, fluent style",
)
HELD_OUT_SHOWN = (
    "house, noto style",
    "balloon, fluent style",
    "cookie, noto style",
    "umbrella, noto style",
    "eggplant, fluent style",
    "swan, noto style",
    "tractor, noto style",
    "worried face, noto style",
    "brain, fluent style",
    "four leaf clover, noto style",
)


@torch.inference_mode()
def draw(model, tokenizer, encoder: TextEncoder, texts: Sequence[str], seed: int, args) -> Tensor:
    """Pictures [N, 3, H, W] in -1..1, picture i with seed + i."""
    sampling = ScaleSampling(args.guidance, args.top_k, args.top_p)
    none = encoder.features([""])
    drawn = []
    for start in range(0, len(texts), 32):
        rows: TextFeatures = encoder.features(list(texts[start : start + 32]))
        count = len(rows.hidden)
        prompt = TextPrompt(rows, none, attended=2 * count if args.own_attention else None)
        tokens = generate(model, tokenizer, prompt, seed + start, sampling)
        drawn.append(tokenizer.decode(tokens, model.pos_start.device))
    return torch.cat(drawn).permute(0, 3, 1, 2) * 2 - 1


class Search:
    """Nearest real drawings of a picture."""

    def __init__(self, drawings: list[CaptionedDrawing], device: torch.device) -> None:
        self.drawings = drawings
        pixels = torch.stack([torch.from_numpy(one.picture) for one in drawings])
        self.pictures = pixels.permute(0, 3, 1, 2).to(device) / 127.5 - 1
        self.small = self.look(self.pictures)

    @staticmethod
    def look(pictures: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(pictures, SEARCH_SIDE).flatten(1)

    def nearest(self, pictures: Tensor) -> list[list[CaptionedDrawing]]:
        near = torch.cdist(self.look(pictures), self.small).topk(AMONG, largest=False).indices
        return [[self.drawings[i] for i in row] for row in near.tolist()]

    def found(self, pictures: Tensor, wanted: list[CaptionedDrawing]) -> dict[str, float]:
        """How often the wanted motif and style are the nearest's."""
        near = self.nearest(pictures)
        pairs = list(zip(near, wanted, strict=True))
        hits = [any(n.motif == w.motif for n in five) for five, w in pairs]
        return {
            "pictures": len(wanted),
            "motif_first": sum(five[0].motif == w.motif for five, w in pairs) / len(pairs),
            "motif_among_five": sum(hits) / len(pairs),
            "group_first": sum(five[0].group == w.group for five, w in pairs) / len(pairs),
            "style_of_nearest": sum(five[0].style == w.style for five, w in pairs) / len(pairs),
        }


def judge(model, tokenizer, encoder: TextEncoder, args, device: torch.device) -> dict:
    side = tokenizer.params.scales[-1] * tokenizer.stride
    trained = captioned_drawings(side, "core", "train", args.cache)
    held = captioned_drawings(side, "core", "held-out", args.cache)
    search = Search([*trained, *held], device)
    again = held * args.each
    pictures = draw(model, tokenizer, encoder, [o.captions[0] for o in trained], args.seed, args)
    new = draw(model, tokenizer, encoder, [o.captions[0] for o in again], args.seed, args)
    blind = draw(model, tokenizer, encoder, ["" for _ in again], args.seed, args)
    coded = tokenizer.encode((search.pictures.permute(0, 2, 3, 1) + 1) / 2, tokenizer.params.scales)
    coded = tokenizer.decode(coded, device).permute(0, 3, 1, 2) * 2 - 1
    near = nearest_psnr(pictures, search.pictures[: len(trained)])
    return {
        "trained_names": search.found(pictures, trained),
        "held_out_names": search.found(new, again),
        "held_out_without_text": search.found(blind, again),
        "real_through_the_tokenizer": search.found(coded, search.drawings),
        "nearest_training_drawing_psnr": {
            "median": near.median().item(),
            "above_25_db": (near > 25).float().mean().item(),
        },
    }


def sheet(parts: Sequence[tuple[str, Sequence[str], Tensor]], each: int) -> Image.Image:
    """Pictures [len(texts) * each, 3, H, W] of each part, with its heading, two texts a row."""
    side, label, columns = parts[0][2].shape[-1], 250, 2
    width = label + each * side
    heights = [24 + -(-len(texts) // columns) * side for _, texts, _ in parts]
    image = Image.new("RGB", (columns * width, sum(heights)), "white")
    pen, top = ImageDraw.Draw(image), 0
    for (heading, texts, pictures), height in zip(parts, heights, strict=True):
        pen.text((8, top + 6), heading, fill="#06c")
        pixels = ((pictures + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu()
        for i, text in enumerate(texts):
            x, y = (i % columns) * width, top + 24 + (i // columns) * side
            pen.text((x + 8, y + side // 2 - 6), text, fill="black")
            for j in range(each):
                picture = Image.fromarray(pixels[i * each + j].numpy())
                image.paste(picture, (x + label + j * side, y))
        top += height
    return image


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train judge_star", description=__doc__)
    parser.add_argument("--tokenizer", default="models/mmgen_demo_vae.safetensors")
    parser.add_argument("--text-encoder", default="models/mmgen_demo_text.safetensors")
    parser.add_argument("--model", default="models/mmgen_demo_star.safetensors")
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--top-k", type=int, default=0)
    parser.add_argument("--top-p", type=float, default=0.5)
    parser.add_argument("--own-attention", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--each", type=int, default=4, help="pictures per shown or held-out text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cache", default=".cache/drawings")
    parser.add_argument("--sheet", default="docs/star_contact_sheet.png")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    device = loop.start(args)
    tokenizer, model = load_model(args.tokenizer, device), load_model(args.model, device)
    encoder = TextEncoder.load(args.text_encoder, device)
    with torch.inference_mode():
        parts = []
        for heading, texts in (
            ("Drawings it was trained on", SHOWN),
            ("Names it never saw drawn", HELD_OUT_SHOWN),
            ("Colours and things that no drawing joins", COMBINED),
        ):
            rows = [text for text in texts for _ in range(args.each)]
            parts.append((heading, texts, draw(model, tokenizer, encoder, rows, args.seed, args)))
        Path(args.sheet).parent.mkdir(parents=True, exist_ok=True)
        sheet(parts, args.each).quantize(256).save(args.sheet, optimize=True)
        names = ("guidance", "top_k", "top_p", "own_attention", "seed")
        result = {name: getattr(args, name) for name in names}
        result |= judge(model, tokenizer, encoder, args, device)
    log.info("%s", result)
    path = Path(args.model).with_suffix(".metrics.json")
    metrics = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**metrics, "judged": result}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
