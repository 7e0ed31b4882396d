"""How well the demo Show-o does: draws what it was asked, and names what it is shown.

    python -m mmgen_core train show_o_judge --sheet docs/show_o_sheet.jpg

A drawn picture is right if the training drawing nearest to it is the one whose name and style were
asked for; an answer is right if it is the drawing's own name and style, word for word.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..conditioners.show_o_writer import Question, ShowOWriter
from ..conditioners.text_writer import TextSettings
from ..decoding.masked import MaskedSampling
from ..image_tokens import ImageTokens
from ..models.show_o import ShowO
from ..systems.show_o_runs import Painting, canvas_of, paint
from ..tokenizers.lookup_free import LookupFreeTokenizer
from ..tokenizers.text import TextTokenizer, load_text_tokenizer
from . import loop
from .captions import CaptionedDrawing, captioned_drawings
from .models import load_model
from .show_o import FILE, GROUPS, QUESTIONS, answer_of

log = logging.getLogger(__name__)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train show_o_judge", description=__doc__)
    loop.add_run_arguments(parser)
    parser.add_argument("--model", default=f"models/{FILE}")
    parser.add_argument("--tokenizer", default="models/mmgen_demo_magvit.safetensors")
    parser.add_argument("--groups", default=GROUPS)
    parser.add_argument("--count", type=int, default=96, help="drawings asked for")
    parser.add_argument("--sampling-steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--temperature", type=float, default=1.5)
    parser.add_argument("--top-k", type=int, default=2)
    parser.add_argument("--sheet", help="also write the first 64 pictures here")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    device = loop.start(args)
    model, tokenizer = load_model(args.model, device), load_model(args.tokenizer, device)
    text = load_text_tokenizer(Path(args.model).with_suffix(".tokenizer.json"))
    core = captioned_drawings(64, "core", "train", args.cache)
    drawings = [one for one in core if one.group in args.groups.split(",")]
    chosen = drawings[:: max(1, len(drawings) // args.count)][: args.count]
    sampling = MaskedSampling(
        args.sampling_steps, args.guidance, temperature=args.temperature, top_k=args.top_k
    )
    pictures = drawn(model, tokenizer, text, chosen, sampling, device)
    right = nearest_is_asked(pictures, drawings, chosen)
    named = answers(model, tokenizer, text, chosen, device)
    metrics = {
        "asked": len(chosen),
        "nearest_is_asked": round(right, 3),
        "named": round(named, 3),
        "sampling": asdict(sampling),
    }
    log.info("%s", metrics)
    path = Path(args.model).with_suffix(".metrics.json")
    known = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(known | metrics, indent=1) + "\n", "utf-8")
    if args.sheet:
        sheet(pictures).save(args.sheet, quality=90)
    return 0


def drawn(
    model: ShowO,
    tokenizer: LookupFreeTokenizer,
    text: TextTokenizer,
    chosen: list[CaptionedDrawing],
    sampling: MaskedSampling,
    device: torch.device,
) -> Tensor:
    """One picture per drawing, [N, H, W, 3], of its full name and style; seed i for picture i."""
    tokens = []
    for i, one in enumerate(chosen):
        painting = Painting(sampling, seed=i)
        canvas = canvas_of(model, tokenizer, painting, None, None, None)
        ids = text.encode(one.captions[0])
        tokens.append(paint(model, tokenizer, ids, canvas, painting, device))
    return tokenizer.decode(ImageTokens.joined(tokens), device).cpu()


def nearest_is_asked(
    pictures: Tensor, drawings: list[CaptionedDrawing], chosen: list[CaptionedDrawing]
) -> float:
    known = torch.from_numpy(np.stack([one.picture for one in drawings])).float().flatten(1) / 255
    nearest = torch.cdist(pictures.flatten(1), known).argmin(1)
    hits = [drawings[i] is one for i, one in zip(nearest.tolist(), chosen, strict=True)]
    return sum(hits) / len(hits)


def answers(
    model: ShowO,
    tokenizer: LookupFreeTokenizer,
    text: TextTokenizer,
    chosen: list[CaptionedDrawing],
    device: torch.device,
) -> float:
    writer = ShowOWriter(model, text, tokenizer, None, device, FILE)
    settings, right = TextSettings(max_tokens=24, temperature=0.0), 0
    for one in chosen:
        picture = torch.from_numpy(one.picture).float() / 255
        said = writer.write(Question(QUESTIONS[0], picture, True), settings, lambda *_: None)
        right += said == answer_of(one).strip()
    return right / len(chosen)


def sheet(pictures: Tensor, columns: int = 16) -> Image.Image:
    rows = pictures[: 4 * columns].split(columns)
    joined = torch.cat([torch.cat(list(row), dim=1) for row in rows if len(row) == columns])
    return Image.fromarray((joined * 255).byte().numpy())


if __name__ == "__main__":
    raise SystemExit(main())
