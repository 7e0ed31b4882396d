"""Honest numbers for the demo scale model: does a picture show its class, and is it a copy?

A small classifier learns the classes from the training drawings; its accuracy on held-out real
drawings stands beside its agreement with generated ones. The distance of every generated picture
to its nearest training drawing stands beside that of held-out drawings.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn

from ..conditioners.scale_prompt import ClassPrompt
from ..decoding.next_scale import ScaleSampling, generate
from . import loop
from .drawing_classes import NAMES, NO_CLASS, classes_of
from .drawings import load_drawings
from .models import load_model

log = logging.getLogger(__name__)


class Classifier(nn.Sequential):
    """Drawing [B, 3, H, W] in -1..1, looked at in half its size, to class logits."""

    def __init__(self, classes: int, width: int = 32) -> None:
        layers: list[nn.Module] = [nn.AvgPool2d(2)]
        for inner, outer in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(inner, outer, 3, 2, 1), nn.BatchNorm2d(outer), nn.SiLU()]
        layers += [nn.Conv2d(4 * width, 4 * width, 3, 1, 1), nn.BatchNorm2d(4 * width), nn.SiLU()]
        layers += [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.3)]
        super().__init__(*layers, nn.Linear(64 * width, classes))


def varied(picture: Tensor) -> Tensor:
    """The pictures, half of them mirrored, shifted and a little brighter or darker."""
    flip = torch.rand(len(picture), 1, 1, 1, device=picture.device) < 0.5
    picture = torch.where(flip, picture.flip(3), picture)
    dy, dx = torch.randint(-4, 5, (2,)).tolist()
    picture = F.pad(picture, (4, 4, 4, 4), value=1.0).roll((dy, dx), (2, 3))[..., 4:-4, 4:-4]
    return picture + 0.05 * torch.randn(len(picture), 3, 1, 1, device=picture.device)


def train_classifier(pictures: Tensor, classes: Tensor, steps: int) -> Classifier:
    """pictures [N, 3, H, W]; classes in 0..len(NAMES) - 1, drawn evenly."""
    model = Classifier(len(NAMES)).to(pictures.device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    weights = (1 / torch.bincount(classes, minlength=len(NAMES)).float().sqrt())[classes].cpu()
    for step in range(steps):
        loop.set_rate(optimiser, loop.one_cycle(step / steps, 2e-3))
        index = torch.multinomial(weights, 64, replacement=True).to(pictures.device)
        logits = model(varied(pictures[index]))
        loss = F.cross_entropy(logits, classes[index], label_smoothing=0.1)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return model.eval()


@torch.no_grad()
def agreement(model: Classifier, pictures: Tensor, classes: Tensor) -> dict[str, float]:
    """Share of pictures whose class is the classifier's first, and among its first five."""
    best = torch.cat([model(p).topk(5).indices for p in pictures.split(128)])
    hit = best == classes.unsqueeze(1)
    return {
        "pictures": len(classes),
        "top1": hit[:, 0].float().mean().item(),
        "top5": hit.any(1).float().mean().item(),
    }


def nearest_psnr(pictures: Tensor, training: Tensor) -> Tensor:
    """PSNR (dB) of each picture against the training drawing most like it, mirrored or not."""
    pool = torch.cat([training, training.flip(3)]).flatten(1) / 2
    length, best = pool.square().sum(1), []
    for rows in (pictures.flatten(1) / 2).split(64):
        square = rows.square().sum(1, keepdim=True) - 2 * rows @ pool.T + length
        best.append(square.min(1).values / pool.shape[1])
    return -10 * torch.log10(torch.cat(best).clamp(min=1e-6))


def draw(model, tokenizer, classes: list[int], seed: int, sampling: ScaleSampling) -> Tensor:
    """Pictures [N, 3, H, W] in -1..1, one per class."""
    drawn = []
    for start in range(0, len(classes), 32):
        rows = classes[start : start + 32]
        tokens = generate(model, tokenizer, ClassPrompt(rows), seed + start, sampling)
        drawn.append(tokenizer.decode(tokens, model.pos_start.device))
    return torch.cat(drawn).permute(0, 3, 1, 2) * 2 - 1


def contact_sheet(pictures: Tensor, names: list[str], each: int, columns: int = 4) -> Image.Image:
    """pictures [len(names) * each, 3, H, W], class by class, each row with its name."""
    side, label = pictures.shape[-1], 118
    pixels = ((pictures + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu()
    width, rows = label + each * side, -(-len(names) // columns)
    sheet = Image.new("RGB", (columns * width, rows * side), "white")
    text = ImageDraw.Draw(sheet)
    for i, name in enumerate(names):
        x, y = (i // rows) * width, (i % rows) * side
        text.text((x + 8, y + side // 2 - 6), name, fill="black")
        for j in range(each):
            picture = Image.fromarray(pixels[i * each + j].numpy())
            sheet.paste(picture, (x + label + j * side, y))
    return sheet


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train judge", description=__doc__)
    parser.add_argument("--tokenizer", default="models/mmgen_demo_vae.safetensors")
    parser.add_argument("--model", default="models/mmgen_demo_var.safetensors")
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--top-k", type=int, default=0)
    parser.add_argument("--top-p", type=float, default=0.6)
    parser.add_argument("--each", type=int, default=4, help="pictures per class")
    parser.add_argument("--classifier-steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cache", default=".cache/drawings")
    parser.add_argument("--sheet", default="docs/contact_sheet.png")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    device = loop.start(args)
    tokenizer, model = load_model(args.tokenizer, device), load_model(args.model, device)
    sampling = ScaleSampling(args.guidance, args.top_k, args.top_p)
    wanted = [c for c in range(len(NAMES)) for _ in range(args.each)]
    drawn = draw(model, tokenizer, wanted, args.seed, sampling)
    Path(args.sheet).parent.mkdir(parents=True, exist_ok=True)
    sheet = contact_sheet(drawn, list(NAMES), args.each)
    sheet.quantize(256).save(args.sheet, optimize=True)
    result = {"sampling": vars(sampling), "seed": args.seed}
    if args.classifier_steps:
        result |= judge(drawn, torch.tensor(wanted, device=device), tokenizer, args)
    log.info("%s", result)
    path = Path(args.model).with_suffix(".metrics.json")
    metrics = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**metrics, "judged": result}, indent=1) + "\n")
    return 0


def judge(drawn: Tensor, wanted: Tensor, tokenizer, args) -> dict:
    """Agreement of a classifier, and distance to the training drawings, beside real drawings'."""
    side = tokenizer.params.scales[-1] * tokenizer.stride
    drawings = load_drawings(side, args.cache)
    pictures = torch.from_numpy(drawings.pixels).permute(0, 3, 1, 2).to(drawn) / 127.5 - 1
    classes = torch.tensor(classes_of(drawings.motifs), device=drawn.device)
    held = torch.from_numpy(drawings.held_out).to(drawn.device)
    named = classes != NO_CLASS
    model = train_classifier(pictures[named & ~held], classes[named & ~held], args.classifier_steps)
    near, real = nearest_psnr(drawn, pictures[~held]), nearest_psnr(pictures[held], pictures[~held])
    return {
        "generated": agreement(model, drawn, wanted),
        "held_out_drawings": agreement(model, pictures[named & held], classes[named & held]),
        "nearest_training_drawing_psnr": {
            "generated_median": near.median().item(),
            "generated_above_25_db": (near > 25).float().mean().item(),
            "held_out_median": real.median().item(),
        },
    }


if __name__ == "__main__":
    raise SystemExit(main())
