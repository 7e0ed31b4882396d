"""Honest numbers for the demo SEED tokenizer: does a drawing come back as the same thing?

Every drawing is encoded to its 32 tokens and drawn anew from them. Counted is how often the drawing
nearest to the result, by its latent, is the one that was encoded, or another style of it, or at
least of its group. Motifs that training never saw stand beside.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel
from PIL import Image
from torch import Tensor

from ..checkpoints import Checkpoint, read_checkpoint
from ..checkpoints.architecture import build
from ..systems import identify
from ..tokenizers.seed import SeedImageTokenizer
from .captions import CaptionedDrawing, captioned_drawings
from .seed_pictures import latents_of

log = logging.getLogger(__name__)

STEPS, GUIDANCE = 20, 3.0
TRAINED = ("prediction_type", "scaling_factor")


def load(folder: Path) -> tuple[SeedImageTokenizer, UNet2DConditionModel, dict]:
    file = read_checkpoint(folder / "mmgen_demo_seed.safetensors")
    parts = [
        build(identify(file, kind), file, dtype=torch.float32)
        for kind in ("SEED tokenizer", "vision transformer")
    ]
    drawer = read_checkpoint(folder / "mmgen_demo_seed_unet.safetensors")
    unet = UNet2DConditionModel(**{k: v for k, v in drawer.config.items() if k not in TRAINED})
    unet.load_state_dict({k: v.float() for k, v in drawer.tensors.items()})
    return SeedImageTokenizer(*parts, file.path.name), unet.eval(), drawer.config


@torch.inference_mode()
def redraw(unet: UNet2DConditionModel, config: dict, condition: Tensor, seed: int) -> Tensor:
    """Latents [B, C, h, w] by the solver that the templates use, guided away from zeros."""
    scheduler = DPMSolverMultistepScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=config["prediction_type"],
    )
    scheduler.set_timesteps(STEPS)
    generator = torch.Generator().manual_seed(seed)
    side, channels = config["sample_size"], config["in_channels"]
    x = torch.randn(len(condition), channels, side, side, generator=generator)
    both = torch.cat([torch.zeros_like(condition), condition])
    for step in scheduler.timesteps:
        without, given = unet(torch.cat([x, x]), step, both).sample.chunk(2)
        x = scheduler.step(without + GUIDANCE * (given - without), step, x).prev_sample
    return x / config["scaling_factor"]


def judged(
    found: Tensor, known: Tensor, asked: list[CaptionedDrawing], all_: list[CaptionedDrawing]
) -> dict[str, float]:
    """Shares of results whose nearest known drawing is the asked one, its motif, its group."""
    nearest = torch.cdist(found.flatten(1), known.flatten(1)).argmin(1).tolist()
    pairs = [(one, all_[i]) for one, i in zip(asked, nearest, strict=True)]
    return {
        "drawing": sum(a is b for a, b in pairs) / len(pairs),
        "motif": sum(a.motif == b.motif for a, b in pairs) / len(pairs),
        "group": sum(a.group == b.group for a, b in pairs) / len(pairs),
    }


def sheet(pictures_BHWC: Tensor, columns: int) -> Image.Image:
    rows = [torch.cat(list(row), dim=1) for row in pictures_BHWC.split(columns)]
    width = max(row.shape[1] for row in rows)
    rows = [torch.nn.functional.pad(r, (0, 0, 0, width - r.shape[1]), value=1.0) for r in rows]
    return Image.fromarray((torch.cat(rows) * 255).round().clamp(0, 255).byte().numpy())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train seed_judge", description=__doc__)
    parser.add_argument("--models", default="models")
    parser.add_argument("--vae", default="models/mmgen_demo_vae.safetensors")
    parser.add_argument("--cache", default=".cache/drawings")
    parser.add_argument("--groups", default="heart,shape")
    parser.add_argument("--sheet", help="where a picture of drawings and results goes")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    tokenizer, unet, config = load(Path(args.models))
    groups, results, shown = args.groups.split(","), {}, []
    every = captioned_drawings(64, "core", "both", args.cache)
    every = [drawing for drawing in every if drawing.group in groups]
    pictures = torch.from_numpy(np.stack([d.picture for d in every])).float() / 255
    known, _ = latents_of(pictures, args.vae)
    checkpoint: Checkpoint = read_checkpoint(args.vae)
    vae = build(identify(checkpoint, "image tokenizer"), checkpoint, dtype=torch.float32)
    for name, held in (("trained", False), ("held out", True)):
        rows = [i for i, drawing in enumerate(every) if drawing.held_out == held]
        tokens = tokenizer.encode(pictures[rows])
        with torch.inference_mode():
            found = redraw(unet, config, tokenizer.decode(tokens), seed=0)
        results[name] = judged(found, known, [every[i] for i in rows], every)
        results[name]["pictures"] = len(rows)
        results[name]["codes_used"] = len(tokens.ids[0].unique())
        shown += [torch.cat([pictures[rows[:24]], vae.decode_features(found[:24])])]
    log.info("%s", json.dumps(results, indent=1))
    if args.sheet:
        sheet(torch.cat(shown), 24).save(args.sheet)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
