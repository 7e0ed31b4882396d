"""How well the demo Chameleon follows captions, and names what it sees.

A drawing counts as followed if the nearest of all core drawings, pixel by pixel, is of the
caption's motif; an answer counts if it has one of the motif's names.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.architecture import build
from ..checkpoints.files import read_checkpoint
from ..decoding.next_token import TokenSampling
from ..systems import identify
from ..systems.next_token import MultimodalPrompt, PictureWish
from .captions import CaptionedDrawing, captioned_drawings
from .chameleon import NAME

log = logging.getLogger(__name__)
CPU = torch.device("cpu")


class Judge:
    def __init__(self, file: Path, guidance: float, temperature: float):
        checkpoint = read_checkpoint(file)
        match = identify(checkpoint, "next-token model")
        self.model = build(match, checkpoint, dtype=torch.float32)
        self.system = match.architecture.system(match, checkpoint, [])
        tokenizer = identify(checkpoint, "image tokenizer")
        self.tokenizer = build(tokenizer, checkpoint, dtype=torch.float32)
        self.guidance, self.sampling = guidance, TokenSampling(temperature, 0, 0.9)

    @torch.inference_mode()
    def drawn(self, caption: str, seed: int) -> Tensor:
        """A picture [H, W, 3] in 0..1."""
        wish = PictureWish(seed=seed, guidance=self.guidance, sampling=self.sampling)
        parts = (self.model, self.tokenizer, MultimodalPrompt((caption,)), wish, CPU)
        return self.tokenizer.decode(self.system.draw(*parts))[0]

    @torch.inference_mode()
    def answer(self, picture: Tensor) -> str:
        prompt = MultimodalPrompt((picture, "what is this?"))
        asked = (self.model, self.tokenizer, prompt, TokenSampling(0.0), 24, 0, CPU)
        return self.system.answer(*asked, lambda *_: None)


def pixels_of(drawings: list[CaptionedDrawing]) -> Tensor:
    return torch.stack([torch.from_numpy(one.picture) for one in drawings]).float() / 255


def followed(judge: Judge, every: list[CaptionedDrawing], step: int) -> float:
    known, hits = pixels_of(every), 0
    asked = [one for one in every if not one.held_out][::step]
    for seed, one in enumerate(asked):
        picture = judge.drawn(one.captions[0], seed)
        nearest = int((known - picture).square().flatten(1).sum(1).argmin())
        hits += every[nearest].motif == one.motif
    return hits / len(asked)


def named(judge: Judge, drawings: list[CaptionedDrawing]) -> float:
    pictures = pixels_of(drawings)
    hits = sum(
        any(name in judge.answer(picture) for name in one.names)
        for one, picture in zip(drawings, pictures, strict=True)
    )
    return hits / len(drawings)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train chameleon_judge", description=__doc__)
    parser.add_argument("--out", default="models", help="where the model lies and the figures go")
    parser.add_argument("--cache", default=".cache/drawings")
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--step", type=int, default=5, help="of the drawings, look at one in these")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    out = Path(args.out)
    judge = Judge(out / f"{NAME}.safetensors", args.guidance, args.temperature)
    every = captioned_drawings(64, "core", "both", args.cache)
    learned = [one for one in every if not one.held_out]
    figures = {
        "captions_followed": followed(judge, every, args.step),
        "learned_drawings_named": named(judge, learned[:: args.step]),
        "held_out_drawings_named": named(judge, [one for one in every if one.held_out]),
        "arguments": vars(args),
    }
    log.info("%s", figures)
    (out / f"{NAME}.metrics.json").write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
